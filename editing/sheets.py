"""Grids and animations of faces."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from engine import Grid, save_animation

COLUMNS = 12  # faces per row of `blocks`
MIN_SIZE = 128  # minimum size of a face in an animation, px


def square(images: Tensor) -> Grid:
    """A square grid of images (N, C, H, W); the last row is filled with white images."""
    columns = max(1, round(len(images) ** 0.5))
    return Grid(filled(images, columns).unflatten(0, (-1, columns)))


def blocks(kinds: Sequence[Tensor], names: Sequence[str]) -> Grid:
    """Kinds of images (N, C, H, W) of the same N faces: kinds below each other, at most 12 faces per row."""
    columns = min(COLUMNS, len(kinds[0]))
    rows = torch.stack([filled(kind, columns) for kind in kinds], 1).unflatten(0, (-1, columns))
    rows = rows.transpose(1, 2).flatten(0, 1)  # (blocks x kinds, K, C, H, W)
    return Grid(rows, list(names) * (len(rows) // len(names)))


def filled(images: Tensor, columns: int) -> Tensor:
    """Images (N, C, H, W), and white images until the last row of `columns` images is full."""
    return torch.cat([images, images.new_ones(-len(images) % columns, *images.shape[1:])])


def animate(images: Tensor, path: Path, back: bool = True) -> Path:
    """Write an animation of images (T, R, C, H, W): T frames of R faces below each other; `back`: also in reverse."""
    frames = torch.cat([images, images.flip(0)[1:-1]]) if back else images
    return save_animation(frames.transpose(1, 2).flatten(2, 3), path, scale=max(1, MIN_SIZE // images.shape[-1]))


def same_size(image: Tensor, size: int) -> Tensor:
    """An image (C, H, H) as (3, size, size), bilinear."""
    if image.shape[-1] != size:
        image = interpolate(image[None], (size, size), mode="bilinear", align_corners=False)[0]
    return image.expand(3, -1, -1)
