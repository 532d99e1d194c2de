"""Grids of images with captions, and animations, written with Pillow alone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from engine.errors import UserError
from engine.files import atomic_write
from engine.method import Grid

PAPER, INK, GAP = (250, 250, 250), (20, 20, 20), 2
FONT_SIZE = 12


def to_uint8(images: Tensor) -> np.ndarray:
    """(…, C, H, W) float in [-1, 1] -> (…, C, H, W) uint8, rounded: the inverse of x8 / 127.5 - 1."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()


def to_pil(image: Tensor) -> Image.Image:
    """(C, H, W) in [-1, 1], one or three channels -> an RGB or grey picture."""
    array = to_uint8(image)
    return Image.fromarray(array[0] if array.shape[0] == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def grid_image(grid: Grid, scale: int | None = None) -> Image.Image:
    """A grid as an RGB picture, columns captioned above, rows at the left, tiles below.

    Pixels are repeated `scale` times (by default until a tile is at least 64 wide, 80 with a caption), never
    interpolated.
    """
    images = grid.images
    if images.ndim != 5:
        raise ValueError(f"a grid's images are (R, K, C, H, W), got {tuple(images.shape)}")
    rows, columns, channels, height, width = images.shape
    scale = scale or max(1, math.ceil((80 if grid.tiles else 64) / width))
    pixels = to_uint8(images).repeat(scale, axis=-1).repeat(scale, axis=-2)
    if channels == 1:
        pixels = pixels.repeat(3, axis=2)
    below = FONT_SIZE + 3 if grid.tiles else 0
    tile_h, tile_w = height * scale + below + GAP, width * scale + GAP
    font = ImageFont.load_default(FONT_SIZE)
    left = max((int(font.getlength(line)) + 8 for text in grid.rows for line in text.split("\n")), default=0)
    column_lines = [_wrap(text, font, tile_w - 6) for text in grid.columns]
    top = max((len(lines) for lines in column_lines), default=0) * (FONT_SIZE + 3) + (4 if column_lines else 0)
    sheet = np.full((top + rows * tile_h, left + columns * tile_w, 3), PAPER, dtype=np.uint8)
    for r in range(rows):
        for k in range(columns):
            y, x = top + r * tile_h, left + k * tile_w
            sheet[y : y + height * scale, x : x + width * scale] = pixels[r, k].transpose(1, 2, 0)
    picture = Image.fromarray(sheet)
    draw = ImageDraw.Draw(picture)
    for k, lines in enumerate(column_lines):
        draw.multiline_text((left + k * tile_w, 1), "\n".join(lines), INK, font, spacing=2)
    for r, text in enumerate(grid.rows):
        draw.multiline_text((3, top + r * tile_h + tile_h // 2), text, INK, font, anchor="lm", spacing=2)
    small = ImageFont.load_default(FONT_SIZE - 2)
    for r, texts in enumerate(grid.tiles):
        for k, text in enumerate(texts):
            place = (left + k * tile_w + tile_w // 2, top + (r + 1) * tile_h - below - 1)
            draw.text(place, text, INK, small, anchor="ma")
    return picture


def _wrap(text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.replace("\n", " \n ").split(" "):
        trial = f"{lines[-1]} {word}".strip()
        if word == "\n":
            lines.append("")
        elif font.getlength(trial) <= width or not lines[-1]:
            lines[-1] = trial
        else:
            lines.append(word)
    return lines


def save_image(picture: Image.Image, path: str | Path) -> Path:
    """Write a picture, format by suffix, whole or not at all."""
    path = Path(path)
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    if path.suffix.lower() not in formats:
        raise UserError(f"{path}: unknown kind of picture '{path.suffix}'; expected one of {', '.join(formats)}")
    with atomic_write(path) as file:
        picture.save(file, format=formats[path.suffix.lower()])
    return path


def save_grid(grid: Grid, path: str | Path, scale: int | None = None) -> Path:
    """Write `grid_image(grid)` under `path`."""
    return save_image(grid_image(grid, scale), path)


def save_animation(frames: Tensor | Sequence[Image.Image], path: str | Path, fps: float = 8, scale: int = 1) -> Path:
    """Write frames, (T, C, H, W) in [-1, 1] or pictures, as an endless animated WebP or (by suffix) GIF."""
    path = Path(path)
    pictures = [f if isinstance(f, Image.Image) else to_pil(f) for f in frames]
    pictures = [
        p.convert("RGB").resize((p.width * scale, p.height * scale), Image.Resampling.NEAREST) for p in pictures
    ]
    options = {".webp": dict(format="WEBP", quality=90, method=4), ".gif": dict(format="GIF")}.get(path.suffix.lower())
    if options is None:
        raise UserError(f"{path}: an animation is a .webp or a .gif")
    with atomic_write(path) as file:
        pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, **options)
    return path
