"""Directions that differ for each code, by optimal transport. Conventions are those of `latents.directions`."""

from __future__ import annotations

import torch
from torch import Tensor


def transport_vectors(query: Tensor, mu: Tensor, target: Tensor, side: int, shrink: float = 4.0) -> Tensor:
    """Directions (Q, Z) along the optimal transport map between the two classes, each modeled as a Gaussian.

    The map from class 0 to class 1 is

        T(x) = m1 + S0^-1/2 (S0^1/2 S1 S0^1/2)^1/2 S0^-1/2 (x - m0).

    With equal covariances the direction is the difference of the means. Otherwise it depends on the code.
    Source: Peyre and Cuturi, "Computational Optimal Transport" (arXiv 1803.00567), remark 2.31.

    Args:
        query: (Q, Z), codes of the class 1 - side. mu: (N, Z). target: (N,) labels in {0, 1, NaN}.
        side: the class to move to, 0 or 1. Directions always point from class 0 to class 1.
        shrink: the covariance of n codes is averaged with the pooled covariance in the ratio n : shrink * Z. On drawn
            faces, 4 was better than 1.
    """
    groups = _two_sides(mu, target)
    means, covariances = zip(*(_moments(group) for group in groups), strict=True)
    sizes = [len(group) for group in groups]
    pooled = (sizes[0] * covariances[0] + sizes[1] * covariances[1]) / sum(sizes)
    pooled = pooled + 1e-6 * pooled.diagonal().mean().clamp_min(1e-12) * torch.eye(len(pooled), dtype=pooled.dtype)
    weight = shrink * mu.shape[1]
    mixed = [(n * c + weight * pooled) / (n + weight) for n, c in zip(sizes, covariances, strict=True)]
    start = 1 - side
    root, inverse = _roots(mixed[start])
    matrix = inverse @ _roots(root @ mixed[side] @ root)[0] @ inverse  # symmetric
    x = query.double()
    transported = means[side] + (x - means[start]) @ matrix
    direction = transported - x if side == 1 else x - transported
    return direction.to(query.dtype)


def _two_sides(mu: Tensor, target: Tensor) -> list[Tensor]:
    sides = [mu[target == side].double() for side in (0, 1)]
    if not len(sides[0]) or not len(sides[1]):
        counts = f"{len(sides[0])} without, {len(sides[1])} with"
        raise ValueError(f"one class has no face ({counts}), so there is no direction; match fewer attributes")
    return sides


def _moments(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (Z,) and covariance (Z, Z)."""
    centred = codes - codes.mean(0)
    return codes.mean(0), centred.T @ centred / len(codes)


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Square root of a symmetric positive matrix (Z, Z), and the inverse of the root."""
    values, vectors = torch.linalg.eigh(matrix)
    root = values.clamp_min(1e-12 * values.max()).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
