"""Codes of a generator: seeded samples of z, the distribution of w, and the distance of a code from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.precision import seed_of
from interface_gan.model import Generator

BLOCK = 1024  # rows that share a random generator
STREAM = -2  # rank argument of `seed_of`; no training step uses this random stream
STATS_NUM, STATS_SEED = 10_000, 7
SLOPE = 5.0  # inverts the mapping network's last leaky ReLU, whose slope is 0.2


def draw_z(num: int, dim: int, seed: int, start: int = 0) -> Tensor:
    """Rows start .. start + num of an infinite table of N(0, 1): (num, dim). Row i depends on (seed, i) only."""
    blocks = []
    for block in range(start // BLOCK, -(-(start + num) // BLOCK)):
        generator = torch.Generator().manual_seed(seed_of(seed, STREAM, block))
        blocks.append(torch.randn(BLOCK, dim, generator=generator))
    first = start % BLOCK
    return torch.cat(blocks)[first : first + num] if blocks else torch.zeros(0, dim)


@torch.no_grad()
def map_z(generator: Generator, z: Tensor, batch_size: int = 4096) -> Tensor:
    """Map z (N, Z) to w (N, Z), on the CPU."""
    device = generator.mapping.w_avg.device
    return torch.cat([generator.mapping(part.to(device)).cpu() for part in z.split(batch_size)])


@torch.no_grad()
def images_of(generator: Generator, ws: Tensor, batch_size: int = 256) -> Tensor:
    """Images (N, C, H, H) of ws (N, L, Z), in [-1, 1] with 256 levels as in a file, on the CPU.

    The noise is constant, so a code has one image.
    """
    device = generator.mapping.w_avg.device
    parts = [generator.synthesis(part.to(device)).clamp(-1, 1).cpu() for part in ws.split(batch_size)]
    return ((torch.cat(parts) + 1) * 127.5).round() / 127.5 - 1


@dataclass(frozen=True)
class Stats:
    """The distribution of w: mean (Z,) and covariance (Z, Z) in float64, and the same for p.

    p is w before the last leaky ReLU. It is nearly Gaussian, and w is not, so distances are measured in p ("Improved
    StyleGAN Embedding", https://arxiv.org/abs/2012.09036, section 3).
    """

    mean: Tensor
    cov: Tensor
    p_mean: Tensor
    p_cov: Tensor

    @classmethod
    def of_codes(cls, w: Tensor) -> Stats:
        """Compute them from codes (N, Z)."""
        moments = []
        for codes in (w.double(), before_relu(w.double())):
            moments += [codes.mean(0), torch.cov(codes.T)]
        return cls(*moments)

    @classmethod
    def of(cls, generator: Generator, num: int = STATS_NUM, seed: int = STATS_SEED) -> Stats:
        """Compute them from `num` samples of a generator."""
        dim = len(generator.mapping.w_avg)
        return cls.of_codes(map_z(generator, draw_z(num, dim, seed)))

    def typicality(self, ws: Tensor) -> Tensor:
        """Squared Mahalanobis distance of ws (N, L, Z) in p, divided by Z; mean over layers (N,). Samples: about 1."""
        return self.distance(ws).mean(1)

    def distance(self, ws: Tensor) -> Tensor:
        """The same for each layer, (..., Z) -> (...), with gradient."""
        d = len(self.p_mean)
        cov = self.p_cov + 1e-4 * self.p_cov.diagonal().mean() * torch.eye(d, dtype=torch.float64)
        whiten = torch.linalg.inv(torch.linalg.cholesky(cov)).to(ws)  # (Z, Z)
        return ((before_relu(ws) - self.p_mean.to(ws)) @ whiten.T).square().mean(-1)


def before_relu(w: Tensor) -> Tensor:
    """The input of the mapping network's last leaky ReLU, up to a constant factor."""
    return F.leaky_relu(w, SLOPE)
