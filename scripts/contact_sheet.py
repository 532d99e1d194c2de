"""Contact sheets of the drawn faces: `python scripts/contact_sheet.py [--out docs/figures]`.

drawn_faces.png         persons x expressions at 96 px
drawn_faces_edits.png   each attribute before and after an edit
drawn_faces_large.png   256 px, three with landmarks
drawn_faces_small.png   32 and 64 px, colour and grey, original size and enlarged
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data.synthetic import ATTRIBUTES, CLASSES, apply, attributes, factors, landmarks, render
from engine.errors import exit_on_user_error
from engine.files import atomic_write

ORDER = ("neutral", "happy", "sad", "angry", "fear", "surprise", "disgust", "contempt")
EDITS = (
    "Smiling=1", "Smiling=0", "Mouth_Slightly_Open=1", "Eyeglasses=1", "Male=1", "Male=0", "Young=0", "Bald=1",
    "Bangs=1", "Blond_Hair=1", "Wavy_Hair=1", "Bushy_Eyebrows=1", "5_o_Clock_Shadow=1", "Goatee=1", "Mustache=1",
    "No_Beard=0", "Big_Nose=1", "Narrow_Eyes=1", "Pale_Skin=1", "Rosy_Cheeks=1", "Wearing_Lipstick=1",
    "Wearing_Hat=1", "Gray_Hair=1", "Chubby=1", "Arched_Eyebrows=1", "Big_Lips=1", "Pointy_Nose=1",
    "Receding_Hairline=1", "Bags_Under_Eyes=1", "Wearing_Earrings=1", "Straight_Hair=1", "Black_Hair=1", "Blurry=1",
)  # fmt: skip

LARGE = range(0, 120, 10)  # the large sheet: one face of each of the first twelve persons


def tile(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows * columns, C, S, S) uint8 -> (rows S, columns S, 3)."""
    x = np.repeat(x, 3, 1) if x.shape[1] == 1 else x
    n, c, s, _ = x.shape
    return x.reshape(rows, columns, c, s, s).transpose(0, 3, 1, 4, 2).reshape(rows * s, columns * s, c)


def take(f: dict, rows: np.ndarray | slice) -> dict:
    return {k: v[rows] for k, v in f.items()}


def join(parts: list[dict]) -> dict:
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def by_expression(f: dict) -> dict:
    """Each face of f with all eight expressions, faces outermost."""
    faces = join([apply(f, name) for name in ORDER])
    n = len(f["index"])
    return take(faces, np.arange(n * len(ORDER)).reshape(len(ORDER), n).T.ravel())


def captioned(picture: np.ndarray, captions: list[str], width: int) -> Image.Image:
    page = Image.new("RGB", (picture.shape[1], picture.shape[0] + 14), "white")
    page.paste(Image.fromarray(picture), (0, 14))
    for k, text in enumerate(captions):
        ImageDraw.Draw(page).text((k * width + 3, 1), text, fill="black")
    return page


def expressions_sheet(seed: int, persons: list[int], size: int, grayscale: bool = False) -> Image.Image:
    f = factors(seed, np.array(persons) * 10, classes=8, intensity=(0.85, 1.0))
    x = render(by_expression(f), size, grayscale)
    return captioned(tile(x, len(persons), len(ORDER)), list(ORDER), size)


def edits_sheet(seed: int, size: int, columns: int = 3) -> Image.Image:
    pool = factors(seed, np.arange(400, 1000, 3), classes=8, intensity=(0.6, 1.0))
    pool = take(pool, (pool["hat"] == 0) & (pool["style"] != 0) & (pool["blur"] < 0.2))
    labels, cells = attributes(pool), []
    for k, edit in enumerate(EDITS):
        name, _, value = edit.partition("=")
        other = np.flatnonzero(labels[:, ATTRIBUTES.index(name)] != float(value))
        if "Beard" in name or name in ("Goatee", "Mustache", "5_o_Clock_Shadow", "Sideburns"):
            other = other[pool["male"][other] > 0.5]
        if name == "Smiling":
            other = other[(pool["expr"][other] == CLASSES.index("happy" if value == "0" else "neutral"))]
        f = take(pool, other[[(5 * k) % len(other), (5 * k + 7) % len(other)]])
        x = np.stack([render(f, size), render(apply(f, edit), size)], 1).reshape(4, 3, size, size)
        cells.append(np.asarray(captioned(tile(x, 1, 4), [edit], 4 * size)))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    gap = np.full((cells[0].shape[0], 6, 3), 255, np.uint8)
    cells = [np.concatenate([c, gap], 1) for c in cells]
    return Image.fromarray(
        np.concatenate([np.concatenate(cells[k : k + columns], 1) for k in range(0, len(cells), columns)])
    )


def large_sheet(seed: int, indices: Sequence[int], columns: int = 4, size: int = 256) -> Image.Image:
    f = factors(seed, np.array(indices), classes=8, intensity=(0.7, 1.0))
    page = Image.fromarray(tile(render(f, size), len(indices) // columns, columns))
    draw, points = ImageDraw.Draw(page), landmarks(f)
    for k in (0, 5, 10):
        row, column = divmod(k, columns)
        for x, y in (points[k] + 1) / 2 * size + (column * size, row * size):
            draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=(40, 255, 40))
    return page


def small_sheet(seed: int, persons: list[int]) -> Image.Image:
    """Rows of 64 px, 32 px enlarged twice, 32 px; colour on the left, grey on the right."""
    faces = by_expression(factors(seed, np.array(persons) * 10, classes=8, intensity=(0.85, 1.0)))
    columns = []
    for grey in (False, True):
        large, small = (tile(render(faces, size, grey), len(persons), len(ORDER)) for size in (64, 32))
        doubled = small.repeat(2, 0).repeat(2, 1)
        strip = np.full((small.shape[0], large.shape[1], 3), 255, np.uint8)
        strip[:, : small.shape[1]] = small
        columns.append(np.asarray(captioned(np.concatenate([large, doubled, strip]), list(ORDER), 64)))
    gap = np.full((columns[0].shape[0], 6, 3), 255, np.uint8)
    return Image.fromarray(np.concatenate([columns[0], gap, columns[1]], 1))


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
            with atomic_write(args.out / f"{name}.png") as file:
                make().save(file, "PNG", optimize=True)
            print(args.out / f"{name}.png")


if __name__ == "__main__":
    main()
