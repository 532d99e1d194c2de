"""Metrics of images and codes. Pure functions."""

import torch
from torch import Tensor


def diversity(x: Tensor, group: Tensor) -> float:
    """Mean L1 between consecutive images (N, C, H, W) of one group; group (N,). NaN without a pair."""
    parts = [x[group == g] for g in group.unique()]
    distances = [(part[1:] - part[:-1]).abs().flatten(1).mean(1) for part in parts if len(part) > 1]
    return float(torch.cat(distances).mean()) if distances else float("nan")


def code_std(z: Tensor) -> Tensor:
    """Standard deviation of each latent over the faces (N, Z), mean over latents; 1 for codes from N(0, I)."""
    return z.std(0).mean()


def mmd(a: Tensor, b: Tensor, limit: int = 1000) -> float:
    """Unbiased squared maximum mean discrepancy of codes (N, Z) and (M, Z) with inverse multiquadric kernels.

    k(u, v) = sum_s c / (c + |u - v|^2), c = 2 Z s, s in {0.2, 0.5, 1, 2, 5}, as in "Wasserstein Auto-Encoders",
    https://arxiv.org/abs/1711.01558. The expectation is 0 if both distributions are equal.
    """
    a, b = a[:limit].double(), b[:limit].double()

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        distance = torch.cdist(u, v).square()
        return sum((c := 2 * a.shape[1] * s) / (c + distance) for s in (0.2, 0.5, 1.0, 2.0, 5.0))

    def within(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    return float(within(kernel(a, a)) + within(kernel(b, b)) - 2 * kernel(a, b).mean())
