"""Make pencil sketches of photos: PNG files with the same names, for `data.sketch`.

    python scripts/extract_sketches.py --in PHOTOS --out SKETCHES [--style dodge|ink] [--sigma 0.0197]

The same photos give the same bytes.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.photo import open_photo
from data.sketch import SIGMA, STYLES, sketch
from engine.errors import UserError, exit_on_user_error
from engine.grids import to_uint8

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".pgm")


def to_sketch(photo: np.ndarray, style: str, sigma: float) -> np.ndarray:
    """(h, w, 3) uint8 -> (h, w) uint8."""
    x = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return to_uint8(sketch(x, style, sigma))[0, 0]


def of_folder(folder: Path, out: Path, style: str, sigma: float) -> None:
    """Write the sketch of every photo in `folder` and its subfolders to `out/<same path>.png`."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTOS)
    if not files:
        raise UserError(f"--in {folder}: there are no photos; expected files with a suffix of {', '.join(PHOTOS)}")
    targets = [(out / path.relative_to(folder)).with_suffix(".png") for path in files]
    twice = {t for t in targets if targets.count(t) > 1} if len(set(targets)) < len(targets) else set()
    if twice:
        raise UserError(f"--in {folder}: two photos have the same output file {min(twice)}; rename one of them")

    def one(pair: tuple[Path, Path]) -> str:
        try:
            photo = np.asarray(open_photo(pair[0]))
        except UserError as error:
            return str(error)
        pair[1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_sketch(photo, style, sigma)).save(pair[1], compress_level=1)
        return ""

    with ThreadPoolExecutor() as pool:
        bad = [text for text in pool.map(one, zip(files, targets, strict=True)) if text]
    for text in bad:
        print(text)
    print(f"wrote {len(files) - len(bad)} sketches into {out}" + (f"; {len(bad)} photos were left out" if bad else ""))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--in", dest="folder", type=Path, required=True, help="folder of photos, searched with its subfolders"
    )
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--style", choices=STYLES, default="dodge", help="soft pencil, or ink lines")
    parser.add_argument("--sigma", type=float, default=SIGMA, help="width of the strokes, as a share of the width")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        if not 0.005 <= args.sigma <= 0.1:
            raise UserError(f"--sigma {args.sigma}: expected a share of the width, 0.005 .. 0.1")
        if not args.folder.is_dir():
            raise UserError(f"--in {args.folder}: this folder does not exist")
        of_folder(args.folder, args.out, args.style, args.sigma)


if __name__ == "__main__":
    main()
