"""Perceptual losses: distances between feature maps. The caller computes the feature maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from losses.precision import raised

FLOOR = 1e-4  # added to a layer's relative error; it bounds the logarithm


def feature_distance(
    features: Sequence[Tensor],
    target: Sequence[Tensor],
    form: str = "log",
    num_dims: int | None = None,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Distance between the features of x_hat and of x, a scalar. Only `features` gets a gradient.

    Args:
        features, target: one map (N, C_l, H_l, W_l) per layer l, of x_hat and of x. MSE_l is the mean over the batch
            and the map.
        form: "log": (D / 2) mean_l log(1e-4 + MSE_l / mean(target_l^2)) in nats per image. Each layer acts as a
            Gaussian with a calibrated sigma, so the scale does not depend on the image size.
            "mse": sum_l MSE_l / 2, as in Hou et al., "Deep Feature Consistent Variational Autoencoder" (arXiv
            1610.00291), Eq. 3.
        num_dims: D = C H W of the image; only for "log".
        average: the mean of a number over ranks. With it, gradients averaged over ranks equal those of the whole batch.

    Raises:
        ValueError: an unknown form, or "log" without num_dims.
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
        total = FLOOR + average(ratio.detach())  # over all ranks
        # The value is log(total); the gradient is that of log(total) over all ranks.
        terms.append(torch.log(total) + (ratio - ratio.detach()) / total)
    return 0.5 * num_dims * torch.stack(terms).mean()
