"""Faces arranged on sheets and in animations."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from engine import Grid, save_animation

COLUMNS = 12  # faces side by side
NUM_SHOWN = 128  # px of a face in an animation, at least


def square(images: Tensor) -> Grid:
    """Images (N, C, H, W) in about as many rows as columns, the last row filled with white."""
    columns = max(1, round(len(images) ** 0.5))
    return Grid(filled(images, columns).unflatten(0, (-1, columns)))


def blocks(kinds: Sequence[Tensor], names: Sequence[str]) -> Grid:
    """Pictures of one face (kinds (N, C, H, W) each) below each other, faces beside each other, twelve a block."""
    columns = min(COLUMNS, len(kinds[0]))
    rows = torch.stack([filled(kind, columns) for kind in kinds], 1).unflatten(0, (-1, columns))
    rows = rows.transpose(1, 2).flatten(0, 1)  # (blocks x kinds, K, C, H, W)
    return Grid(rows, list(names) * (len(rows) // len(names)))


def filled(images: Tensor, columns: int) -> Tensor:
    """Images (N, C, H, W) and as many white ones as the last row lacks."""
    return torch.cat([images, images.new_ones(-len(images) % columns, *images.shape[1:])])


def animate(images: Tensor, path: Path, back: bool = True) -> Path:
    """Write images (T, R, C, H, W): a frame shows R faces below each other; `back`: there and back again."""
    frames = torch.cat([images, images.flip(0)[1:-1]]) if back else images
    return save_animation(frames.transpose(1, 2).flatten(2, 3), path, scale=max(1, NUM_SHOWN // images.shape[-1]))


def same_size(image: Tensor, size: int) -> Tensor:
    """(C, H, H) -> (3, size, size), so that pictures of several models fit into one sheet."""
    if image.shape[-1] != size:
        image = interpolate(image[None], (size, size), mode="bilinear", align_corners=False)[0]
    return image.expand(3, -1, -1)
