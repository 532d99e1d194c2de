"""A trained run opened for pictures and exports: what the `sample.py` of every family shares.

It stands here because it is the lowest floor that may know both runs (`engine`) and faces (`data`).
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import Faces, FaceSet, build_faces
from data.labels import label_table
from engine import Grid, UserError, load, save_grid
from engine.files import atomic_text

SPLITS = ("train", "val", "test")
PHOTO_PERCENTILE = 0.99  # of validation faces; a photo beyond it does not look like the training crops


class Session:
    """The method of `args.run_dir` in evaluation mode; its data when a mode asks for them.

    A family derives from it, hands over its config and method classes, and adds how it encodes and decodes. `facts`
    go into every JSON beside a picture.
    """

    def __init__(self, args: argparse.Namespace, config: Any, method: Any) -> None:
        self.args, self.dir = args, Path(args.run_dir)
        self.method = load(self.dir, config, method, args.step, args.device)
        self.meta, self.device = self.method.meta, self.method.device
        self.generator = torch.Generator().manual_seed(args.seed)
        self.facts: dict[str, Any] = {}

    # Faces.

    @cached_property
    def faces(self) -> Faces:
        """The run's data, from --data-root where they have moved."""
        cfg, moved = self.method.cfg.data, getattr(self.args, "data_root", None)
        faces = build_faces(replace(cfg, root=str(moved)) if moved else cfg)
        if faces.meta["fingerprint"] != self.meta["fingerprint"]:
            print(f"note: these are not the very data that {self.dir} was trained on (another root, or newer drawings)")
        return faces

    def split(self, name: str) -> FaceSet:
        """train, val or test of the run's data."""
        return getattr(self.faces, name)

    def named(self, name: str) -> dict[str, Tensor] | None:
        """The batch of one face that `test:12` names; None for anything else (a file)."""
        split, colon, number = name.partition(":")
        if not colon or split not in SPLITS:
            return None
        faces = self.split(split)
        if not number.isdigit() or int(number) >= len(faces):
            raise UserError(f"{name}: expected {split}:0 to {split}:{len(faces) - 1}")
        return faces.take([int(number)])

    def choose(self, given: list[str], split: str, n: int) -> list[str]:
        """The faces that a command names, or n spread over a split."""
        return list(given) or [f"{split}:{i}" for i in spread(n, len(self.split(split)))]

    def table(self, batch: dict[str, Tensor]) -> Tensor:
        """Labels (N, L) of a batch, `data.labels`."""
        return label_table(batch, self.meta)

    def usual(self, error: Callable[[dict[str, Tensor]], Tensor], n: int = 512) -> float:
        """What 99 of 100 validation faces stay below of `error(batch)` (N,); infinite where there are no data."""
        try:
            faces = self.split("val")
        except UserError as absent:
            print(f"the photo is not compared with the training crops: {absent}")
            return float("inf")
        return torch.quantile(error(faces.fixed(min(len(faces), n))), PHOTO_PERCENTILE).item()

    # Files.

    def path(self, name: str, suffix: str = ".png") -> Path:
        """Where a mode writes: --out, or pictures/<mode> in the run directory."""
        return Path(self.args.out) if self.args.out else self.dir / "pictures" / f"{name}{suffix}"

    def write(self, grid: Grid, name: str, **facts: Any) -> Path:
        """Save a grid and its JSON."""
        path = save_grid(grid, self.path(name))
        self.note(path, **facts)
        print(f"wrote {path}")
        return path

    def note(self, path: Path, **facts: Any) -> None:
        """The JSON beside a picture: how it was made, and what it shows."""
        origin, family = self.method.origin, type(self.method).__module__.partition(".")[0]
        record = {"command": ["python", f"{family}/sample.py", *sys.argv[1:]], "seed": self.args.seed}
        record |= {"run": origin.run, "step": origin.step, "sha256": origin.sha256} | self.facts | facts
        atomic_text(path.with_suffix(".json"), json.dumps(record, indent=1))


def spread(n: int, total: int) -> np.ndarray:
    """n places of `total`, evenly spread (all for 0 or more than there are): neighbours are often one person."""
    n = min(n or total, total)
    return np.arange(n) * total // max(n, 1)


def take_images(words: list[str] | None, images: list[str]) -> None:
    """Options that take several words swallow the files after them (`--attr Smiling=1 me.jpg`): give them back."""
    for word in list(words or []):
        if re.fullmatch(rf"({'|'.join(SPLITS)}):\d+", word) or ("=" not in word and Path(word).suffix):
            words.remove(word)
            images.append(word)


def add_split(parser: argparse.ArgumentParser) -> None:
    """--split."""
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")


def add_eyes(parser: argparse.ArgumentParser) -> None:
    """--eyes."""
    parser.add_argument("--eyes", help="x1,y1,x2,y2 of a photo in px, or whole; none: look for the face")


def add_faces(parser: argparse.ArgumentParser, n: int) -> None:
    """Which faces: files, test:N, or n of a split."""
    parser.add_argument("images", nargs="*", help="photos, or test:N; none: --n of --split")
    add_split(parser)
    parser.add_argument("--n", type=int, default=n, help="how many of them")
    add_eyes(parser)
