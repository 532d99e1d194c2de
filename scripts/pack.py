"""Make the pack of a data set before training, and print its content.

    python scripts/pack.py --config configs/vae/fer2013_48.yaml
    python scripts/pack.py data.dataset=celeba data.root=/path data.image_size=64 --sheet celeba.png

Prints the class balance, the attribute frequencies, bad images and copies across splits, and writes a contact sheet.
Only the `data` block of the YAML file is used.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from data import DataConfig, Faces, FaceSet, build_faces
from data.config import DataBlock
from data.crop import FAULTS
from data.faces import AlternatingDataset
from data.pack import Pack, open_pack
from engine import Grid, save_grid
from engine.config import load_config
from engine.errors import UserError, exit_on_user_error

SPLITS = ("train", "val", "test")
NUM_SHOWN = 20  # bad images that are listed


def data_config(path: Path | None, overrides: list[str]) -> DataConfig:
    """The `data` block of a YAML file, with `data.key=value` overrides."""
    return load_config(DataBlock, path, overrides, only="data").data


def table(faces: Faces) -> list[str]:
    """Counts of each class in each split, as lines."""
    meta = faces.meta
    lines = [f"{'':<12}" + "".join(f"{name:>10}" for name in SPLITS)]
    lines.append(f"{'faces':<12}" + "".join(f"{meta[f'num_{name}']:>10,}" for name in SPLITS))
    for k, name in enumerate(meta["classes"]):
        lines.append(f"{name:<12}" + "".join(f"{meta['class_counts'][split][k]:>10,}" for split in SPLITS))
    counts = meta["class_counts"]["train"]
    if counts and min(counts) < 0.02 * max(sum(counts), 1):
        rare = meta["classes"][int(np.argmin(counts))]
        lines.append(f"{rare} has less than 2 % of the training faces: consider data.balanced=true")
    return lines


def attribute_lines(train: FaceSet, names: list[str]) -> list[str]:
    """Frequency of 1 among the known values of each attribute, as lines."""
    if not names:
        return []
    frequencies = np.nanmean(train.labels["attr"], axis=0)
    listed = ", ".join(f"{name} {share:.2f}" for name, share in zip(names, frequencies, strict=True))
    return [f"attributes (frequency of 1 in train): {listed}"]


def fault_lines(pack: Pack) -> list[str]:
    """Number of bad images per split, and copies across splits, before drop_bad and dedup; as lines."""
    fault, split, pixels = (pack.labels[key] for key in ("fault", "split", "pixels"))
    lines = []
    for k, name in enumerate(FAULTS):
        if k and (fault == k).any():
            by_split = ", ".join(f"{SPLITS[s]} {((fault == k) & (split == s)).sum()}" for s in range(3))
            lines.append(f"{name}: {(fault == k).sum()} ({by_split})")
    lines += [f"  {text}" for text in pack.meta["faulty"][:NUM_SHOWN]]
    more = len(pack.meta["faulty"]) - NUM_SHOWN
    lines += [f"  and {more} more in {pack.folder / 'meta.json'}"] if more > 0 else []
    readable = fault != 1
    for a, b in ((0, 1), (0, 2), (1, 2)):
        copies = np.isin(pixels[readable & (split == b)], pixels[readable & (split == a)]).sum()
        lines.append(f"{copies} {SPLITS[b]} images have an exact copy in {SPLITS[a]}")
    return lines


def report(cfg: DataConfig, sheet: Path | None) -> None:
    """Make or open one pack and print its content."""
    start = time.monotonic()
    pack = open_pack(cfg)
    faces = build_faces(cfg)
    meta = faces.meta
    size = pack.images.nbytes / 1e9
    print(f"{pack.folder} ({size:.2f} GB, {time.monotonic() - start:.1f} s)")
    print(f"{meta['dataset']}: {meta['image_size']} px, {meta['channels']} channel(s), crop {meta['crop']}, eyes at "
          f"{meta['eyes']}, {meta['identities']:,} persons, {meta['landmarks']} landmarks")  # fmt: skip
    assert not isinstance(faces.train, AlternatingDataset)
    for line in [*table(faces), *attribute_lines(faces.train, meta["attributes"]), *fault_lines(pack)]:
        print(line)
    sheet = sheet or pack.folder / "contact_sheet.png"
    save_grid(Grid(faces.train.fixed(8 * 16)["image"].unflatten(0, (8, 16))), sheet, 1)  # evenly spaced over the set
    print(f"contact sheet: {sheet}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="YAML file of any method")
    parser.add_argument("--sheet", type=Path, help="file of the contact sheet; default: in the folder of the pack")
    parser.add_argument("overrides", nargs="*", metavar="data.key=value")
    args = parser.parse_intermixed_args(argv)
    with exit_on_user_error():
        if args.sheet and args.sheet.suffix.lower() != ".png":
            raise UserError(f"--sheet {args.sheet}: expected a .png file")
        cfg = data_config(args.config, args.overrides)
        if not cfg.sets:
            report(cfg, args.sheet)
            return
        for place, name in enumerate(cfg.sets):
            root = cfg.roots[place] if cfg.roots else ""
            sheet = args.sheet and args.sheet.with_stem(f"{args.sheet.stem}_{place}_{name}")
            report(replace(cfg, dataset=name, root=root, sets=[], roots=[]), sheet)


if __name__ == "__main__":
    main()
