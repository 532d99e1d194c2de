"""Networks of the four systems. N images, A attributes in {-1, 0, +1} (0 = unknown), codes of size Z, width w.

Comments at line ends give shapes for 32 px. Images are in [-1, 1]. All outputs are float32. The critic has no
normalization layers, because gradient penalties need a separate gradient for each sample.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import UserError

GROUPS = 8
HIDDEN = 256  # units of a critic's last layer
MAX_LOGVAR = 10.0  # log-variances are clamped to -10 .. 10


def num_stages(image_size: int) -> int:
    """The number of doublings from 4 px to the image size: 3 for 32 px."""
    stages = int(math.log2(image_size)) - 2
    if image_size != 4 * 2**stages or stages < 1:
        raise UserError(f"data.image_size: expected 32, 64, 128 or 256, got {image_size}")
    return stages


def channels_of(image_size: int, width: int) -> list[int]:
    """Channels of the stages from full resolution to 4 px: w, 2w, 4w, 4w, ..."""
    return [width * min(4, 2**i) for i in range(num_stages(image_size) + 1)]


class ConditionalNorm(nn.Module):
    """GroupNorm with a scale and a shift that are linear in the condition y: (1 + g y) h + b y, initially g = b = 0.

    Because it is linear, requests between two others are possible. Without conditions it is an ordinary GroupNorm.
    """

    def __init__(self, channels: int, num_conditions: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, affine=num_conditions == 0)
        self.gain = nn.Linear(num_conditions, 2 * channels, bias=False) if num_conditions else None
        if self.gain is not None:
            nn.init.zeros_(self.gain.weight)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        """h (N, C, H, W), y (N, K)."""
        h = self.norm(h)
        if self.gain is None:
            return h
        scale, shift = self.gain(y)[:, :, None, None].chunk(2, 1)
        return (1 + scale) * h + shift


class Generator(nn.Module):
    """(z (N, Z), a (N, A)) -> x (N, C, H, H): the CGAN's generator, and the decoder of stage 1."""

    def __init__(self, channels: int, image_size: int, num_attributes: int, width: int, latent_dim: int) -> None:
        super().__init__()
        widths = channels_of(image_size, width)[::-1]  # coarse to fine
        self.inp = nn.Linear(latent_dim + num_attributes, widths[0] * 16)
        self.norm = ConditionalNorm(widths[0], num_attributes)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.convs = nn.ModuleList([nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in pairs])
        self.norms = nn.ModuleList([ConditionalNorm(after, num_attributes) for _, after in pairs])
        self.out = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        h = self.inp(torch.cat([z, a], 1)).unflatten(1, (-1, 4, 4))  # (N, 4w, 4, 4)
        h = F.silu(self.norm(h, a))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.silu(norm(conv(F.interpolate(h, scale_factor=2)), a))  # (N, 4w, 8, 8) ... (N, w, 32, 32)
        return torch.tanh(self.out(h).float())  # (N, C, 32, 32)


def trunk(channels: int, image_size: int, width: int) -> nn.Sequential:
    """(N, C, H, H) -> (N, 256): convolutions of stride 2, without normalization."""
    widths = channels_of(image_size, width)[:-1]  # w, 2w, 4w at 16, 8, 4 px
    layers: list[nn.Module] = []
    for before, after in zip([channels, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, HIDDEN), nn.LeakyReLU(0.2))


class Critic(nn.Module):
    """(x, a) -> score (N,): psi(h) + <V a, h> / sqrt(dim h), h = phi(x, a as planes).

    Planes: "Conditional Generative Adversarial Nets"; projection: "cGANs with Projection Discriminator".
    """

    mixes_samples = False  # each score depends on its own image only

    def __init__(self, channels: int, image_size: int, num_attributes: int, width: int) -> None:
        super().__init__()
        self.trunk = trunk(channels + num_attributes, image_size, 2 * width)
        self.score = nn.Linear(HIDDEN, 1)
        self.project = nn.Linear(num_attributes, HIDDEN, bias=False)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        h = self.trunk(with_planes(x, a))  # (N, 256)
        return self.score(h)[:, 0].float() + (self.project(a) * h).sum(1).float() / math.sqrt(HIDDEN)


def with_planes(x: Tensor, a: Tensor) -> Tensor:
    """x (N, C, H, W) with a (N, A) appended as constant channels: (N, C + A, H, W)."""
    return torch.cat([x, a[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)


class SketchEncoder(nn.Module):
    """(s (N, 1, H, H), a (N, A)) -> mu, logvar (N, Z) each: q(z | s, a).

    relu_heads: apply a ReLU to both, as Di & Patel do (so sigma is at least 1).
    """

    def __init__(
        self, image_size: int, num_attributes: int, width: int, latent_dim: int, relu_heads: bool = False
    ) -> None:
        super().__init__()
        self.trunk = trunk(1, image_size, 2 * width)
        self.join = nn.Linear(HIDDEN + num_attributes, 512)
        self.heads = nn.Linear(512, 2 * latent_dim)
        self.relu_heads = relu_heads

    def forward(self, s: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        h = F.leaky_relu(self.join(torch.cat([self.trunk(s), a], 1)), 0.2)
        return gaussian_heads(self.heads(h), self.relu_heads)


def gaussian_heads(h: Tensor, relu: bool = False) -> tuple[Tensor, Tensor]:
    """(N, 2Z) -> mu, logvar (N, Z) each."""
    h = F.relu(h) if relu else h
    mu, logvar = h.float().chunk(2, 1)
    return mu, logvar.clamp(-MAX_LOGVAR, MAX_LOGVAR)


class Prior(nn.Module):
    """a (N, A) -> mu, logvar (N, Z) of p(z | a). It is N(0, I) at the start, and stays so unless `learned`."""

    def __init__(self, num_attributes: int, latent_dim: int, learned: bool) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.net = None
        if learned:
            self.net = nn.Sequential(nn.Linear(num_attributes, 128), nn.SiLU(), nn.Linear(128, 2 * latent_dim))
            nn.init.zeros_(self.net[2].weight)
            nn.init.zeros_(self.net[2].bias)

    def forward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        if self.net is None:
            zeros = a.new_zeros(len(a), self.latent_dim, dtype=torch.float32)
            return zeros, zeros
        return gaussian_heads(self.net(a))


class NoiseEncoder(nn.Module):
    """(noise (N, Z), a (N, A)) -> mu, logvar (N, Z) each: Di & Patel's q(z | noise, a), with ReLU heads."""

    def __init__(self, num_attributes: int, latent_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(latent_dim + num_attributes, 512), nn.LeakyReLU(0.2),
                                 nn.Linear(512, 2 * latent_dim))  # fmt: skip

    def forward(self, n: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian_heads(self.net(torch.cat([n, a], 1)), relu=True)


class UNet(nn.Module):
    """(s (N, 1, H, H), y (N, K)) -> x (N, C, H, H). y: attributes, then the colour code if there is one.

    residual: x = tanh(2 s + network). Stage 2 uses it, so it starts from the input sketch instead of white paper.
    """

    def __init__(self, channels: int, image_size: int, num_conditions: int, width: int, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        widths = channels_of(image_size, width)  # fine to coarse: w, 2w, 4w, 4w at 32, 16, 8, 4 px
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.inp = nn.Conv2d(1, widths[0], 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(fine, coarse, 4, 2, 1, bias=False) for fine, coarse in pairs])
        self.down_norms = nn.ModuleList([ConditionalNorm(coarse, num_conditions) for _, coarse in pairs])
        self.up = nn.ModuleList([nn.Conv2d(coarse + fine, fine, 3, padding=1, bias=False) for fine, coarse in pairs])
        self.up_norms = nn.ModuleList([ConditionalNorm(fine, num_conditions) for fine, _ in pairs])
        self.out = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, s: Tensor, y: Tensor) -> Tensor:
        h = F.silu(self.inp(s))  # (N, w, 32, 32)
        skips = []
        for conv, norm in zip(self.down, self.down_norms, strict=True):
            skips.append(h)
            h = F.silu(norm(conv(h), y))  # (N, 2w, 16, 16) ... (N, 4w, 4, 4)
        for conv, norm, skip in reversed(list(zip(self.up, self.up_norms, skips, strict=True))):
            h = torch.cat([F.interpolate(h, scale_factor=2), skip], 1)
            h = F.silu(norm(conv(h), y))  # (N, 4w, 8, 8) ... (N, w, 32, 32)
        h = self.out(h).float()  # (N, C, 32, 32)
        return torch.tanh(h + 2 * s if self.residual else h)


class PhotoEncoder(nn.Module):
    """x (N, C, H, H) -> mu, logvar (N, colour_dim) of the colour code, for what a sketch does not show.

    It ends in a mean over all positions, so it can encode hues and light, but no shapes.
    """

    def __init__(self, channels: int, width: int, colour_dim: int) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 2 * colour_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian_heads(self.net(x))
