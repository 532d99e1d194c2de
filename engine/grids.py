"""Grids of images with captions, and animations. They need Pillow only."""

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

BACKGROUND, TEXT_COLOR, GAP = (250, 250, 250), (20, 20, 20), 2
FONT_SIZE = 12


def to_uint8(images: Tensor) -> np.ndarray:
    """Convert (..., C, H, W) float in [-1, 1] to uint8 of the same shape, rounded. The inverse of x8 / 127.5 - 1."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()


def to_pil(image: Tensor) -> Image.Image:
    """Convert (C, H, W) in [-1, 1] to a Pillow image: grey for one channel, RGB for three."""
    array = to_uint8(image)
    return Image.fromarray(array[0] if array.shape[0] == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def grid_image(grid: Grid, scale: int | None = None) -> Image.Image:
    """Draw a grid as an RGB image. Column captions are above, row captions at the left, tile captions below each tile.

    Each pixel is repeated `scale` times in both directions, without interpolation. By default a tile becomes at least
    64 px wide, or 80 px if it has a caption.
    """
    images = grid.images
    if images.ndim != 5:
        raise ValueError(f"expected images (R, K, C, H, W) for a grid, got shape {tuple(images.shape)}")
    rows, columns, channels, height, width = images.shape
    scale = scale or max(1, math.ceil((80 if grid.tiles else 64) / width))
    pixels = to_uint8(images).repeat(scale, axis=-1).repeat(scale, axis=-2)
    if channels == 1:
        pixels = pixels.repeat(3, axis=2)
    caption_h = FONT_SIZE + 3 if grid.tiles else 0
    tile_h, tile_w = height * scale + caption_h + GAP, width * scale + GAP
    font = ImageFont.load_default(FONT_SIZE)
    left = max((int(font.getlength(line)) + 8 for text in grid.rows for line in text.split("\n")), default=0)
    column_lines = [_wrap(text, font, tile_w - 6) for text in grid.columns]
    top = max((len(lines) for lines in column_lines), default=0) * (FONT_SIZE + 3) + (4 if column_lines else 0)
    sheet = np.full((top + rows * tile_h, left + columns * tile_w, 3), BACKGROUND, dtype=np.uint8)
    for r in range(rows):
        for k in range(columns):
            y, x = top + r * tile_h, left + k * tile_w
            sheet[y : y + height * scale, x : x + width * scale] = pixels[r, k].transpose(1, 2, 0)
    picture = Image.fromarray(sheet)
    draw = ImageDraw.Draw(picture)
    for k, lines in enumerate(column_lines):
        draw.multiline_text((left + k * tile_w, 1), "\n".join(lines), TEXT_COLOR, font, spacing=2)
    for r, text in enumerate(grid.rows):
        draw.multiline_text((3, top + r * tile_h + tile_h // 2), text, TEXT_COLOR, font, anchor="lm", spacing=2)
    small = ImageFont.load_default(FONT_SIZE - 2)
    for r, texts in enumerate(grid.tiles):
        for k, text in enumerate(texts):
            place = (left + k * tile_w + tile_w // 2, top + (r + 1) * tile_h - caption_h - 1)
            draw.text(place, text, TEXT_COLOR, small, anchor="ma")
    return picture


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Break `text` into lines of at most `width` px."""
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
    """Write an image, whole or not at all. The suffix chooses the format: .png, .jpg, .jpeg or .webp."""
    path = Path(path)
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    if path.suffix.lower() not in formats:
        raise UserError(f"{path}: unknown image format '{path.suffix}'; expected one of {', '.join(formats)}")
    with atomic_write(path) as file:
        picture.save(file, format=formats[path.suffix.lower()])
    return path


def save_grid(grid: Grid, path: str | Path, scale: int | None = None) -> Path:
    """Write `grid_image(grid)` to `path`."""
    return save_image(grid_image(grid, scale), path)


def save_animation(frames: Tensor | Sequence[Image.Image], path: str | Path, fps: float = 8, scale: int = 1) -> Path:
    """Write frames as an endless animation. The suffix chooses the format: .webp or .gif.

    Args:
        frames: (T, C, H, W) in [-1, 1], or Pillow images of one size.
        path: the file.
        fps: frames per second.
        scale: how often each pixel is repeated in both directions.
    """
    path = Path(path)
    pictures = [(f if isinstance(f, Image.Image) else to_pil(f)).convert("RGB") for f in frames]
    pictures = [p.resize((p.width * scale, p.height * scale), Image.Resampling.NEAREST) for p in pictures]
    options = {".webp": dict(format="WEBP", quality=90, method=4), ".gif": dict(format="GIF")}.get(path.suffix.lower())
    if options is None:
        raise UserError(f"{path}: unknown animation format '{path.suffix}'; expected .webp or .gif")
    with atomic_write(path) as file:
        pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, **options)
    return path
