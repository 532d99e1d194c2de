"""Make pencil sketches of photos: PNG files with the same names, for `data.sketch`.

python scripts/extract_sketches.py --in PHOTOS --out SKETCHES [--style dodge|ink] [--sigma 0.0197]
python scripts/extract_sketches.py --config C.yaml --out DIR    # sketches of a data set, in CelebA's layout

The second form writes attributes and split, so that a judge of sketches can be trained on the result
(dataset: celeba, crop: full, grayscale: true). The same photos give the same bytes.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data import DataConfig
from data.photo import open_photo
from data.sketch import SIGMA, STYLES, sketch
from engine.errors import UserError, exit_on_user_error
from engine.grids import to_uint8
from evaluation.real import open_real

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


def of_config(config: Path, out: Path, style: str, sigma: float) -> None:
    """Write sketches of the faces of a config's data block in CelebA's layout: images, attributes, split."""
    pictures, attr, split, names = out / "img_align_celeba", [], [], []
    for part, name in enumerate(("train", "val", "test")):
        real = open_real(config, DataConfig(), max_images=0, split=name)
        names = real.attributes
        if not names:
            raise UserError(f"--config {config}: these faces have no attributes; a judge of sketches needs them")
        pictures.mkdir(parents=True, exist_ok=True)
        for x8, rows in zip(real.images.split(256), real.attr.split(256), strict=True):
            drawn = to_uint8(sketch(x8.float() / 127.5 - 1, style, sigma))
            for s, row in zip(drawn[:, 0], rows.tolist(), strict=True):
                Image.fromarray(s).save(pictures / f"{len(attr) + 1:06d}.png", compress_level=1)
                attr.append(["1" if v == 1 else "-1" for v in row])
                split.append(part)
    files = [f"{k + 1:06d}.png" for k in range(len(attr))]
    rows = [f"{file} {' '.join(bits)}" for file, bits in zip(files, attr, strict=True)]
    (out / "list_attr_celeba.txt").write_text("\n".join([str(len(rows)), " ".join(names), *rows]) + "\n")
    lines = [f"{file} {part}" for file, part in zip(files, split, strict=True)]
    (out / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    print(f"wrote {len(files)} sketches into {out}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--in", dest="folder", type=Path, help="folder of photos, searched with its subfolders")
    where.add_argument("--config", type=Path, help="a YAML file; its data block defines the faces")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--style", choices=STYLES, default="dodge", help="soft pencil, or ink lines")
    parser.add_argument("--sigma", type=float, default=SIGMA, help="width of the strokes, as a share of the width")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        if not 0.005 <= args.sigma <= 0.1:
            raise UserError(f"--sigma {args.sigma}: expected a share of the width, 0.005 .. 0.1")
        if args.config:
            of_config(args.config, args.out, args.style, args.sigma)
        elif not args.folder.is_dir():
            raise UserError(f"--in {args.folder}: this folder does not exist")
        else:
            of_folder(args.folder, args.out, args.style, args.sigma)


if __name__ == "__main__":
    main()
