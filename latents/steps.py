"""The shortest step of a code that changes some readings by a given amount and leaves others as they are.

A reading is n . c, with a boundary's unit normal n (d,). Codes have the covariance Sigma; a step's cost is its
Mahalanobis length, sqrt(s' Sigma^-1 s): how many standard deviations from the code it leads. Shen et al. 1907.10786
project one normal off the others, which is the shortest step in Euclidean length; W of a StyleGAN is far from round.
float64 inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DUPLICATE = 1 - 1e-6  # correlation of two readings from which on they are one
CONDITION = 1e4  # of the readings' correlations; beyond it a step is dominated by rounding and by noise of the normals


def least_step(normals: Tensor, delta: Tensor, cov: Tensor | None = None) -> Tensor:
    """The least step s (..., d) with N s = delta:  s = Sigma N' (N Sigma N')^-1 delta.

    normals (k, d); delta (..., k), 0 for what is to stay; cov (d, d), None = the identity, with which the direction
    is the paper's. Rows that say the same thing twice are merged.

    Raises:
        ValueError: rows that contradict or nearly repeat each other.
    """
    n, wanted = normals.double(), delta.double()
    spread = n if cov is None else n @ cov.double()  # (k, d), N Sigma
    gram = spread @ n.T
    std = gram.diagonal().sqrt()
    correlation = gram / torch.outer(std, std)
    rows = _distinct(correlation, wanted / std)
    system = correlation[rows][:, rows]
    if torch.linalg.cond(system) > CONDITION:
        raise ValueError("the readings to move and to keep nearly determine each other; keep fewer of them")
    weight = torch.linalg.solve(system, (wanted / std)[..., rows, None])[..., 0] / std[rows]  # (..., r)
    return (weight @ spread[rows]).to(delta.dtype)


def cost(step: Tensor, cov: Tensor) -> Tensor:
    """Mahalanobis length of steps (..., d) -> (...)."""
    s = step.double()
    whitened = torch.linalg.solve(cov.double(), s[..., None])[..., 0]
    return (s * whitened).sum(-1).clamp_min(0).sqrt()


def affordable(
    moved: Sequence[int], candidates: Sequence[int], normals: Tensor, cov: Tensor, limit: float
) -> tuple[list[int], dict[int, float]]:
    """Which readings can be kept while others move -> rows kept; {row left out: what keeping it would cost}.

    To move one reading by its own standard deviation costs 1 / sqrt(1 - R^2), R^2 of that reading regressed on the
    kept ones. Candidates are tried from the most correlated down, and left out where the cost of a moved reading
    would exceed `limit`.
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
    """1 / sqrt(1 - R^2) of row `target` on rows `kept`; infinite where these determine it."""
    part, cross = correlation[kept][:, kept], correlation[kept, target]
    explained = float(cross @ torch.linalg.pinv(part, rtol=1e-9) @ cross)
    return (1 - explained) ** -0.5 if explained < 1 - 1e-9 else float("inf")


def _distinct(correlation: Tensor, wanted: Tensor) -> list[int]:
    """Rows without repeats. wanted (..., k): what is asked of each, in standard deviations of its reading."""
    rows: list[int] = []
    for row in range(len(correlation)):
        same = [r for r in rows if abs(float(correlation[r, row])) > DUPLICATE]
        if not same:
            rows.append(row)
            continue
        sign = correlation[same[0], row].sign()
        if not torch.allclose(wanted[..., row], sign * wanted[..., same[0]], atol=1e-6):
            raise ValueError("two readings are the same, and one is to move while the other stays; keep fewer")
    return rows
