"""One edit: photo -> code -> changed code -> photo. Tensors in, tensors out.

A photo is encoded without noise, at the centre of its quantisation cell. The bits that n_bits < 8 drops are added back
at the end, so an edit that changes nothing returns the photo's bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flow.model import Code, GlowFlow
from losses.quantise import dequantise, lost_bits, to_levels, to_pixels


@dataclass
class CodedPhoto:
    """A photo's code under y, and the low bits that the levels drop."""

    code: Code
    y: Tensor | None
    lost: Tensor  # (N, C, H, H) int32


def encode_photo(flow: GlowFlow, x: Tensor, n_bits: int, y: Tensor | None = None) -> CodedPhoto:
    """Encode x (N, C, H, H) in [-1, 1], on the grid of 256 grey levels."""
    v = dequantise(to_levels(x, n_bits), n_bits, 0.5)
    return CodedPhoto(flow.encode(v, y), y, lost_bits(x, n_bits))


def decode_photo(
    flow: GlowFlow, eps: Sequence[Tensor], n_bits: int, y: Tensor | None = None, lost: Tensor | None = None
) -> Tensor:
    """eps -> images (N, C, H, H) in [-1, 1] on the grid of 256 grey levels. lost: dropped bits of the source."""
    return to_pixels(flow.decode(eps, y), n_bits, lost)


def move(flow: GlowFlow, photo: CodedPhoto, step: Tensor, n_bits: int) -> Tensor:
    """The photo with its code moved by `step` (D,) or (N, D), coarsest level first. -> (N, C, H, H)"""
    moved = photo.code.flat() + step.to(photo.code.log_prob)
    return decode_photo(flow, flow.unflatten(moved), n_bits, photo.y, photo.lost)


def transfer(flow: GlowFlow, photo: CodedPhoto, y_target: Tensor, gain: float, n_bits: int) -> Tensor:
    """Decode the same code under another label: decode(eps, y + gain (y' - y)). -> (N, C, H, H)

    gain 1 is the target label. A larger gain extrapolates (README, "Labels").
    """
    y = photo.y + gain * (y_target - photo.y)
    return decode_photo(flow, photo.code.eps, n_bits, y, photo.lost)


def level_mask(flow: GlowFlow, levels: Sequence[int], device: torch.device) -> Tensor:
    """(D,): 1 where a code belongs to one of `levels` (1 = finest), else 0."""
    ones = [
        torch.full((1, *shape), float(number in levels), device=device) for number, shape in enumerate(flow.shapes, 1)
    ]
    return torch.cat([part.flatten() for part in reversed(ones)])
