"""Checks of diversity: compare the variety of generated faces with that of real faces of the same requests."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from evaluation.diversity import random_pairs
from evaluation.pictures import ssim
from losses.quantise import to_bytes

NUM_REQUESTS, NUM_FACES, NUM_PAIRS = 8, 64, 128  # requests, real faces per request, pairs of faces
MIN_FACES = 32  # training faces that a request must have
MAX_SSIM_EXCESS = 0.25  # a check fails if the SSIM is larger than the real value by more than this
MIN_DISTANCE_RATIO = 0.5  # a check fails if the distance divided by the real value is smaller than this
META_KEY = "real_diversity"  # the key in `meta`


def similarity(a: Tensor, b: Tensor) -> float:
    """Mean SSIM of row k of a and row k of b, (N, C, H, W) in [-1, 1] each, as 8-bit images."""
    return float(ssim(to_bytes(a).cpu(), to_bytes(b).cpu()).mean())


def pairs_within(x: Tensor) -> tuple[float, float]:
    """Mean SSIM and mean `distance` of pairs of different images (N, C, H, W); NUM_PAIRS fixed random pairs."""
    first, second = random_pairs(len(x), NUM_PAIRS)
    return similarity(x[first], x[second]), distance(x[first], x[second])


def distance(a: Tensor, b: Tensor) -> float:
    """Mean over rows of the root mean square difference, in units of [-1, 1]."""
    return float((a.float() - b.float()).square().flatten(1).mean(1).sqrt().mean())


def within_request(one: Tensor, two: Tensor) -> dict[str, Tensor]:
    """Validation metrics of two images per request: mean SSIM and mean distance of row k of `one` and of `two`."""
    return {"ssim_within": torch.tensor(similarity(one, two)), "distance_within": torch.tensor(distance(one, two))}


def between(groups: list[Tensor]) -> float:
    """Mean distance of images of different requests: image k of one request and image k of the next request."""
    if len(groups) < 2:
        return 0.0
    n = min(len(g) for g in groups)
    return distance(torch.cat([g[:n] for g in groups]), torch.cat([g[:n] for g in groups[1:] + groups[:1]]))


def real_diversity(train, columns: list[int], picture: Callable[[dict[str, Tensor]], Tensor]) -> dict:
    """Reference values of real faces for `failed_checks`, as rounded plain numbers for `meta`.

    Args:
        train: the training faces (a `FaceSet`).
        columns: the attributes that a request has.
        picture: maps a batch to its images (photos or sketches).

    Returns:
        {"requests": at most NUM_REQUESTS rows (A,) of bits that at least MIN_FACES training faces have, "ssim",
        "within", "between"}.
    """
    attr = train.labels["attr"][:, columns]
    known = np.flatnonzero(~np.isnan(attr).any(1))
    rows, group, counts = np.unique(attr[known], axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= MIN_FACES]
    count = min(NUM_REQUESTS, len(order))
    chosen = order[np.arange(count) * len(order) // max(1, count)]
    groups = [picture(train.take(known[group.reshape(-1) == k][:NUM_FACES])) for k in chosen]
    figures = [pairs_within(g) for g in groups]
    mean = lambda i: round(float(np.mean([f[i] for f in figures])), 4) if figures else 0.0  # noqa: E731
    requests = [[int(v) for v in rows[k]] for k in chosen]
    return {"requests": requests, "ssim": mean(0), "within": mean(1), "between": round(between(groups), 4)}


def diversity_of(groups: list[Tensor]) -> dict[str, float]:
    """`ssim`, `within`, `between` of generated images; `groups` has one tensor (K, C, H, W) per request."""
    figures = [pairs_within(g) for g in groups]
    mean = lambda i: float(np.mean([f[i] for f in figures]))  # noqa: E731
    return {"ssim": mean(0), "within": mean(1), "between": between([g.cpu() for g in groups])}


def failed_checks(diversity: dict[str, float], real: dict, remedies: dict[str, str]) -> dict[str, str]:
    """{check: message} of failed checks: a request gives only one face, or all requests give the same faces.

    Generated faces of two requests share their noise, so they differ by the request only. Real faces of two requests
    also differ as two faces of one request do. For independent faces, E|x - x'|^2 between requests is the value within
    a request plus |difference of the mean faces|^2, so the reference is sqrt(between^2 - within^2).

    remedies: {check: what to change}, of the system.
    """
    found = {}
    too_similar = diversity["ssim"] > real["ssim"] + MAX_SSIM_EXCESS
    if too_similar or diversity["within"] < MIN_DISTANCE_RATIO * real["within"]:
        found["collapse"] = (
            f"different noises give the same face (SSIM {diversity['ssim']:.2f}, real {real['ssim']:.2f}; "
            f"distance {diversity['within']:.2f}, real {real['within']:.2f}): {remedies['collapse']}"
        )
    effect = max(0.0, real["between"] ** 2 - real["within"] ** 2) ** 0.5
    if diversity["between"] < MIN_DISTANCE_RATIO * effect:
        found["request"] = (
            f"all requests give the same faces (the request changes a face by {diversity['between']:.2f}, "
            f"real {effect:.2f}): {remedies['request']}"
        )
    return found
