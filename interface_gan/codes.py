"""Codes of a generator: seeded draws of z, the distribution of w, and how far a code lies from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.precision import seed_of
from interface_gan.model import Generator

BLOCK = 1024  # rows that share a random generator
STREAM = -2  # of `seed_of`: no training step draws from it
STATS_NUM, STATS_SEED = 10_000, 7
SLOPE = 5.0  # undoes the mapping network's last leaky ReLU of slope 0.2


def draw_z(num: int, dim: int, seed: int, start: int = 0) -> Tensor:
    """Rows start .. start + num of an endless table of N(0, 1) -> (num, dim); row i depends on (seed, i) alone."""
    blocks = []
    for block in range(start // BLOCK, -(-(start + num) // BLOCK)):
        generator = torch.Generator().manual_seed(seed_of(seed, STREAM, block))
        blocks.append(torch.randn(BLOCK, dim, generator=generator))
    first = start % BLOCK
    return torch.cat(blocks)[first : first + num] if blocks else torch.zeros(0, dim)


@torch.no_grad()
def map_z(generator: Generator, z: Tensor, batch_size: int = 4096) -> Tensor:
    """w (N, Z) of z (N, Z), on the CPU."""
    device = generator.mapping.w_avg.device
    return torch.cat([generator.mapping(part.to(device)).cpu() for part in z.split(batch_size)])


@torch.no_grad()
def images_of(generator: Generator, ws: Tensor, batch_size: int = 256) -> Tensor:
    """Pictures of ws (N, L, Z) as a file would hold them: (N, C, H, H) in [-1, 1] in 256 levels, on the CPU.

    Constant noise: a code has one picture.
    """
    device = generator.mapping.w_avg.device
    parts = [generator.synthesis(part.to(device)).clamp(-1, 1).cpu() for part in ws.split(batch_size)]
    return ((torch.cat(parts) + 1) * 127.5).round() / 127.5 - 1


@dataclass(frozen=True)
class Stats:
    """The distribution of w: mean (Z,) and covariance (Z, Z), float64; the same of p, w before its last leaky ReLU.

    p is nearly Gaussian where w is not (Zhu et al. 2012.09036, section 3), so distances are measured there.
    """

    mean: Tensor
    cov: Tensor
    p_mean: Tensor
    p_cov: Tensor

    @classmethod
    def of_codes(cls, w: Tensor) -> Stats:
        """From codes (N, Z)."""
        moments = []
        for codes in (w.double(), before_relu(w.double())):
            moments += [codes.mean(0), torch.cov(codes.T)]
        return cls(*moments)

    @classmethod
    def of(cls, generator: Generator, num: int = STATS_NUM, seed: int = STATS_SEED) -> Stats:
        """From `num` draws of a generator."""
        dim = len(generator.mapping.w_avg)
        return cls.of_codes(map_z(generator, draw_z(num, dim, seed)))

    def typicality(self, ws: Tensor) -> Tensor:
        """Squared Mahalanobis distance of ws (N, L, Z) in p, per dimension; mean over layers, (N,). Draws: about 1."""
        return self.distance(ws).mean(1)

    def distance(self, ws: Tensor) -> Tensor:
        """The same for each layer (..., Z) -> (...), with gradient."""
        d = len(self.p_mean)
        cov = self.p_cov + 1e-4 * self.p_cov.diagonal().mean() * torch.eye(d, dtype=torch.float64)
        whiten = torch.linalg.inv(torch.linalg.cholesky(cov)).to(ws)  # (Z, Z)
        return ((before_relu(ws) - self.p_mean.to(ws)) @ whiten.T).square().mean(-1)


def before_relu(w: Tensor) -> Tensor:
    """What the mapping network's last leaky ReLU received, up to its gain."""
    return F.leaky_relu(w, SLOPE)
