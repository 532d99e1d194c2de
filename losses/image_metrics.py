"""Metrics of images that training logs, reports and `evaluation` share: PSNR and sharpness."""

from __future__ import annotations

import torch
from torch import Tensor

from losses.precision import raised

MIN_MSE = 1e-10  # the PSNR of equal images would be infinite


def psnr(x: Tensor, x_hat: Tensor, peak: float = 2.0, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each image (N,), in dB: 10 log10(peak^2 / MSE).

    Args:
        x, x_hat: (N, C, H, W).
        peak: the width of the value range: 2 for [-1, 1], 255 for 8-bit values.
        mask: (N, H, W) bool, the pixels that count; None = all. An empty mask gives NaN.
    """
    square = (raised(x) - raised(x_hat.detach())).square()
    mse = square.flatten(1).mean(1) if mask is None else (square.mean(1) * mask).sum((1, 2)) / mask.sum((1, 2))
    return 10 * torch.log10(peak**2 / mse.clamp_min(MIN_MSE))


def sharpness(x: Tensor) -> Tensor:
    """Mean squared Laplacian of the channel mean, (N,), of images (N, C, H, W). Blur lowers it, noise raises it."""
    g = raised(x).mean(1)
    laplacian = 4 * g[:, 1:-1, 1:-1] - g[:, 2:, 1:-1] - g[:, :-2, 1:-1] - g[:, 1:-1, 2:] - g[:, 1:-1, :-2]
    return laplacian.square().mean((1, 2))
