"""Distances between feature maps. The network that made them is the caller's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from losses.precision import raised

FLOOR = 1e-4  # of a tap's own mean square: below that an error no longer pays


def feature_distance(
    features: Sequence[Tensor],
    target: Sequence[Tensor],
    form: str = "log",
    num_dims: int | None = None,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """How far the features of x_hat are from those of x; a scalar. Gradients reach `features` only.

    features, target: one map (N, C_l, H_l, W_l) per tap l, of x_hat and of x. MSE_l: the mean over batch and map.
    form "log": (D / 2) mean_l log(1e-4 + MSE_l / mean(target_l^2)), nats per image, num_dims the image's D = C H W.
        Every tap acts as one more Gaussian with calibrated sigma: its weight means the same at every image size.
    form "mse": sum_l MSE_l / 2, as in DFC-VAE (Hou et al. 1610.00291, Eq. 3); num_dims is not used.
    average: the mean over ranks of a number; with it the gradients of two half batches average to the whole batch's.
    """
    assert len(features) == len(target) and len(features) > 0
    pairs = [(raised(f), raised(t).detach()) for f, t in zip(features, target, strict=True)]
    mse = [(f - t).square().mean() for f, t in pairs]
    if form == "mse":
        return 0.5 * torch.stack(mse).sum()
    if form != "log":
        raise ValueError(f"form: expected 'log' or 'mse', got {form!r}")
    if num_dims is None:
        raise ValueError("form 'log' needs num_dims, the number of values of an image")
    average = average or (lambda value: value)
    terms = []
    for error, (_, t) in zip(mse, pairs, strict=True):
        ratio = error / average(t.square().mean()).clamp_min(1e-12)
        whole = FLOOR + average(ratio.detach())  # over all ranks
        terms.append(
            torch.log(whole) + (ratio - ratio.detach()) / whole
        )  # value of the log, gradient of the global log
    return 0.5 * num_dims * torch.stack(terms).mean()
