"""Networks: encoder E, conditional generator G, image critic D_x, latent critic D_z.

A condition y (N, K) is a one-hot class, a mixture of classes, or attributes in {-1, +1}. Shapes at the line ends are
for 48 px, one channel, width w, code size Z. Every output is float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aae_cgan.config import ModelConfig
from aae_cgan.linear import LinearPath
from engine import UserError

GROUPS = 8
HIDDEN = 256  # units of the critics' last layers


class ConditionalNorm(nn.Module):
    """Conditional GroupNorm or BatchNorm: (1 + A y) h + B y, with A = B = 0 at first.

    Linear in y, so a condition may be mixed or extrapolated. With `num_conditions` 0 it is the plain layer.
    """

    def __init__(self, channels: int, norm: str, num_conditions: int = 0) -> None:
        super().__init__()
        affine = num_conditions == 0
        self.norm = nn.GroupNorm(GROUPS, channels, affine=affine) if norm == "group" else nn.BatchNorm2d(
            channels, affine=affine
        )  # fmt: skip
        if num_conditions:
            self.scale, self.shift = (nn.Linear(num_conditions, channels, bias=False) for _ in range(2))
            nn.init.zeros_(self.scale.weight)
            nn.init.zeros_(self.shift.weight)
        self.conditional = bool(num_conditions)

    def forward(self, h: Tensor, y: Tensor | None = None) -> Tensor:
        """h (N, C, H, W), y (N, K)."""
        h = self.norm(h)
        if not self.conditional:
            return h
        return (1 + self.scale(y))[:, :, None, None] * h + self.shift(y)[:, :, None, None]


class Encoder(nn.Module):
    """x (N, C, H, H) -> z (N, Z), deterministic: the PCA code plus the network's output."""

    def __init__(self, channels: int, image_size: int, cfg: ModelConfig, linear: LinearPath | None) -> None:
        super().__init__()
        widths, last = stages(image_size, cfg.width)
        self.linear = linear
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for i, (before, after) in enumerate(zip([channels, *widths], widths, strict=False)):
            self.convs.append(nn.Conv2d(before, after, 4, 2, 1))
            self.norms.append(ConditionalNorm(after, cfg.norm) if i else nn.Identity())
        self.out = nn.Linear(widths[-1] * last**2, cfg.latent_dim)
        if linear is not None:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.leaky_relu(norm(conv(h)), 0.2)  # (N, w, 24, 24) ... (N, 8w, 3, 3)
        z = self.out(h.flatten(1)).float()  # (N, Z)
        return z if self.linear is None else z + self.linear.encode(x)


class Generator(nn.Module):
    """(z (N, Z), y (N, K)) -> x (N, C, H, H).

    With a linear path: decode(z + shift(y)) + tanh(network). The sum may leave [-1, 1] slightly, so images and metrics
    clamp it. The tanh bounds what the network can add. Without: tanh(network).
    """

    def __init__(
        self, channels: int, image_size: int, num_conditions: int, cfg: ModelConfig, linear: LinearPath | None
    ) -> None:
        super().__init__()
        widths, self.first = stages(image_size, cfg.width)
        concat = cfg.condition_g == "concat"
        conditions = 0 if concat else num_conditions
        self.concat, self.linear = concat, linear
        self.inp = nn.Linear(cfg.latent_dim + (num_conditions if concat else 0), widths[-1] * self.first**2)
        self.norms = nn.ModuleList([ConditionalNorm(widths[-1], cfg.norm, conditions)])
        self.convs = nn.ModuleList()
        outputs = [*reversed(widths[:-1]), widths[0]]
        linear_channels = channels if linear is not None else 0  # the PCA image is an extra input of each stage
        for before, after in zip([widths[-1], *outputs], outputs, strict=False):
            self.convs.append(nn.ConvTranspose2d(before + linear_channels, after, 4, 2, 1, bias=False))
            self.norms.append(ConditionalNorm(after, cfg.norm, conditions))
        if linear is not None:
            self.convs.append(nn.Conv2d(outputs[-1] + linear_channels, outputs[-1], 3, padding=1, bias=False))
            self.norms.append(ConditionalNorm(outputs[-1], cfg.norm, conditions))
        self.out = nn.Conv2d(outputs[-1], channels, 3, padding=1)
        if linear is not None:
            self.shift = nn.Linear(num_conditions, cfg.latent_dim, bias=False)
            for weight in (self.shift.weight, self.out.weight, self.out.bias):
                nn.init.zeros_(weight)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.inp(torch.cat([z, y], 1) if self.concat else z)  # (N, 8w 9)
        h = F.relu(self.norms[0](h.unflatten(1, (-1, self.first, self.first)), y))  # (N, 8w, 3, 3)
        base = None if self.linear is None else self.linear.decode(z + self.shift(y).float())  # (N, 1, 48, 48)
        for conv, norm in zip(self.convs, self.norms[1:], strict=True):
            if base is not None:
                h = torch.cat([h, F.adaptive_avg_pool2d(base, h.shape[2:])], 1)
            h = F.relu(norm(conv(h), y))  # (N, 4w, 6, 6) ... (N, w, 48, 48)
        x = torch.tanh(self.out(h).float())  # (N, 1, 48, 48)
        return x if base is None else x + base


class ImageCritic(nn.Module):
    """(x, y) -> score (N,), high if x is a real face with the label y.

    planes: y as additional constant channels. projection: psi(h) + <V y, h>, https://arxiv.org/abs/1802.05637. both:
    planes and projection. late: y joined to h before the last layer, which a gradient penalty makes ineffective (for
    comparison). `class_logits` (N, K) has its own trunk, so that classifier and critic share no features.
    """

    def __init__(self, channels: int, image_size: int, num_conditions: int, cfg: ModelConfig, head: bool) -> None:
        super().__init__()
        kind = cfg.condition_d
        self.planes, self.late = kind in ("both", "planes"), kind == "late"
        self.trunk = trunk(channels + (num_conditions if self.planes else 0), image_size, cfg.width)
        self.project = nn.Linear(num_conditions, HIDDEN, bias=False) if kind in ("both", "projection") else None
        if self.late:
            self.join = nn.Linear(HIDDEN + num_conditions, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)
        if head:
            self.head = nn.Sequential(*trunk(channels, image_size, cfg.width), nn.Linear(HIDDEN, num_conditions))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.planes:
            x = torch.cat([x, y[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)  # (N, 1 + K, 48, 48)
        h = self.trunk(x)  # (N, 256)
        if self.late:
            h = F.leaky_relu(self.join(torch.cat([h, y], 1)), 0.2)
        score = self.score(h)[:, 0].float()
        return score if self.project is None else score + (self.project(y) * h).sum(1).float()

    def class_logits(self, x: Tensor) -> Tensor:
        """Logits of the class head, (N, K)."""
        return self.head(x).float()


class LatentCritic(nn.Module):
    """z (N, Z) -> score (N,): is z a sample of N(0, I)?"""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(latent_dim, HIDDEN), nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN, 1),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)[:, 0].float()


def stages(image_size: int, width: int) -> tuple[list[int], int]:
    """Channels of the stages that halve the side, from fine to coarse, and the last side: 4, or 3 for 48 and 96 px."""
    count = max(n for n in range(9) if image_size % 2**n == 0)
    while image_size >> count < 3:
        count -= 1
    last = image_size >> count
    if last not in (3, 4):
        raise UserError(f"data.image_size: expected 32, 48, 64, 96, 128, 192 or 256, got {image_size}")
    return [min(width * 2**i, 8 * width) for i in range(count)], last


def trunk(channels: int, image_size: int, width: int) -> nn.Sequential:
    """(N, C, H, H) -> (N, 256), without normalization: gradient penalties need separate gradients of samples."""
    widths, last = stages(image_size, width)
    layers: list[nn.Module] = []
    for before, after in zip([channels, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * last**2, HIDDEN), nn.LeakyReLU(0.2))


def refuse_batch_norm(**critics: nn.Module) -> None:
    """Raise UserError if a critic has a BatchNorm: it mixes samples, so a per-sample gradient penalty is invalid."""
    for name, critic in critics.items():
        for place, layer in critic.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                raise UserError(f"{name}.{place}: a critic with BatchNorm mixes samples, so penalties fail; remove it")
