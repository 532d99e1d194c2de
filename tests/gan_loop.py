"""A generator with known ground truth: images are linear in w, and a guide predicts attributes by known hyperplanes.

So everything between codes and edits is tested without training: scores, boundaries, steps, projection.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, normalize

SIDE, LATENT, LAYERS = 8, 16, 4
NAMES = ["Smiling", "Male", "Young", "Eyeglasses", "Bald"]
SHIFT = torch.tensor([0.0, 0.3, -0.5, 0.8, 6.0])  # of the readings, in standard deviations: nobody is bald


class LinearGenerator(nn.Module):
    """z -> w by a random leaky ReLU network; x = basis . mean_l w_l, so that each layer moves the picture alike."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        draw = lambda *size: torch.randn(*size, generator=g)  # noqa: E731
        self.num_ws = LAYERS
        self.mapping = Mapping([draw(LATENT, LATENT) / LATENT**0.5 for _ in range(2)], draw)
        self.register_buffer("basis", torch.linalg.qr(draw(3 * SIDE * SIDE, LATENT))[0] * 1.5)

    def broadcast(self, w: Tensor, psi: float = 1.0) -> Tensor:
        return w[:, None].expand(-1, LAYERS, -1)

    def synthesis(self, ws: Tensor, noise: str = "const") -> Tensor:
        return (ws.mean(1) @ self.basis.T).view(-1, 3, SIDE, SIDE)


class Mapping(nn.Module):
    def __init__(self, weights: list[Tensor], draw) -> None:
        super().__init__()
        self.register_buffer("w_avg", torch.zeros(LATENT))
        self.weights = weights
        spectrum = torch.logspace(0, -1, LATENT)  # far from round
        self.turn = torch.linalg.qr(draw(LATENT, LATENT))[0] * spectrum[:, None]

    def forward(self, z: Tensor) -> Tensor:
        for weight in self.weights:
            z = leaky_relu(z @ weight, 0.2)
        return z @ self.turn


class TrueGuide:
    """Reads w off the picture and gives 3 (n . w / std - shift) of each name; the first two readings correlate."""

    def __init__(self, generator: LinearGenerator, classes: tuple[str, ...] = ()) -> None:
        w = generator.mapping(torch.randn(20_000, LATENT, generator=torch.Generator().manual_seed(5)))
        self.cov, self.mean = torch.cov(w.T.double()), w.mean(0)
        units = torch.linalg.qr(torch.randn(LATENT, 5, generator=torch.Generator().manual_seed(6)).double())[0].T
        units[1] = 0.6 * units[0] + 0.8 * units[1]
        raw = units @ torch.linalg.inv(torch.linalg.cholesky(self.cov))  # readings of unit variance
        self.scale, self.normal = raw.norm(dim=1), normalize(raw, dim=1)
        self.inverse = torch.linalg.pinv(generator.basis.double())
        self.names, self.classes, self.attributes = list(classes) or NAMES, list(classes), NAMES
        self.device, self.role = torch.device("cpu"), "guide"
        self.origin = SimpleNamespace(run="runs/guide", step=1, sha256="guide")

    def readings(self, x: Tensor) -> Tensor:
        """(N, 5), in standard deviations."""
        w = x.flatten(1).double() @ self.inverse.T - self.mean
        return (w @ self.normal.T) * self.scale - SHIFT

    def __call__(self, x: Tensor) -> Tensor:
        return (3 * self.readings(x)).float()

    def maps(self, x: Tensor) -> list[Tensor]:
        return [x, nn.functional.avg_pool2d(x, 2)]


class Faces:
    """A training set of the generator's own pictures."""

    def __init__(self, generator: LinearGenerator, num: int = 512) -> None:
        z = torch.randn(num, LATENT, generator=torch.Generator().manual_seed(8))
        self.images = generator.synthesis(generator.broadcast(generator.mapping(z))).clamp(-1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows, device="cpu") -> dict[str, Tensor]:
        return {"image": self.images[torch.as_tensor(rows)]}
