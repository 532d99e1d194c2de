"""Contact sheets of the drawn faces: `python scripts/contact_sheet.py [--out docs/figures]`.

drawn_faces.png         persons x expressions at 96 px
drawn_faces_edits.png   each attribute before and after an edit
drawn_faces_large.png   256 px, three with landmarks
drawn_faces_small.png   64 px, and 32 px enlarged twice, colour and grey
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from data.synthetic import ATTRIBUTES, CLASSES, apply, attributes, factors, landmarks, render
from editing.side_by_side import beside
from engine import Grid
from engine.errors import exit_on_user_error
from engine.grids import BACKGROUND, GAP, grid_image, save_image

ORDER = ("neutral", "happy", "sad", "angry", "fear", "surprise", "disgust", "contempt")
EDITS = (
    "Smiling=1", "Smiling=0", "Mouth_Slightly_Open=1", "Eyeglasses=1", "Male=1", "Male=0", "Young=0", "Bald=1",
    "Bangs=1", "Blond_Hair=1", "Wavy_Hair=1", "Bushy_Eyebrows=1", "5_o_Clock_Shadow=1", "Goatee=1", "Mustache=1",
    "No_Beard=0", "Big_Nose=1", "Narrow_Eyes=1", "Pale_Skin=1", "Rosy_Cheeks=1", "Wearing_Lipstick=1",
    "Wearing_Hat=1", "Gray_Hair=1", "Chubby=1", "Arched_Eyebrows=1", "Big_Lips=1", "Pointy_Nose=1",
    "Receding_Hairline=1", "Bags_Under_Eyes=1", "Wearing_Earrings=1", "Straight_Hair=1", "Black_Hair=1", "Blurry=1",
)  # fmt: skip

LARGE = range(0, 120, 10)  # the large sheet: one face of each of the first twelve persons


def take(f: dict, rows: np.ndarray | slice) -> dict:
    return {k: v[rows] for k, v in f.items()}


def grid(x: np.ndarray, rows: int, captions: Sequence[str] = (), names: Sequence[str] = ()) -> Grid:
    """A grid of faces (rows x columns, C, S, S) uint8, with captions of columns and rows."""
    images = torch.from_numpy(x.reshape(rows, -1, *x.shape[1:])).float() / 127.5 - 1
    return Grid(images, list(names), list(captions))


def expressions_sheet(seed: int, persons: list[int], size: int, grey: bool = False, scale: int = 1) -> Image.Image:
    f = factors(seed, np.array(persons) * 10, classes=8, intensity=(0.85, 1.0))
    x = np.stack([render(apply(f, name), size, grey) for name in ORDER], 1)  # (persons, expressions, C, S, S)
    return grid_image(grid(x.reshape(-1, *x.shape[2:]), len(persons), ORDER), scale)


def edits_sheet(seed: int, size: int) -> Image.Image:
    """One row for each edit: two faces, each before and after it."""
    pool = factors(seed, np.arange(400, 1000, 3), classes=8, intensity=(0.6, 1.0))
    pool = take(pool, (pool["hat"] == 0) & (pool["style"] != 0) & (pool["blur"] < 0.2))
    labels, pairs = attributes(pool), []
    for k, edit in enumerate(EDITS):
        name, _, value = edit.partition("=")
        other = np.flatnonzero(labels[:, ATTRIBUTES.index(name)] != float(value))
        if "Beard" in name or name in ("Goatee", "Mustache", "5_o_Clock_Shadow", "Sideburns"):
            other = other[pool["male"][other] > 0.5]
        if name == "Smiling":
            other = other[(pool["expr"][other] == CLASSES.index("happy" if value == "0" else "neutral"))]
        f = take(pool, other[[(5 * k) % len(other), (5 * k + 7) % len(other)]])
        pairs.append(np.stack([render(f, size), render(apply(f, edit), size)], 1))
    x = np.concatenate(pairs).reshape(-1, 3, size, size)
    thirds = [slice(k, k + len(EDITS) // 3) for k in range(0, len(EDITS), len(EDITS) // 3)]
    sheets = [grid_image(grid(x[4 * t.start : 4 * t.stop], t.stop - t.start, names=EDITS[t]), 1) for t in thirds]
    return beside(sheets)


def large_sheet(seed: int, indices: Sequence[int], columns: int = 4, size: int = 256) -> Image.Image:
    f = factors(seed, np.array(indices), classes=8, intensity=(0.7, 1.0))
    page, step = grid_image(grid(render(f, size), len(indices) // columns), 1), size + GAP
    draw, points = ImageDraw.Draw(page), landmarks(f)
    for k in (0, 5, 10):
        row, column = divmod(k, columns)
        for x, y in (points[k] + 1) / 2 * size + (column * step, row * step):
            draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=(40, 255, 40))
    return page


def small_sheet(seed: int, persons: list[int]) -> Image.Image:
    """64 px, and 32 px enlarged twice; colour on the left, grey on the right."""
    halves = []
    for grey in (False, True):
        large, small = (expressions_sheet(seed, persons, size, grey, 64 // size) for size in (64, 32))
        page = Image.new("RGB", (large.width, large.height + small.height), BACKGROUND)
        page.paste(large, (0, 0))
        page.paste(small, (0, large.height))
        halves.append(page)
    return beside(halves)


def main() -> None:
    parser = argparse.ArgumentParser(description="Contact sheets of the drawn faces.")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--persons", type=int, nargs="+", default=[*range(8)])
    args = parser.parse_args()
    sheets = {
        "drawn_faces": lambda: expressions_sheet(args.seed, args.persons, 96),
        "drawn_faces_edits": lambda: edits_sheet(args.seed, 86),
        "drawn_faces_large": lambda: large_sheet(args.seed, LARGE),
        "drawn_faces_small": lambda: small_sheet(args.seed, args.persons[:6]),
    }
    with exit_on_user_error():
        for name, make in sheets.items():
            print(save_image(make(), args.out / f"{name}.png"))


if __name__ == "__main__":
    main()
