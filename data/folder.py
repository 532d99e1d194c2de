"""Folders of images: one folder for each expression, or for each person."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.config import DataConfig
from data.decode import decode, is_grey
from data.emotions import EMOTIONS, canonical, nearest
from data.raw import TEST, TRAIN, VAL, Index, RawFaces, fingerprint_of, missing, natural, numbered
from data.scan import Tree, read_tree
from engine.errors import UserError

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}


@dataclass(frozen=True)
class Entry:
    """One image file: its path, the name of its group folder, and the split of the folder above it (or None)."""

    path: Path
    group: str
    split: int | None


def scan(root: Path, kind: str = "expression", own: Sequence[str] = ()) -> tuple[list[Entry], list[str]]:
    """Images of `root/<group>/…` or `root/{train,val,test}/<group>/…` in natural order of their paths, and notes.

    If the root holds only one folder (as unpacked archives do), that folder is used as the root.

    Args:
        kind: the meaning of a group, expression or identity.
        own: class names that are not usual expressions.

    Raises:
        UserError: an image has no group, or the meaning of a folder is not clear.
    """
    if not root.is_dir():
        return [], []
    tree = read_tree(root)
    top = _descend(tree, kind, own)
    notes = [f"{root}: its only subfolder {top.path.relative_to(root)} is used"] if top is not tree else []
    splits = [folder for folder in top.filled if _split_of(folder) is not None]
    entries: list[Entry] = []
    loose = [*top.images]
    for folder in top.filled:
        split = _split_of(folder)
        if split is None:
            if splits:
                _require_group_beside_split(folder, splits[0], kind, own)
            groups = [folder]
        else:
            inner = _descend(folder, kind, own)
            groups = inner.filled
            loose += inner.images
        entries += [Entry(path, group.name, split) for group in groups for path in group.all_images()]
    if loose and not entries:
        raise UserError(
            f"{loose[0].parent}: {len(loose)} images are not in a class folder; expected one folder per expression, "
            f"such as {loose[0].parent}/happy/*.jpg, or one per person with data.folders: identity"
        )
    if loose:
        tree.left_out["images outside the class folders"] += len(loose)
    if splits and any(entry.split is None for entry in entries):
        notes.append(f"{top.path}: the class folders next to {splits[0].name}/ are used for training")
    notes += [tree.note()] if tree.note() else []
    return sorted(entries, key=lambda entry: natural(entry.path.as_posix())), notes


def _split_of(folder: Tree) -> int | None:
    return SPLIT_FOLDERS.get(folder.name.lower())


def _descend(tree: Tree, kind: str, own: Sequence[str]) -> Tree:
    """The folder whose subfolders are the groups (or the splits)."""
    while len(tree.filled) == 1 and not tree.images:
        inner = tree.filled[0]
        named = kind == "expression" and class_of_folder(inner.name, own) is not None
        if inner.images or _split_of(inner) is not None or named:
            break
        tree = inner
    return tree


def _require_group_beside_split(folder: Tree, split: Tree, kind: str, own: Sequence[str]) -> None:
    named = kind == "expression" and class_of_folder(folder.name, own) is not None
    if not folder.images and not named:
        raise UserError(
            f"{folder.path}: this folder is next to {split.name}/; expected a folder train, val or test; rename it or "
            "move it away"
        )


def class_of_folder(name: str, own: Sequence[str], codes: dict[int, str] | None = None) -> str | None:
    """The class of a folder's name: a class of `own`, a number in `codes`, or an emotion word; None if unknown."""
    for word in own:
        if word.lower() == name.lower():
            return canonical(word) or word
    if is_number(name):
        return (codes or {}).get(int(name))
    return canonical(name) or canonical(re.sub(r"^[0-9]+[\W_]+", "", name))


def is_number(text: str) -> bool:
    """Whether a name consists of the digits 0 .. 9 only."""
    return re.fullmatch(r"[0-9]+", text) is not None


def codes_of(own: Sequence[str], groups: set[str]) -> dict[int, str]:
    """The class of each number that is a folder's name, from data.classes.

    data.classes may have items such as `1=surprise`, or exactly one class per number, in the order of the numbers.
    The result is empty if data.classes does not define the numbers.
    """
    pairs = [word.partition("=") for word in own]
    codes = {int(number): canonical(name) or name for number, equals, name in pairs if equals and is_number(number)}
    if codes or any(is_number(word) for word in own):
        return codes
    numbers = sorted({int(group) for group in groups if is_number(group)})
    if len(numbers) != len(own) or len(numbers) != len(groups):
        return {}
    return {number: canonical(word) or word for number, word in zip(numbers, own, strict=True)}


def classify(
    entries: list[Entry], root: Path, own: Sequence[str], codes: dict[int, str]
) -> tuple[np.ndarray, list[str]]:
    """Labels (N,) by the names of the folders (not by their sorted order), and the class names that occur.

    codes: the class of a folder whose name is a number.

    Raises:
        UserError: a folder's name is not a known expression.
    """
    groups = sorted({entry.group for entry in entries}, key=natural)
    meaning = {group: class_of_folder(group, own, codes) for group in groups}
    unknown = [group for group in groups if meaning[group] is None]
    if unknown and is_number(unknown[0]):
        raise UserError(
            f"{root}: the folder '{unknown[0]}' is a number, and its meaning is unknown; define it with "
            f"data.classes=[{int(unknown[0])}=happy, …], or set data.folders: identity for one folder per person"
        )
    if unknown:
        raise UserError(
            f"{root}: the folder '{unknown[0]}' is not a known expression; the nearest are "
            f"{nearest(unknown[0], EMOTIONS)}; rename it, list your own names in data.classes, or set "
            "data.folders: identity for one folder per person"
        )
    present = set(meaning.values())
    own_names = [word.partition("=")[2] or word for word in own]
    extra = dict.fromkeys(name for name in own_names if name in present and name not in EMOTIONS)
    classes = [name for name in EMOTIONS if name in present] + list(extra)
    return np.array([classes.index(str(meaning[entry.group])) for entry in entries], np.int64), classes


class Folder(RawFaces):
    """`root/<expression>/*` or `root/<person>/*`, with or without `train`, `val`, `test` above."""

    options = ("folders", "identity_regex", "take_regex", "classes")
    measures_eyes = True

    def __init__(self, cfg: DataConfig) -> None:
        super().__init__(cfg)
        self.entries, self.notes = scan(self.root, cfg.folders, cfg.classes)
        if not self.entries:
            what = f"root/<{cfg.folders}>/*.png or .jpg, or the same below train, val, test"
            raise missing(self.root, "image", what, "your own collection", "; ".join(self.notes))
        if cfg.folders == "identity" and not cfg.identity_regex:
            self._check_persons()

    def fingerprint(self) -> str:
        return fingerprint_of((entry.path for entry in self.entries), self.root)

    def name(self, i: int) -> str:
        return self.entries[i].path.relative_to(self.root).as_posix()

    def read(self, i: int) -> np.ndarray:
        # A large photo may be decoded at a lower resolution, unless the crop is given in its pixels.
        draft = 2 * self.cfg.image_size if self.cfg.crop_box() in ("auto", "full") else 0
        return decode(self.entries[i].path, self.name(i), draft=draft)

    def build_index(self) -> Index:
        split = np.array([TRAIN if e.split is None else e.split for e in self.entries], np.int8)
        labels: dict[str, np.ndarray] = {}
        names: dict[str, list[str]] = {}
        notes = list(self.notes)
        if self.cfg.folders == "identity":
            labels["identity"] = numbered([entry.group for entry in self.entries])
        else:
            codes = codes_of(self.cfg.classes, {entry.group for entry in self.entries})
            labels["label"], names["classes"] = classify(self.entries, self.root, self.cfg.classes, codes)
            if codes:
                meaning = ", ".join(f"{number} {name}" for number, name in sorted(codes.items()))
                notes.append(f"{self.root}: the numbers of the folders mean {meaning} (data.classes)")
        for key in ("identity", "take"):
            found = self._by_regex(key)
            if found is not None:
                labels[key] = found
        return Index(split, labels, names, {}, notes)

    def _check_persons(self) -> None:
        """Refuse a root that is one level too high, so that all images would be one person; else note a suspicion."""
        places: dict[str, set[Path]] = {}
        for entry in self.entries:
            places.setdefault(entry.group, set()).add(entry.path.parent)
        deep = [name for name, found in places.items() if all(parent.name != name for parent in found)]
        group, parents = next(iter(places.items()))
        if len(places) == 1 and any(parent.name != group for parent in parents):
            raise UserError(
                f"{self.root}: all {len(self.entries)} images would be one person, '{group}', but some of them are in "
                "its subfolders; set data.root to the folder that has one subfolder per person"
            )
        if len(places) == 1:
            self.notes.append(f"{self.root}: all {len(self.entries)} images are one person, '{group}'")
        elif len(deep) == len(places):
            self.notes.append(
                f"{self.root}: each of its {len(places)} folders is used as one person, although all images are in "
                f"subfolders (such as {self.name(0)}); if these are the persons, set data.root or data.identity_regex"
            )

    def _by_regex(self, key: str) -> np.ndarray | None:
        text = getattr(self.cfg, f"{key}_regex")
        if not text:
            return None
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise UserError(f"data.{key}_regex: expected a regular expression, got {text!r} ({error})") from None
        if pattern.groups != 1:
            raise UserError(f"data.{key}_regex: expected one group in brackets, such as '(s[0-9]+)/', got {text!r}")
        matches = [pattern.search(self.name(i)) for i in range(len(self.entries))]
        if not any(matches):
            raise UserError(
                f"data.{key}_regex: {text!r} matches no path in {self.root}; expected to match paths such as "
                f"{self.name(0)}"
            )
        return numbered([match.group(1) or "" if match else "" for match in matches])

    @functools.cached_property
    def channels(self) -> int:
        """1 if all files are grey, else 3. The headers are read until the first colour picture."""
        found_grey = False
        for entry in self.entries:
            grey = is_grey(entry.path)
            if grey is False:
                return 3
            found_grey = found_grey or grey is True
        return 1 if found_grey else 3
