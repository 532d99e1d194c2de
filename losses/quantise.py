"""Quantization of 8-bit pixels, dequantization noise, bits per dimension.

Symbols: x8 are pixel values 0 .. 255, and x = x8 / 127.5 - 1 (N, C, H, W) is the image in [-1, 1]. n = n_bits.
k = x8 >> (8 - n) are the 2^n levels. v = (k + u) / 2^n - 1/2 in [-1/2, 1/2), with noise u in [0, 1). So each level is
a cell of width 2^-n.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from losses.precision import raised


def to_bytes(x: Tensor) -> Tensor:
    """Convert images in [-1, 1] to uint8, rounded. Values outside are clamped. The inverse is x8 / 127.5 - 1."""
    return ((raised(x) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_levels(x: Tensor, n_bits: int = 8) -> Tensor:
    """Convert images in [-1, 1] to int32 levels 0 .. 2^n - 1. Values outside [-1, 1] are clamped."""
    assert 1 <= n_bits <= 8, n_bits
    return to_bytes(x).to(torch.int32) >> (8 - n_bits)


def dequantise(k: Tensor, n_bits: int = 8, u: Tensor | float | None = None) -> Tensor:
    """Convert levels to v = (k + u) / 2^n - 1/2 in [-1/2, 1/2). The result is float32, or float64 if u is.

    Source: Theis et al., "A note on the evaluation of generative models" (arXiv 1511.01844), section 3.1.

    Args:
        k: integer levels, of any shape.
        n_bits: n, 1 .. 8.
        u: None = uniform noise in [0, 1). Use 0.5 (the center of a cell) for codes that will be edited.
    """
    if u is None:
        u = torch.rand(k.shape, device=k.device)
    u = torch.as_tensor(u, device=k.device)
    u = raised(u) if u.is_floating_point() else u.float()
    if u.dtype == torch.float32:
        # Without this, k + u is sometimes rounded to the next level: once in 2^17 pixels for n = 8.
        u = u.clamp_max(1 - 2.0 ** (n_bits - 24))
    return (k.to(u.dtype) + u) * 2.0**-n_bits - 0.5


def to_pixels(v: Tensor, n_bits: int = 8, lost: Tensor | None = None) -> Tensor:
    """Convert v to images in [-1, 1]. Each value becomes the center of its level; with 8 bits, the level itself.

    lost: `lost_bits` of the source image, added back for n_bits < 8. Then an edit that changes nothing returns the
    exact bytes of the photo.
    """
    v = raised(v)
    k = ((v + 0.5) * 2.0**n_bits).floor().clamp(0, 2**n_bits - 1).to(torch.int32)
    x8 = _level_to_byte(k, n_bits)
    if lost is not None:
        x8 = (x8 + lost).clamp(0, 255)
    return x8.to(v.dtype) / 127.5 - 1


def lost_bits(x: Tensor, n_bits: int) -> Tensor:
    """The rounding error of n-bit levels: x8 minus the pixel value that `to_pixels` makes of its level, int32."""
    return to_bytes(x).to(torch.int32) - _level_to_byte(to_levels(x, n_bits), n_bits)


def bits_per_dim(log_prob: Tensor, num_dims: int, n_bits: int = 8) -> Tensor:
    """Bits per dimension of the discrete pixels: -log p(v) / (D ln 2) + n, per image (N,).

    log_prob: log p(v) in nats (N,). num_dims: D = C H W. The cells have the volume 2^(-n D). By Jensen's inequality
    this is an upper bound of -log2 P(k) / D. Source: Theis et al., "A note on the evaluation of generative models"
    (arXiv 1511.01844), section 3.1.
    """
    return -raised(log_prob) / (num_dims * math.log(2)) + n_bits


def _level_to_byte(k: Tensor, n_bits: int) -> Tensor:
    return k if n_bits == 8 else (k << (8 - n_bits)) + 2 ** (7 - n_bits)
