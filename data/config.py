"""All options of the data: which faces, how they are cropped and resized, and how batches are drawn."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data.emotions import nearest
from engine.errors import UserError


@dataclass
class DataConfig:
    """The data of a run. An option that does not apply to the data set has no effect."""

    # Which faces, and where.
    dataset: str = "synthetic"  # synthetic (drawn, no download) | celeba | fer2013 | tfd | folder: data.READERS
    root: str = ""  # folder (or .csv, .mat) with the raw files; "" = datasets/<dataset>
    cache: str = ""  # folder of the packs; "" = $FACES_CACHE, else ~/.cache/faces
    sets: list[str] = field(default_factory=list)  # two sets in alternation, such as [celeba, folder]; [] = dataset
    roots: list[str] = field(default_factory=list)  # their folders, in the same order; [] = datasets/<dataset>

    # The picture (fixed when the pack is made). For CelebA, crop: auto means 148 if image_size < 128, else 178. For
    # other sets it means the largest centred square.
    image_size: int = 64  # px, 32 .. 256
    grayscale: bool = False  # luminance only; grey sets (FER2013, TFD) always have one channel
    crop: str | list[int] = "auto"  # auto | full (padded) | px of a centred square | [left, top, right, bottom]
    eyes: list[float] = field(default_factory=list)  # mean eye positions [x, y, x, y] in [-1, 1]; [] = the set's own

    # Which rows and labels of a pack.
    classes: list[str] = field(default_factory=list)  # expressions to keep, in this order; [] = all
    attributes: list[str] = field(default_factory=list)  # attributes to keep, in this order; [] = all
    label_attribute: str = ""  # use this attribute as the expression (Smiling: neutral, happy); "" = none
    num_train: int = 0  # faces; 0 = all of a real set, 20,000 drawn ones
    num_val: int = 0  # faces; 0 = all, or 2,000 drawn ones
    num_test: int = 0  # faces; 0 = all, or 2,000 drawn ones
    merge_val: bool = False  # train on train + val; val is then the test set: do not choose a checkpoint by it
    drop_bad: bool = True  # leave out training images that are black, flat or (FER+) not a face
    dedup: bool = False  # leave out training images that are pixel-identical to a val or test image
    labels: Literal["hard", "soft", "intensity"] = "hard"  # soft: also FER+ votes; intensity: also drawn strengths
    sketch: str = ""  # folder of sketches with the names of the faces: adds `sketch`; "" = none
    landmarks: Literal["own", "file", "found"] = "own"  # file: landmarks.npz of the pack; found: train needs them

    # How training batches are drawn.
    flip: Literal["random", "both", "none"] = "random"  # both: an epoch has each face and its mirror image once
    balanced: bool = False  # all expressions equally often
    pair: bool = False  # add another face of the same person with another expression
    augment_crop: float = 0.0  # random crop; its side is a share 1 - augment_crop .. 1 of the picture; 0 .. 0.5
    augment_shift: float = 0.0  # random shift, at most this share of the side; 0 .. 0.25
    augment_brightness: float = 0.0  # random factor in 1 - augment_brightness .. 1 + augment_brightness; 0 .. 0.9
    resident: float = 0.5  # keep the pack on the GPU if it fits into this share of the free memory; 0 .. 1

    # CelebA.
    split: Literal["official", "stargan"] = "official"  # stargan: shuffled with seed 1234, the first 1,999 are test
    attr_values: Literal["-1/1", "0/1"] = "-1/1"  # the values of no and yes in list_attr_celeba

    # FER2013.
    ferplus: str = ""  # fer2013new.csv of FER+ (in root, or a path): votes and "not a face"; "" = none

    # TFD.
    fold: int = 0  # 0 .. 4
    unlabelled: bool = False  # add the 98,058 unlabelled faces to train (label -1)

    # Folders of images.
    folders: Literal["expression", "identity"] = "expression"  # the meaning of a folder's name
    identity_regex: str = ""  # group 1 of its first match in a path relative to root is the person's name
    take_regex: str = ""  # the same for the take (pose, light); a pair then has the same take

    # Drawn faces.
    seed: int = 0  # of the drawn faces
    per_identity: int = 10  # faces of one person, >= 1
    prior: Literal["balanced", "celeba"] = "balanced"  # the frequencies of the expressions
    independent: bool = False  # True: independent attributes; False: correlated as in CelebA
    intensity: list[float] = field(default_factory=lambda: [0.4, 1.0])  # range of expression intensity, in 0 .. 1

    def __post_init__(self) -> None:
        _require(32 <= self.image_size <= 256, "image_size", "32 .. 256 px", self.image_size)
        limits = {"augment_crop": 0.5, "augment_shift": 0.25, "augment_brightness": 0.9, "resident": 1.0}
        for name, top in limits.items():
            _require(0 <= getattr(self, name) <= top, name, f"a number in 0 .. {top}", getattr(self, name))
        for name in ("num_train", "num_val", "num_test", "seed"):
            _require(getattr(self, name) >= 0, name, "a number >= 0", getattr(self, name))
        _require(self.per_identity >= 1, "per_identity", "a number >= 1", self.per_identity)
        _require(0 <= self.fold <= 4, "fold", "0 .. 4", self.fold)
        low_high = len(self.intensity) == 2 and 0 <= self.intensity[0] <= self.intensity[1] <= 1
        _require(low_high, "intensity", "two rising numbers in 0 .. 1, such as [0.4, 1]", self.intensity)
        _require(len(self.eyes) in (0, 4), "eyes", "four numbers [x, y, x, y] in -1 .. 1", self.eyes)
        for name in ("classes", "attributes"):
            names = getattr(self, name)
            _require(len(set(names)) == len(names), name, "each name once", names)
        from data import READERS as known  # imported here, because the readers import this module

        hint = f"one of {', '.join(known)}; did you mean {nearest(self.dataset, list(known), 1)}?"
        _require(self.dataset in known, "dataset", hint, self.dataset)
        good = len(self.sets) in (0, 2) and all(name in known for name in self.sets)
        _require(good, "sets", f"two of {', '.join(known)}, such as [celeba, folder]", self.sets)
        _require(len(self.roots) in (0, 2), "roots", "two folders, in the order of sets", self.roots)
        _require(not (self.pair and self.sets), "pair", "false if data.sets is given", self.pair)
        if self.dataset == "synthetic" and self.pair and not self.sets:
            _require(self.per_identity % 2 == 0, "per_identity", "an even number with pair: true", self.per_identity)
        if self.labels == "soft":
            _require(bool(self.ferplus), "labels", "hard, or soft with data.ferplus=fer2013new.csv", self.labels)
        if self.labels == "intensity":
            _require(self.dataset == "synthetic", "labels", "intensity with dataset: synthetic only", self.labels)
        self.crop_box()

    def crop_box(self) -> str | int | tuple[int, int, int, int]:
        """The crop as 'auto', 'full', a side in px, or four edges in px. Raises UserError for anything else."""
        crop = self.crop
        expected = "auto, full, a side in px such as 148, or a square [left, top, right, bottom]"
        if isinstance(crop, list):
            good = len(crop) == 4 and crop[2] > crop[0] and crop[2] - crop[0] == crop[3] - crop[1]
            _require(good, "crop", expected, crop)
            return crop[0], crop[1], crop[2], crop[3]
        if str(crop) in ("auto", "full"):
            return str(crop)
        number = str(crop).isascii() and str(crop).isdigit()
        _require(number and int(crop) >= 8, "crop", expected, crop)
        return int(crop)

    def root_folder(self) -> Path:
        """The folder of the raw files."""
        return home_path(self.root or f"datasets/{self.dataset}", "data.root")

    def cache_folder(self) -> Path:
        """The folder of the packs."""
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return home_path(self.cache or os.environ.get("FACES_CACHE") or f"{home}/faces", "data.cache")


@dataclass
class DataBlock:
    """The data block of any family's config file: `load_config(DataBlock, FILE, overrides, only="data").data`."""

    data: DataConfig = field(default_factory=DataConfig)


def home_path(text: str, key: str) -> Path:
    """The path with ~ replaced by the home folder.

    Raises:
        UserError: the home folder is unknown (HOME is not set and the user has no entry), or the user does not exist.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(
            f"{key}: the home folder in '{text}' is unknown on this machine; give a path without ~"
        ) from None


def _require(condition: bool, key: str, expected: str, value: object) -> None:
    if not condition:
        raise UserError(f"{key}: expected {expected}, got {value!r}")
