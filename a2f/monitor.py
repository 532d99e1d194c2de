"""Is there variety? What real faces of one request look like, and when a run's pictures are too much alike."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from engine.grids import to_uint8
from evaluation.pictures import ssim

ROWS, FACES, LEAST, PAIRS = 8, 64, 32, 128  # requests; faces of each; training faces a request must have; pairs
MORE_SSIM, LESS_DISTANCE = 0.25, 0.5  # above, times the real value
META_KEY = "real_diversity"  # the key in `meta`


def similarity(a: Tensor, b: Tensor) -> float:
    """Mean SSIM of row k of a with row k of b, (N, C, H, W) in [-1, 1] each, as 8-bit pictures."""
    return float(ssim(*(torch.from_numpy(to_uint8(x)) for x in (a, b))).mean())


def pairs_within(x: Tensor) -> tuple[float, float]:
    """Mean SSIM and mean distance (root mean square, in units of [-1, 1]) of pairs of different pictures (N, C, H, W).

    At most 128 pairs, always the same ones.
    """
    g = torch.Generator().manual_seed(0)
    first = torch.randint(len(x), (PAIRS,), generator=g)
    second = (first + torch.randint(1, len(x), (PAIRS,), generator=g)) % len(x)
    return similarity(x[first], x[second]), distance(x[first], x[second])


def distance(a: Tensor, b: Tensor) -> float:
    """Mean over pairs of the root mean square difference."""
    return float((a.float() - b.float()).square().flatten(1).mean(1).sqrt().mean())


def two_of_each(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean root mean square distance of row k of `one` with row k of `two`."""
    return torch.tensor(similarity(one, two)), torch.tensor(distance(one, two))


def between(groups: list[Tensor]) -> float:
    """Mean distance of pictures of different requests: the k-th of one with the k-th of the next."""
    if len(groups) < 2:
        return 0.0
    n = min(len(g) for g in groups)
    return distance(torch.cat([g[:n] for g in groups]), torch.cat([g[:n] for g in groups[1:] + groups[:1]]))


def real_diversity(train, columns: list[int], picture: Callable[[dict[str, Tensor]], Tensor]) -> dict:
    """Real values for `failed_checks`, as plain rounded numbers that travel in `meta`.

    Args:
        train: the training faces (a `FaceSet`).
        columns: attributes that a request has.
        picture: what a batch's rows show: the photo, or its sketch.

    Returns:
        {"requests": up to 8 rows (A,) of bits that at least 32 training faces show, "ssim", "within", "between"}.
    """
    attr = train.labels["attr"][:, columns]
    known = np.flatnonzero(~np.isnan(attr).any(1))
    rows, group, counts = np.unique(attr[known], axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= LEAST]
    chosen = order[np.arange(min(ROWS, len(order))) * len(order) // max(1, min(ROWS, len(order)))]
    groups = [picture(train.take(known[group.reshape(-1) == k][:FACES])) for k in chosen]
    figures = [pairs_within(g) for g in groups]
    mean = lambda i: round(float(np.mean([f[i] for f in figures])), 4) if figures else 0.0  # noqa: E731
    requests = [[int(v) for v in rows[k]] for k in chosen]
    return {"requests": requests, "ssim": mean(0), "within": mean(1), "between": round(between(groups), 4)}


def diversity_of(groups: list[Tensor]) -> dict[str, float]:
    """`ssim`, `within`, `between` of made pictures, one tensor (K, C, H, W) for each request."""
    figures = [pairs_within(g) for g in groups]
    mean = lambda i: float(np.mean([f[i] for f in figures]))  # noqa: E731
    return {"ssim": mean(0), "within": mean(1), "between": between([g.cpu() for g in groups])}


def failed_checks(diversity: dict[str, float], real: dict) -> dict[str, str]:
    """{name: sentence} of what is wrong: one request gives one face, or all requests give the same faces."""
    found = {}
    if diversity["ssim"] > real["ssim"] + MORE_SSIM or diversity["within"] < LESS_DISTANCE * real["within"]:
        found["collapse"] = (
            f"many noises, one face (SSIM {diversity['ssim']:.2f}, real {real['ssim']:.2f}; "
            f"distance {diversity['within']:.2f}, real {real['within']:.2f}): lower train.lr or change gamma_r1"
        )
    if diversity["between"] < LESS_DISTANCE * real["between"]:
        found["request"] = (
            f"all requests give the same faces (distance between requests {diversity['between']:.2f}, "
            f"real {real['between']:.2f}): raise loss.lambda_mismatch"
        )
    return found
