"""The smallest step of a code that changes some readings by given amounts and keeps other readings.

A reading is n . c, with the unit normal n (d,) of a boundary. Codes have the covariance Sigma. The cost of a step s is
its Mahalanobis length sqrt(s' Sigma^-1 s), in standard deviations. InterFaceGAN (https://arxiv.org/abs/1907.10786)
projects one normal orthogonal to the others, which minimizes the Euclidean length instead. The two differ, because the
variances of W are very unequal. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DUPLICATE = 1 - 1e-6  # two readings with a larger correlation are the same
MAX_CONDITION = 1e4  # of the correlation matrix; above it, rounding and noise of the normals dominate a step


def least_step(normals: Tensor, delta: Tensor, cov: Tensor | None = None) -> Tensor:
    """The step s (..., d) of least cost with N s = delta:  s = Sigma N' (N Sigma N')^-1 delta.

    Args:
        normals: N (k, d). Equal rows are merged.
        delta: (..., k), the changes of the readings; 0 keeps a reading.
        cov: Sigma (d, d). None = the identity, which gives InterFaceGAN's direction.

    Raises:
        ValueError: rows contradict each other, or are nearly linearly dependent.
    """
    n, wanted = normals.double(), delta.double()
    spread = n if cov is None else n @ cov.double()  # (k, d), N Sigma
    gram = spread @ n.T
    std = gram.diagonal().sqrt()
    correlation = gram / torch.outer(std, std)
    rows = _distinct(correlation, wanted / std)
    system = correlation[rows][:, rows]
    if torch.linalg.cond(system) > MAX_CONDITION:
        raise ValueError("the readings to change and to keep are nearly linearly dependent; keep fewer of them")
    weight = torch.linalg.solve(system, (wanted / std)[..., rows, None])[..., 0] / std[rows]  # (..., r)
    return (weight @ spread[rows]).to(delta.dtype)


def cost(step: Tensor, cov: Tensor) -> Tensor:
    """Mahalanobis lengths (...) of steps (..., d)."""
    s = step.double()
    whitened = torch.linalg.solve(cov.double(), s[..., None])[..., 0]
    return (s * whitened).sum(-1).clamp_min(0).sqrt()


def affordable(
    moved: Sequence[int], candidates: Sequence[int], normals: Tensor, cov: Tensor, limit: float
) -> tuple[list[int], dict[int, float]]:
    """Choose the readings that can be kept while others change. Returns the kept rows, and {left-out row: its cost}.

    A change of one reading by one standard deviation costs 1 / sqrt(1 - R^2), where R^2 is that of a regression of this
    reading on the kept ones. Candidates are tried in the order of decreasing correlation. A candidate is left out if
    the cost would exceed `limit`.
    """
    n = normals.double()
    gram = n @ cov.double() @ n.T
    std = gram.diagonal().sqrt()
    correlation = gram / torch.outer(std, std)
    order = sorted(candidates, key=lambda row: -float(correlation[list(moved), row].abs().max()))
    kept: list[int] = []
    dropped: dict[int, float] = {}
    for row in order:
        price = max(_price(correlation, target, [*kept, row]) for target in moved)
        if price <= limit:
            kept.append(row)
        else:
            dropped[row] = price
    return kept, dropped


def _price(correlation: Tensor, target: int, kept: list[int]) -> float:
    """1 / sqrt(1 - R^2) of row `target` on rows `kept`; infinite if they determine it."""
    part, cross = correlation[kept][:, kept], correlation[kept, target]
    explained = float(cross @ torch.linalg.pinv(part, rtol=1e-9) @ cross)
    return (1 - explained) ** -0.5 if explained < 1 - 1e-9 else float("inf")


def _distinct(correlation: Tensor, wanted: Tensor) -> list[int]:
    """The rows without duplicates. wanted (..., k): the requested changes, in standard deviations of the readings."""
    rows: list[int] = []
    for row in range(len(correlation)):
        same = [r for r in rows if abs(float(correlation[r, row])) > DUPLICATE]
        if not same:
            rows.append(row)
            continue
        sign = correlation[same[0], row].sign()
        if not torch.allclose(wanted[..., row], sign * wanted[..., same[0]], atol=1e-6):
            raise ValueError("two readings are equal, but one must change and the other must not; keep fewer")
    return rows
