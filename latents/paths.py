"""Interpolation between two codes."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_ANGLE = 1e-4  # radians; closer to 0 or pi, slerp is numerically unstable


def lerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Linear interpolation (1 - t) a + t b. It is exact at both ends and computed in float64.

    a, b: (..., Z). t: a number, or a tensor that broadcasts against a.shape[:-1]. For example t (T,) and a (Z,) give
    (T, Z), and t (T, 1) and a (N, Z) give (T, N, Z). The result has the dtype of a.
    """
    x, y, t = _prepare(a, b, t)
    return _ends((1 - t) * x + t * y, x, y, t).to(a.dtype)


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Spherical linear interpolation of the direction, and linear interpolation of the norm. Shapes as in `lerp`.

    Points on a straight line between two samples of N(0, I) have smaller norms than samples of N(0, I); slerp avoids
    this. It equals `lerp` if a code is zero, or if the angle is within 1e-4 of 0 or pi. Sources: Shoemake, "Animating
    Rotation with Quaternion Curves" (1985); White, "Sampling Generative Networks" (arXiv 1609.04468).
    """
    x, y, t = _prepare(a, b, t)
    norm_x, norm_y = x.norm(dim=-1, keepdim=True), y.norm(dim=-1, keepdim=True)
    unit_x, unit_y = x / norm_x.clamp_min(1e-300), y / norm_y.clamp_min(1e-300)
    # More accurate than acos near 0 and pi.
    angle = 2 * torch.atan2((unit_x - unit_y).norm(dim=-1, keepdim=True), (unit_x + unit_y).norm(dim=-1, keepdim=True))
    linear = (norm_x == 0) | (norm_y == 0) | (angle < MIN_ANGLE) | (angle > torch.pi - MIN_ANGLE)
    safe = torch.where(linear, torch.ones_like(angle), angle)
    direction = (torch.sin((1 - t) * safe) * unit_x + torch.sin(t * safe) * unit_y) / torch.sin(safe)
    arc = direction * ((1 - t) * norm_x + t * norm_y)
    return _ends(torch.where(linear, (1 - t) * x + t * y, arc), x, y, t).to(a.dtype)


def _prepare(a: Tensor, b: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.as_tensor(t, dtype=torch.float64, device=a.device)
    return a.double(), b.double(), t[..., None]


def _ends(path: Tensor, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    return torch.where(t == 0, x, torch.where(t == 1, y, path))
