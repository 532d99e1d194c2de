"""Find the strength of an edit at which a classifier has a given probability, for requests such as `Smiling=p0.9`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GRID, BISECTIONS = 9, 8


def strength_until(
    probability: Callable[[Tensor], Tensor], target: float, limit: Tensor, rising: Tensor
) -> tuple[Tensor, Tensor]:
    """The smallest strength at which each face has the target probability: strengths (N,), and reached (N,) bool.

    GRID even strengths are tried; the first that is large enough is refined by BISECTIONS bisections. A face that does
    not reach the target gets its limit.

    Args:
        probability: maps strengths (N,) to probabilities (N,).
        target: the requested probability.
        limit: (N,), largest strengths, >= 0.
        rising: (N,) bool, whether the probability must rise to the target (True) or fall to it (False).
    """
    reaches = lambda s: torch.where(rising, probability(s) >= target, probability(s) <= target)  # noqa: E731
    low, high = torch.zeros_like(limit), limit.clone()
    found = torch.zeros_like(rising)
    for k in range(GRID):
        s = limit * k / (GRID - 1)
        hit = reaches(s) & ~found
        high, found = torch.where(hit, s, high), found | hit
        low = torch.where(found, low, s)
    low = torch.minimum(low, high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        far = reaches(middle)
        high, low = torch.where(far & found, middle, high), torch.where(far, low, middle)
    return high, found
