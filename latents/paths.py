"""Paths between two codes."""

from __future__ import annotations

import torch
from torch import Tensor

PARALLEL = 1e-4  # radians: closer to 0 or to pi than this, an arc is not defined well enough


def lerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """(1 - t) a + t b, exact at both ends. a, b (..., Z); t a number, or a tensor that broadcasts against a.shape[:-1]:
    t (T,) with a (Z,) -> (T, Z); t (T, 1) with a (N, Z) -> (T, N, Z). float64 inside, a's type outside.
    """
    x, y, t = _prepare(a, b, t)
    return _ends((1 - t) * x + t * y, x, y, t).to(a.dtype)


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Along the arc from a to b (Shoemake 1985), the norm going linearly from |a| to |b|. Shapes as in `lerp`, exact
    at both ends.

    A straight line between two draws of N(0, I) passes through norms that the prior never shows; this does not (White
    1609.04468). Falls back to `lerp` where no arc is defined: a zero code, or directions within 1e-4 of parallel or
    antipodal.
    """
    x, y, t = _prepare(a, b, t)
    norm_x, norm_y = x.norm(dim=-1, keepdim=True), y.norm(dim=-1, keepdim=True)
    unit_x, unit_y = x / norm_x.clamp_min(1e-300), y / norm_y.clamp_min(1e-300)
    # acos loses half the digits near 0 and pi; this does not.
    angle = 2 * torch.atan2((unit_x - unit_y).norm(dim=-1, keepdim=True), (unit_x + unit_y).norm(dim=-1, keepdim=True))
    straight = (norm_x == 0) | (norm_y == 0) | (angle < PARALLEL) | (angle > torch.pi - PARALLEL)
    safe = torch.where(straight, torch.ones_like(angle), angle)
    direction = (torch.sin((1 - t) * safe) * unit_x + torch.sin(t * safe) * unit_y) / torch.sin(safe)
    arc = direction * ((1 - t) * norm_x + t * norm_y)
    return _ends(torch.where(straight, (1 - t) * x + t * y, arc), x, y, t).to(a.dtype)


def _prepare(a: Tensor, b: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.as_tensor(t, dtype=torch.float64, device=a.device)
    return a.double(), b.double(), t[..., None]


def _ends(path: Tensor, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    return torch.where(t == 0, x, torch.where(t == 1, y, path))
