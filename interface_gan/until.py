"""How far to go until a classifier says so: the request `Smiling=p0.9`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GRID, BISECTIONS = 9, 8


def strength_until(
    probability: Callable[[Tensor], Tensor], target: float, limit: Tensor, rising: Tensor
) -> tuple[Tensor, Tensor]:
    """The least strength at which each face has the probability asked for -> strengths (N,), reached (N,) bool.

    probability: strengths (N,) -> probabilities (N,). limit (N,) >= 0: no further than this. rising (N,) bool: whether
    the probability has to rise to `target` or to fall to it. The first of nine even strengths that is far enough is
    refined by eight bisections; a face that never is goes to its limit.
    """
    enough = lambda s: torch.where(rising, probability(s) >= target, probability(s) <= target)  # noqa: E731
    low, high = torch.zeros_like(limit), limit.clone()
    found = torch.zeros_like(rising)
    for k in range(GRID):
        s = limit * k / (GRID - 1)
        hit = enough(s) & ~found
        high, found = torch.where(hit, s, high), found | hit
        low = torch.where(found, low, s)
    low = torch.minimum(low, high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        far = enough(middle)
        high, low = torch.where(far & found, middle, high), torch.where(far, low, middle)
    return high, found
