"""Predict attributes with a guide, and write them into the label file of a data set in CelebA's layout.

    python -m evaluation.label datasets/fairface --guide RUN --attr Smiling=happy --labelled datasets/london

`Smiling=happy`: the attribute Smiling is 1 if the guide predicts a probability above 0.5 for `happy`, one of its
classes or attributes. FOLDER/list_attr_celeba.txt gets the column. FOLDER/labels_read.json records the guide, the hash
of its weights, and its accuracy on --labelled. This is a set in CelebA's layout with labels of this attribute from
people; its test part is not used. The faces are aligned to the guide's eye positions. A judge is refused, because it
could not measure a model that was trained with its predictions.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import READERS, DataConfig
from data.celeba import READ_LABELS, read_table
from data.pack import Pack, open_pack
from data.raw import TEST
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text
from evaluation import classifier
from evaluation.framing import probabilities

LIST = "list_attr_celeba.txt"
SIZE = 96  # px at which the faces are read; the guide's own size is chosen after the framing


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="data set in CelebA's layout")
    parser.add_argument(
        "--guide", type=Path, required=True, help="run of evaluation.train_classifier, model.role: guide"
    )
    parser.add_argument("--attr", required=True, help="NAME=CLASS, as Smiling=happy; CLASS is one of the guide's names")
    parser.add_argument("--labelled", type=Path, required=True, help="data set in which people gave the attribute")
    parser.add_argument("--eyes", help="eyes of the faces, x,y,x,y in [-1, 1]; default: as the data set says")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        name, _, source = args.attr.partition("=")
        guide = classifier.load(args.guide, role="guide")
        if not name or source not in guide.names:
            raise UserError(f"--attr {args.attr}: expected NAME=CLASS with one of {', '.join(guide.names)}")
        check = measure(guide, name, source, args.labelled)
        pack, names = opened(args.folder, args.eyes)
        read = positive(guide, source, pack)
        write_column(args.folder, names, name, read)
        facts = {"class": source, "threshold": 0.5, "guide": str(args.guide), "step": guide.origin.step}
        facts |= {"sha256": guide.origin.sha256, "images": len(read), "share": round(read.float().mean().item(), 4)}
        facts |= {
            "accuracy": check,
            "command": shlex.join(["python", "-m", "evaluation.label", *(argv or sys.argv[1:])]),
        }
        mark(args.folder, name, facts)
        print(f"{args.folder / LIST}: {name} is 1 for {read.float().mean():.0%} of {len(read)} faces")
        accuracy = f"{check['accuracy']:.3f}, mean of both sides {check['balanced']:.3f}"
        print(f"accuracy on {check['images']} faces of {args.labelled}: {accuracy}")


def opened(folder: Path, eyes: str | None = None) -> tuple[Pack, list[str]]:
    """The pack of a data set in CelebA's layout, and the names of its images."""
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; expected a data set in CelebA's layout")
    cfg = DataConfig(dataset="celeba", root=str(folder), image_size=SIZE, crop="full")
    if eyes is not None:
        try:
            cfg.eyes = [float(v) for v in eyes.split(",")]
            cfg.__post_init__()
        except ValueError:
            raise UserError(f"--eyes {eyes}: expected four numbers in [-1, 1], as -0.38,-0.39,0.35,-0.39") from None
    pack, reader = open_pack(cfg), READERS["celeba"](cfg)
    if not len(reader):  # the index of a zip lists its images
        raise UserError(f"{folder}: has no images")
    if cfg.eyes:
        pack.meta["eyes"] = [cfg.eyes[:2], cfg.eyes[2:]]
    elif "landmarks" in pack.labels:
        pack.meta["eyes"] = np.nanmean(pack.labels["landmarks"][:, :2], 0).tolist()
    return pack, [reader.name(i) for i in range(len(reader))]


def positive(guide: classifier.Classifier, source: str, pack: Pack, rows: np.ndarray | None = None) -> Tensor:
    """(N,) bool: the guide gives `source` more than half of the probability."""
    rows = np.arange(len(pack.images)) if rows is None else rows
    column, parts = guide.names.index(source), []
    for part in np.array_split(rows, len(rows) // 1024 + 1):
        images = torch.from_numpy(np.ascontiguousarray(pack.images[part]))
        parts.append(probabilities(guide, images, pack.meta["eyes"])[:, column] > 0.5)
    return torch.cat(parts)


def measure(guide: classifier.Classifier, name: str, source: str, folder: Path) -> dict:
    """Accuracy of the guide's reading on the training and validation faces of a labelled set.

    Raises:
        UserError: the set lacks the attribute, or one of its two sides.
    """
    pack, _ = opened(folder)
    if name not in pack.meta["attributes"]:
        raise UserError(f"--labelled {folder}: has no attribute {name}; it has {', '.join(pack.meta['attributes'])}")
    if name in read_marks(folder):
        raise UserError(f"--labelled {folder}: {name} was itself read by a classifier; give a set that people labelled")
    truth = pack.labels["attr"][:, pack.meta["attributes"].index(name)].astype(int)
    rows = np.flatnonzero((pack.labels["split"] != TEST) & (truth >= 0))
    read, truth = positive(guide, source, pack, rows).numpy(), truth[rows] == 1
    if truth.all() or not truth.any():
        raise UserError(f"--labelled {folder}: all faces have the same {name}; expected both sides")
    each = [float((read == truth)[truth == side].mean()) for side in (False, True)]
    return {
        "set": str(folder),
        "images": len(rows),
        "accuracy": round(float((read == truth).mean()), 4),
        "balanced": round(sum(each) / 2, 4),
        "without": round(each[0], 4),
        "with": round(each[1], 4),
    }


def write_column(folder: Path, names: list[str], attribute: str, read: Tensor) -> None:
    """Add a column to list_attr_celeba.txt, or replace one that was predicted before. -1 = no, 1 = yes.

    Raises:
        UserError: people gave this attribute already; images without a row (their other attributes are unknown).
    """
    path = folder / LIST
    values = dict(zip(names, np.where(read.numpy(), 1, -1).tolist(), strict=True))
    if not path.is_file():
        lines = [str(len(names)), attribute, *(f"{name} {value:2d}" for name, value in values.items())]
        atomic_text(path, "\n".join(lines) + "\n")
        return
    table = read_table(path)
    header, columns = list(table.header), table.values
    if attribute in header:
        if attribute not in read_marks(folder):
            raise UserError(f"{path}: has {attribute} already, and not from this command; choose another name")
        columns = np.delete(columns, header.index(attribute), 1)
        header.remove(attribute)
    missing = [name for name in table.names if name not in values] or [n for n in names if n not in set(table.names)]
    if missing:
        raise UserError(f"{path}: the rows do not fit the images ({missing[0]}); expected one row for each image")
    lines = [str(len(table.names)), " ".join([*header, attribute])]
    for name, row in zip(table.names, columns.tolist(), strict=True):
        lines.append(f"{name} " + " ".join(f"{value:2d}" for value in [*row, values[name]]))
    atomic_text(path, "\n".join(lines) + "\n")


def read_marks(folder: Path) -> dict:
    """The content of labels_read.json: {attribute: how it was predicted}; empty without the file."""
    path = folder / READ_LABELS
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: is not valid JSON; delete it and the columns that it lists") from None


def mark(folder: Path, attribute: str, facts: dict) -> None:
    """Record in labels_read.json how an attribute was predicted."""
    atomic_text(folder / READ_LABELS, json.dumps(read_marks(folder) | {attribute: facts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
