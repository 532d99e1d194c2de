"""Folders of images: one folder for each expression, or for each person."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.config import DataConfig
from data.emotions import EMOTIONS, canonical, nearest
from data.raw import IMAGE_SUFFIXES, TEST, TRAIN, VAL, Index, RawFaces, decode, digest, missing, natural, numbered
from engine.errors import UserError

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}


@dataclass(frozen=True)
class Entry:
    """One image file: its path, the folder that says what it shows, and the split folder above (or None)."""

    path: Path
    group: str
    split: int | None


def scan(root: Path) -> list[Entry]:
    """Images of `root/<group>/…` or `root/{train,val,test}/<group>/…`, in natural order of their paths."""
    tops = _subfolders(root)
    if [top.name.lower() for top in tops] == ["images"]:
        return scan(tops[0])
    entries = []
    for top in tops:
        split = SPLIT_FOLDERS.get(top.name.lower())
        for group in [top] if split is None else _subfolders(top):
            entries += [Entry(path, group.name, split) for path in _images(group)]
    return sorted(entries, key=lambda entry: natural(entry.path.as_posix()))


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)


def _images(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for name in names:
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield Path(place, name)


def class_of_folder(name: str, own: list[str], numeric: bool) -> str | None:
    """The class that a folder's name means: an own class, an emotion word, a FER2013 code; None if unknown."""
    for word in own:
        if word.lower() == name.lower():
            return canonical(word) or word
    if numeric and name.isdigit() and int(name) < len(EMOTIONS):
        return EMOTIONS[int(name)]
    return canonical(name) or canonical(re.sub(r"^\d+[\W_]+", "", name))


def classify(entries: list[Entry], root: Path, own: list[str]) -> tuple[np.ndarray, list[str]]:
    """(N,) labels by folder name, never by sorted order, and the class names that occur.

    Raises:
        UserError: a folder's name is no known expression.
    """
    groups = {entry.group for entry in entries}
    numeric = all(group.isdigit() for group in groups)
    meaning = {}
    for group in sorted(groups):
        found = class_of_folder(group, own, numeric)
        if found is None:
            raise UserError(
                f"{root}: folder '{group}' is no known expression; the nearest are {nearest(group, EMOTIONS)}; rename "
                "it, list your own names in data.classes, or set data.folders: identity for a folder per person"
            )
        meaning[group] = found
    present = set(meaning.values())
    classes = [name for name in EMOTIONS if name in present] + [n for n in own if n in present and n not in EMOTIONS]
    return np.array([classes.index(meaning[entry.group]) for entry in entries], np.int64), classes


class Folder(RawFaces):
    """`root/<expression>/*` or `root/<person>/*`, with or without `train`, `val`, `test` above."""

    options = ("folders", "identity_regex", "take_regex", "classes")

    def __init__(self, cfg: DataConfig) -> None:
        super().__init__(cfg)
        self.entries = scan(self.root)
        if not self.entries:
            what = f"root/<{cfg.folders}>/*.png or .jpg, or the same below train, val, test"
            raise missing(self.root, "image", what, "your own collection")
        self.sources = sorted({entry.path.parent for entry in self.entries})
        self.channels = self._channels()

    def fingerprint(self) -> str:
        """Names of all files and times of all folders; 290,000 files need not be opened for it."""
        times = [path.stat().st_mtime_ns for path in self.sources]
        return digest([times, [entry.path.relative_to(self.root).as_posix() for entry in self.entries]])

    def name(self, i: int) -> str:
        return self.entries[i].path.relative_to(self.root).as_posix()

    def read(self, i: int) -> np.ndarray:
        # A photo of 4000 px need not be decoded whole, unless a crop counts its pixels.
        draft = 2 * self.cfg.image_size if self.cfg.crop_box() in ("auto", "full") else 0
        return decode(self.entries[i].path, self.name(i), draft=draft, upright=True)

    def build_index(self) -> Index:
        split = np.array([TRAIN if e.split is None else e.split for e in self.entries], np.int8)
        labels: dict[str, np.ndarray] = {}
        names: dict[str, list[str]] = {}
        if self.cfg.folders == "identity":
            labels["identity"] = numbered([entry.group for entry in self.entries])
        else:
            labels["label"], names["classes"] = classify(self.entries, self.root, self.cfg.classes)
        for key in ("identity", "take"):
            found = self._by_regex(key)
            if found is not None:
                labels[key] = found
        return Index(split, labels, names)

    def _by_regex(self, key: str) -> np.ndarray | None:
        text = getattr(self.cfg, f"{key}_regex")
        if not text:
            return None
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise UserError(f"data.{key}_regex: expected a regular expression, got {text!r} ({error})") from None
        if pattern.groups != 1:
            raise UserError(f"data.{key}_regex: expected one group in brackets, as in '(s[0-9]+)/', got {text!r}")
        matches = [pattern.search(self.name(i)) for i in range(len(self.entries))]
        if not any(matches):
            raise UserError(f"data.{key}_regex: {text!r} fits none of the paths below {self.root}, as {self.name(0)}")
        return numbered([match.group(1) or "" if match else "" for match in matches])

    def _channels(self) -> int:
        """1 if a sample of the files is grey, else 3."""
        chosen = self.entries[:: max(1, len(self.entries) // 16)]
        modes = set()
        for entry in chosen:
            try:
                with Image.open(entry.path) as image:
                    modes.add(image.mode)
            except OSError:
                continue  # the pack names and counts it
        return 1 if modes and modes <= {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "LA"} else 3
