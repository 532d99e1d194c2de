"""Numbers that tell a healthy run from a collapsed one. Pure functions of pictures, codes and verdicts."""

import torch
from torch import Tensor


def sharpness(x: Tensor) -> float:
    """Mean squared Laplacian of images (N, C, H, W): grain, edges and artefacts together."""
    c = x[..., 1:-1, 1:-1]
    laplacian = 4 * c - x[..., 2:, 1:-1] - x[..., :-2, 1:-1] - x[..., 1:-1, 2:] - x[..., 1:-1, :-2]
    return float(laplacian.square().mean())


def diversity(x: Tensor, group: Tensor) -> float:
    """Mean L1 between neighbours (in order) of one group: images (N, C, H, W), group (N,)."""
    parts = [x[group == g] for g in group.unique()]
    distances = [(part[1:] - part[:-1]).abs().flatten(1).mean(1) for part in parts if len(part) > 1]
    return float(torch.cat(distances).mean()) if distances else float("nan")


def edit_table(shown: Tensor, source: Tensor, target: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """How often edits to class r were read as class c (K, K), rows summing to 1, and accuracy per target (K,).

    shown: the judge's probabilities (N, K); source, target: classes (N,). Sources of the target's class are left out;
    a target without a source is NaN.
    """
    kept = source != target
    counts = torch.zeros(num, num)
    counts.index_put_((target[kept], shown[kept].argmax(1)), torch.ones(int(kept.sum())), accumulate=True)
    table = counts / counts.sum(1, keepdim=True)
    return table, table.diagonal()


def mmd(a: Tensor, b: Tensor, limit: int = 1000) -> float:
    """Unbiased squared maximum mean discrepancy of codes (N, Z) and (M, Z) with inverse multiquadric kernels.

    k(u, v) = sum_s c / (c + |u - v|^2), c = 2 Z s, s in {0.2, 0.5, 1, 2, 5} (1711.01558). 0 in the mean for one
    distribution.
    """
    a, b = a[:limit].double(), b[:limit].double()

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        distance = torch.cdist(u, v).square()
        return sum((c := 2 * a.shape[1] * s) / (c + distance) for s in (0.2, 0.5, 1.0, 2.0, 5.0))

    def within(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    return float(within(kernel(a, a)) + within(kernel(b, b)) - 2 * kernel(a, b).mean())
