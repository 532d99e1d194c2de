"""The contract of a data set: `RawFaces`, and the helpers that readers share.

A reader finds its files when it is built (quickly, or a UserError says what to download), reads its index when
someone asks for it, and gives one picture at a time. Cropping, resizing, grey, subsets and splits of rows are done
once for all readers in `data.pack` and `data.faces`.
"""

import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.config import DataConfig
from data.decode import BadImage
from engine.errors import UserError

TRAIN, VAL, TEST = 0, 1, 2
IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".avif", ".gif"),
    *(".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm", ".jp2"),
}


@dataclass
class Index:
    """What is known of a set without looking at a picture.

    labels: keys of a batch, one row each: label (N,) int, -1 unknown; attr (N, A) in {0, 1, NaN}; identity (N,) int,
    any numbers, -1 unknown; take (N,) int; landmarks (N, 5|68, 2) as x, y in source pixels (a pixel's centre is a
    whole number), NaN unknown; label_soft (N, K). Another split is `split_<name>` (N,).
    """

    split: np.ndarray  # (N,) int8: 0 train, 1 val, 2 test
    labels: dict[str, np.ndarray]
    names: dict[str, list[str]] = field(default_factory=dict)  # "classes", "attributes"
    bad: dict[int, str] = field(default_factory=dict)  # rows that training should leave out, with the reason
    notes: list[str] = field(default_factory=list)  # what the user should know; printed once


class RawFaces:
    """One data set. A new one defines `__init__` (find the files), `build_index` and `read`."""

    options: tuple[str, ...] = ()  # keys of DataConfig that change what this reader gives
    channels = 3  # 1 where the set is grey
    # Mean eye places [[x, y], [x, y]], image-left eye first, in [-1, 1] edge to edge of what `read` gives, or None.
    eyes: list[list[float]] | None = None
    auto_crop: str | int = "centre"  # what crop: auto means here
    crop_width: int | None = None  # width in px that a crop's numbers refer to; None: the picture's own
    measures_eyes = False  # whether the pack looks for the eyes in a sample of the pictures (data.eyes)

    def __init__(self, cfg: DataConfig) -> None:
        self.cfg = cfg
        self.root = cfg.root_folder()
        self.sources: list[Path] = []  # files whose sizes and times tell whether a pack is still true

    def build_index(self) -> Index:
        """Read labels and splits; may take seconds."""
        raise UserError(f"{type(self).__name__}: this reader defines no build_index; see data/README.md")

    def read(self, i: int) -> np.ndarray:
        """Picture i as (H, W, C) uint8, C 1 or 3. Raises BadImage. Called from several threads."""
        raise UserError(f"{type(self).__name__}: this reader defines no read; see data/README.md")

    def read_many(self, rows: Sequence[int]) -> Iterable[np.ndarray | BadImage]:
        """Pictures of several rows, one at a time (it stays in the cache while it is cut); faster in bulk? override."""
        for i in rows:
            try:
                yield self.read(i)
            except BadImage as error:
                yield error

    def name(self, i: int) -> str:
        """How a message calls picture i."""
        return f"row {i}"

    def fingerprint(self) -> str:
        """Changes when the raw files change: their names, sizes and times."""
        return fingerprint_of(self.sources, self.root.parent)

    @functools.cached_property
    def index(self) -> Index:
        """What `build_index` found, once."""
        return self.build_index()

    @property
    def split(self) -> np.ndarray:
        """(N,) int8: 0 train, 1 val, 2 test."""
        return self.index.split

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """{key of a batch: (N, ...) array}; unknown is -1, NaN for attributes."""
        return self.index.labels

    @property
    def names(self) -> dict[str, list[str]]:
        """{"classes": [...], "attributes": [...]}."""
        return self.index.names

    def __len__(self) -> int:
        return len(self.index.split)


def digest(facts: object) -> str:
    """16 hex digits of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class MissingFiles(UserError):
    """The raw files of a set are not there."""


def missing(path: Path, dataset: str, what: str, where: str, instead: str = "") -> MissingFiles:
    """The error for a set that is not there: what to download, from where, and where to put it.

    instead: what is there, if that helps to find the mistake.
    """
    return MissingFiles(
        f"{path}: no {dataset} files here{f' ({instead})' if instead else ''}; expected {what}; get them from {where}, "
        f"put them there or set data.root to their folder (data/README.md)"
    )


def natural(text: str) -> tuple[list, str]:
    """Sort key under which s2 comes before s10; texts that differ only in case or in leading zeros keep one order."""
    parts = re.split(r"([0-9]+)", text.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], text


def numbered(values: Sequence[str]) -> np.ndarray:
    """(N,) int64: equal strings get equal numbers from 0 in natural order; '' gets -1."""
    order = {value: i for i, value in enumerate(sorted({v for v in values if v}, key=natural))}
    return np.array([order.get(value, -1) for value in values], dtype=np.int64)


def fingerprint_of(paths: Iterable[Path], base: Path) -> str:
    """Of the names below `base`, the sizes and the times of files: it changes when one of them is overwritten."""
    facts, base_text = hashlib.sha256(), os.path.join(base, "")
    for path in paths:
        state, name = os.stat(path), os.fspath(path).removeprefix(base_text)
        facts.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return facts.hexdigest()[:16]


def rank_zero_info(text: str) -> None:
    """One line for the user, from one rank."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)
