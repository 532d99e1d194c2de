"""Directions that depend on the face: which way *this* code must go, from the codes of others like it.

Arithmetic as in `latents.directions`: float64 inside, the codes' own type outside; labels in {0, 1, NaN}, NaN left out;
a direction points from without to with, and its length is the whole way. `knn_vectors` stands there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def transport_vectors(query: Tensor, mu: Tensor, target: Tensor, side: int, shrink: float = 4.0) -> Tensor:
    """From without to with along the optimal transport between both sides taken as Gaussians -> (Q, Z).

    A code at place x of one side goes to the corresponding place of the other,

        T(x) = m1 + S0^-1/2 (S0^1/2 S1 S0^1/2)^1/2 S0^-1/2 (x - m0),

    the least squared move that carries one Gaussian into the other (Dowson & Landau 1982; Peyre & Cuturi 1803.00567,
    remark 2.31). With equal covariances it is the difference of means, the same for every face; where they differ it
    turns with pose, place and whatever else the code holds. `side` (0 or 1): where the queries are to go; the sign is
    turned for 0. Each covariance of n codes is mixed with the pooled one in the proportion n : shrink * Z (on
    codes of drawn faces 4 came nearer to the right answer than 1 and less).
    """
    groups = _two_sides(mu, target)
    means, covariances = zip(*(_moments(group) for group in groups), strict=True)
    sizes = [len(group) for group in groups]
    pooled = sum(n * c for n, c in zip(sizes, covariances, strict=True)) / sum(sizes)
    pooled = pooled + 1e-6 * pooled.diagonal().mean().clamp_min(1e-12) * torch.eye(len(pooled), dtype=pooled.dtype)
    weight = shrink * mu.shape[1]
    mixed = [(n * c + weight * pooled) / (n + weight) for n, c in zip(sizes, covariances, strict=True)]
    start = 1 - side
    root, inverse = _roots(mixed[start])
    turn = inverse @ _roots(root @ mixed[side] @ root)[0] @ inverse
    x = query.double()
    there = means[side] + (x - means[start]) @ turn  # `turn` is symmetric
    move = there - x if side == 1 else x - there
    return move.to(query.dtype)


def _two_sides(mu: Tensor, target: Tensor) -> list[Tensor]:
    sides = [mu[target == side].double() for side in (0, 1)]
    if not len(sides[0]) or not len(sides[1]):
        counts = f"{len(sides[0])} without, {len(sides[1])} with"
        raise ValueError(f"no face is left on one side ({counts}) to take a direction from; match fewer attributes")
    return sides


def _moments(codes: Tensor) -> tuple[Tensor, Tensor]:
    centred = codes - codes.mean(0)
    return codes.mean(0), centred.T @ centred / len(codes)


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Square root and its inverse of a symmetric positive matrix (Z, Z)."""
    values, vectors = torch.linalg.eigh(matrix)
    root = values.clamp_min(1e-12 * values.max()).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
