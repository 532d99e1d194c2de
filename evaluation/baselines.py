"""Baselines, exported like a method's edits: no edit, the class-mean difference, and the ground truth.

python -m evaluation.baselines --like EXPORT --kind no-edit|class-mean-difference|ground-truth [--real RUN] --out DIR
"""

import argparse
import shutil
from pathlib import Path
from types import SimpleNamespace

from torch import Tensor

from data import DataConfig
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_dir
from engine.grids import to_pil
from evaluation.folder import Export, read_folders
from evaluation.manifest import Row, write_export, write_manifest
from evaluation.real import Real, at_size, open_real

KINDS = ("no-edit", "class-mean-difference", "ground-truth")


def export_baseline(like: list[Path], kind: str, real: Real | None, out: Path, gain: float = 1.0) -> Path:
    """Edit the sources of another export without a network.

    Args:
        like: exports of one method; sources, targets, ground truth and strengths are copied from them.
        kind: no-edit (the source), class-mean-difference (source + gain x strength x difference of the class means), or
            ground-truth (the ground truth of the export).
        real: labelled training faces, for class-mean-difference; else None.

    Raises:
        UserError: `out` would replace an input; no edits with sources; labels are missing.
    """
    for folder in like:
        if out.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise UserError(f"--out {out}: contains the input {folder}; choose another folder")
    export = read_folders(like)
    rows = [i for i, row in enumerate(export.rows) if row.kind == "edit" and export.source[i] >= 0]
    if kind == "ground-truth":
        rows = [i for i in rows if export.truth[i] >= 0]
    if not rows:
        what = "no edits with a known ground truth" if kind == "ground-truth" else "no edits with sources"
        raise UserError(f"{like[0]}: has {what}; export edits first")
    means = class_means(real, export) if kind == "class-mean-difference" else {}
    with atomic_dir(out) as folder:
        written = [_write(export, i, n, kind, means, gain, folder) for n, i in enumerate(rows)]
        write_manifest(folder, written)
        first = export.facts[0]
        origin = SimpleNamespace(run=kind, step=0, sha256="")
        write_export(folder, origin, first, "edit", base="source", baseline=kind, gain=gain)
    return out


def class_means(real: Real | None, export: Export) -> dict[str, Tensor]:
    """{class or "Name=1" or "Name=0": mean face (C, H, W)} of the labelled real faces, at the export's size."""
    if real is None:
        raise UserError("class-mean-difference: labelled faces are missing; give --real RUN, or a YAML file")
    x = at_size(real.images, export.images.shape[-2:], export.images.shape[1]).float()
    means = {name: x[real.label == k].mean(0) for k, name in enumerate(real.classes) if (real.label == k).any()}
    for a, name in enumerate(real.attributes if real.attr.shape[1] else ()):
        for value in (0, 1):
            if (real.attr[:, a] == value).any():
                means[f"{name}={value}"] = x[real.attr[:, a] == value].mean(0)
    return means


def difference(row: Row, means: dict[str, Tensor]) -> Tensor | float:
    """The image (C, H, W) to add to a source for the targets of this row; 0 if a class mean is unknown."""
    total: Tensor | float = 0.0
    for name, value in row.requests().items():
        if value:
            to, start = f"{name}={value}", f"{name}={1 - int(value)}"
        else:
            to, start = name, row.source_label
        if to in means and start in means:
            total = total + means[to] - means[start]
    return total


def _write(export: Export, i: int, n: int, kind: str, means: dict[str, Tensor], gain: float, folder: Path) -> Row:
    row, x = export.rows[i], export.images[export.source[i]].float()
    if kind == "ground-truth":
        x = export.images[export.truth[i]].float()
    if kind == "class-mean-difference":
        x = (x + gain * row.strength * difference(row, means)).clamp(0, 255)
    name = f"edit_{n:06d}.png"
    to_pil(x / 127.5 - 1).save(folder / name)
    copies = {"file": name, "kind": "edit"}
    for key, path in (("source", row.source), ("truth", row.truth)):
        if path:
            # Several edits share one source, so its name is its index in the images of the export.
            copies[key] = f"{key}_{int(getattr(export, key)[i]):06d}.png"
            if not (folder / copies[key]).exists():
                shutil.copyfile(path, folder / copies[key])
    return Row(**{**row.__dict__, "landmarks": "", **copies})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--like", nargs="+", type=Path, required=True, help="exports of edits; their sources are edited"
    )
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--real", help="run, YAML file or folder with labelled faces, for class-mean-difference")
    parser.add_argument("--gain", type=float, default=1.0, help="factor of the difference")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    with exit_on_user_error():
        real = labelled(args.real) if args.kind == "class-mean-difference" else None
        export_baseline(args.like, args.kind, real, args.out, args.gain)
        print(f"wrote {args.out}")


def labelled(where: str | None) -> Real:
    """Labelled training faces. The class means must not use test faces."""
    if where is None:
        raise UserError("class-mean-difference: labelled faces are missing; give --real RUN, or a YAML file")
    return open_real(where, DataConfig(), max_images=0, split="train")


if __name__ == "__main__":
    main()
