"""The interface of a data set: `RawFaces`, and the helpers that readers share.

`__init__` finds the files quickly; a UserError tells what to download. `build_index` reads labels and splits on first
use, and `read` gives one picture. Cropping, resizing, grey conversion, subsets and missing splits are done for all
readers in `data.pack` and `data.faces`.
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
    """What is known about the N pictures of a set without reading a picture.

    labels: {key of a batch: array with N rows}. label (N,) int, -1 unknown; attr (N, A) in {0, 1, NaN}; identity (N,)
    int, any numbers, -1 unknown; take (N,) int; landmarks (N, 5|68, 2) as x, y in source pixels (pixel centres are
    integers), NaN unknown; label_soft (N, K). An alternative split is `split_<name>` (N,).
    """

    split: np.ndarray  # (N,) int8: 0 train, 1 val, 2 test
    labels: dict[str, np.ndarray]
    names: dict[str, list[str]] = field(default_factory=dict)  # "classes", "attributes"
    bad: dict[int, str] = field(default_factory=dict)  # rows that training should leave out, and the reason
    notes: list[str] = field(default_factory=list)  # messages for the user, printed once


class RawFaces:
    """One data set. A subclass defines `__init__` (find the files), `build_index` and `read`."""

    options: tuple[str, ...] = ()  # keys of DataConfig that change the output of this reader
    channels = 3  # 1 if the set is grey
    # Mean eye positions [[x, y], [x, y]], the eye at the left first, in [-1, 1] from edge to edge of `read`, or None.
    eyes: list[list[float]] | None = None
    auto_crop: str | int = "centre"  # the crop that `crop: auto` means
    crop_width: int | None = None  # picture width in px that the numbers of a crop refer to; None: each picture's own
    measures_eyes = False  # whether the pack finds the eyes in a sample of the pictures (data.eyes)

    def __init__(self, cfg: DataConfig) -> None:
        self.cfg = cfg
        self.root = cfg.root_folder()
        self.sources: list[Path] = []  # if the size or time of one of these files changes, the pack is made again

    def build_index(self) -> Index:
        """Read labels and splits; may take seconds."""
        raise NotImplementedError(f"{type(self).__name__} does not define build_index; see data/README.md")

    def read(self, i: int) -> np.ndarray:
        """Picture i as (H, W, C) uint8, C 1 or 3. Raises BadImage. Several threads call it at the same time."""
        raise NotImplementedError(f"{type(self).__name__} does not define read; see data/README.md")

    def read_many(self, rows: Sequence[int]) -> Iterable[np.ndarray | BadImage]:
        """The pictures (or BadImage) of several rows. Override it if a set reads many rows faster than one by one."""
        for i in rows:
            try:
                yield self.read(i)
            except BadImage as error:
                yield error

    def name(self, i: int) -> str:
        """The name of picture i in messages."""
        return f"row {i}"

    def fingerprint(self) -> str:
        """A hash of the names, sizes and times of the raw files."""
        return fingerprint_of(self.sources, self.root.parent)

    @functools.cached_property
    def index(self) -> Index:
        """The result of `build_index`, which runs once."""
        return self.build_index()

    @property
    def split(self) -> np.ndarray:
        """(N,) int8: 0 train, 1 val, 2 test."""
        return self.index.split

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """{key of a batch: (N, ...) array}; an unknown label is -1, an unknown attribute NaN."""
        return self.index.labels

    @property
    def names(self) -> dict[str, list[str]]:
        """{"classes": [...], "attributes": [...]}."""
        return self.index.names

    def __len__(self) -> int:
        return len(self.index.split)


def digest(facts: object) -> str:
    """A hash of plain values, 16 hex digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class MissingFiles(UserError):
    """The raw files of a set are missing."""


def missing(path: Path, dataset: str, what: str, where: str, instead: str = "") -> MissingFiles:
    """The error for missing raw files: what to download, from where, and where to put it.

    instead: what was found instead, if that helps to find the mistake.
    """
    return MissingFiles(
        f"{path}: there are no {dataset} files here{f' ({instead})' if instead else ''}; expected {what}; get them "
        f"from {where} and put them here, or set data.root to their folder (data/README.md)"
    )


def natural(text: str) -> tuple[list, str]:
    """A sort key that puts s2 before s10. The last element makes the order unique for texts such as a01 and A1."""
    parts = re.split(r"([0-9]+)", text.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], text


def numbered(values: Sequence[str]) -> np.ndarray:
    """Number the values (N,) int64: from 0 in natural order, equal strings get equal numbers, '' gets -1."""
    order = {value: i for i, value in enumerate(sorted({v for v in values if v}, key=natural))}
    return np.array([order.get(value, -1) for value in values], dtype=np.int64)


def fingerprint_of(paths: Iterable[Path], base: Path) -> str:
    """A hash of the names (relative to `base`), sizes and times of files. It changes if a file is overwritten."""
    facts, base_text = hashlib.sha256(), os.path.join(base, "")
    for path in paths:
        state, name = os.stat(path), os.fspath(path).removeprefix(base_text)
        facts.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return facts.hexdigest()[:16]


def rank_zero_info(text: str) -> None:
    """Print one line on stderr, on rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)
