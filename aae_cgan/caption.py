"""Tiles with a line below each: what a judge sees in it."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from engine import Grid
from engine.grids import FONT_SIZE, INK, PAPER, to_pil

BAND = FONT_SIZE + 5  # px below a tile
TILE = 80  # px of a tile at least: room for a class and its probability


def captioned(grid: Grid, texts: Sequence[Sequence[str]]) -> Grid:
    """The grid with `texts[row][column]` below its tiles, as pixels of larger tiles: write it with `scale=1`."""
    scale = -(-TILE // grid.images.shape[-1])
    rows = [[_tile(image, text, scale) for image, text in zip(*pair, strict=True)] for pair in zip(grid.images, texts)]
    return Grid(torch.stack([torch.stack(row) for row in rows]), grid.rows, grid.columns)


def _tile(image: Tensor, text: str, scale: int) -> Tensor:
    """(C, H, W) -> (3, H scale + band, W scale)."""
    picture = to_pil(image).convert("RGB")
    width, height = picture.width * scale, picture.height * scale
    tile = Image.new("RGB", (width, height + BAND), PAPER)
    tile.paste(picture.resize((width, height), Image.Resampling.NEAREST))
    font = ImageFont.load_default(FONT_SIZE - 2)
    ImageDraw.Draw(tile).text((width // 2, height + 1), text, INK, font, anchor="ma")
    return torch.from_numpy(np.asarray(tile).copy()).permute(2, 0, 1).float() / 127.5 - 1
