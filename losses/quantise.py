"""From 8-bit pixels to densities and back: levels, dequantisation noise, bits per dimension.

Symbols: x (N, C, H, W) = x8 / 127.5 - 1 in [-1, 1], x8 the 256 grey levels; n = n_bits; k = x8 >> (8 - n) the 2^n
levels; v = (k + u) / 2^n - 1/2 in [-1/2, 1/2) with noise u in [0, 1): a level is a cell of volume 2^-n.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from losses.precision import raised


def to_levels(x: Tensor, n_bits: int = 8) -> Tensor:
    """Images in [-1, 1] -> int32 levels 0 .. 2^n - 1; all 256 grey levels come back exactly, others are clamped."""
    assert 1 <= n_bits <= 8, n_bits
    return _to_bytes(x) >> (8 - n_bits)


def dequantise(k: Tensor, n_bits: int = 8, u: Tensor | float | None = None) -> Tensor:
    """Levels -> v = (k + u) / 2^n - 1/2 in [-1/2, 1/2), float32 unless u is float64. Theis et al. 1511.01844.

    u: None draws U[0, 1) anew; 0.5, the middle of a cell, for codes that are to be edited. `k` is not written to.
    """
    if u is None:
        u = torch.rand(k.shape, device=k.device)
    u = torch.as_tensor(u, device=k.device)
    u = raised(u) if u.is_floating_point() else u.float()
    if u.dtype == torch.float32:
        # Without this, k + u rounds up to the next level: once in 2^17 pixels at n = 8.
        u = u.clamp_max(1 - 2.0 ** (n_bits - 24))
    return (k.to(u.dtype) + u) * 2.0**-n_bits - 0.5


def to_pixels(v: Tensor, n_bits: int = 8, lost: Tensor | None = None) -> Tensor:
    """v -> images in [-1, 1]: the level's cell, floored, clamped, shown at its middle (8 bits: the level itself).

    lost: the bits that `n_bits` < 8 dropped (`lost_bits` of the source), added back: an edit of nothing returns the
    photo's bytes.
    """
    v = raised(v)
    k = ((v + 0.5) * 2.0**n_bits).floor().clamp(0, 2**n_bits - 1).to(torch.int32)
    x8 = _level_to_byte(k, n_bits)
    if lost is not None:
        x8 = (x8 + lost).clamp(0, 255)
    return x8.to(v.dtype) / 127.5 - 1


def lost_bits(x: Tensor, n_bits: int) -> Tensor:
    """What the levels forget: x8 minus the grey level that `to_pixels` shows for them, int32."""
    return _to_bytes(x) - _level_to_byte(to_levels(x, n_bits), n_bits)


def bits_per_dim(log_prob: Tensor, num_dims: int, n_bits: int = 8) -> Tensor:
    """Bits per dimension of the *pixels*, -log p / (D ln 2) + n, from log p(v) in nats over D = num_dims = C H W.

    (N,) -> (N,). A cell has volume 2^(-n D), hence Jensen's bound on -log2 P(k) / D is n more than the density's own
    figure (Theis et al. 1511.01844, section 3.1).
    """
    return -raised(log_prob) / (num_dims * math.log(2)) + n_bits


def _to_bytes(x: Tensor) -> Tensor:
    return ((raised(x) + 1) * 127.5).round().clamp(0, 255).to(torch.int32)


def _level_to_byte(k: Tensor, n_bits: int) -> Tensor:
    return k if n_bits == 8 else (k << (8 - n_bits)) + 2 ** (7 - n_bits)
