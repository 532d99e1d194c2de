"""The contract of a data set: `RawFaces`, and the helpers that readers share.

A reader finds its files when it is built (quickly, or a UserError says what to download), reads its index when
someone asks for it, and gives one picture at a time. Cropping, resizing, grey, subsets and splits of rows are done
once for all readers in `data.pack` and `data.faces`.
"""

import functools
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from data.config import DataConfig
from engine.errors import UserError

TRAIN, VAL, TEST = 0, 1, 2
SMALL = 2**20  # bytes of a JPEG that is decoded without asking how many pixels it claims (at most some 100 million)
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


class BadImage(Exception):
    """A picture that cannot be read; the pack leaves it out, names it and counts it."""


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
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.sources]
        return digest(facts)

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


def decode(source: bytes | Path, name: str, draft: int = 0, upright: bool = False) -> np.ndarray:
    """Decode one image file to (H, W, 1|3) uint8.

    Transparent pictures are laid on white, 16-bit ones keep their upper byte, palettes and CMYK become RGB. `draft`:
    a JPEG may be decoded at a half, quarter or eighth of its size while its shorter side stays >= `draft` px.
    `upright` turns the picture as its EXIF tag says.

    Raises:
        BadImage: the file is empty, cut short, or no image.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise BadImage(f"{name}: cannot be read ({error.strerror})") from None
    if not data:
        raise BadImage(f"{name}: the file is empty (0 bytes)")
    if data[:3] == b"\xff\xd8\xff" and not draft and len(data) < SMALL:
        array = _small_jpeg(data, upright)
        if array is not None:
            return array
    try:
        with Image.open(io.BytesIO(data)) as image:
            if draft:
                image.draft(None, (draft, draft))
            image.load()
            array = np.asarray(plain_mode(ImageOps.exif_transpose(image) if upright else image))
    except UnidentifiedImageError:
        raise BadImage(f"{name}: is no image of a known format") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise BadImage(f"{name}: cannot be decoded ({error})") from None
    return array if array.ndim == 3 else array[:, :, None]


def _small_jpeg(data: bytes, upright: bool) -> np.ndarray | None:
    """A grey or RGB JPEG as (H, W, C) uint8 by torchvision: Pillow's pixels, without holding the interpreter's lock.

    None where it has anything to object: then Pillow decides, and says why.
    """
    from torchvision.io import decode_jpeg  # a second to import: not before a set of JPEGs is packed

    try:
        x = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), apply_exif_orientation=upright)
    except RuntimeError:
        return None
    return x.permute(1, 2, 0).contiguous().numpy() if len(x) in (1, 3) else None


def plain_mode(image: Image.Image) -> Image.Image:
    """Any mode as L or RGB."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> 8 if values.max(initial=0) > 255 else values).clip(0, 255).astype(np.uint8))
    if image.mode in ("1", "F"):
        return image.convert("L")
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def missing(path: Path, dataset: str, what: str, where: str) -> UserError:
    """The error for a set that is not there: what to download, from where, and where to put it."""
    return UserError(
        f"{path}: no {dataset} files here; expected {what}; get them from {where}, "
        f"put them there or set data.root to their folder (data/README.md)"
    )


def natural(text: str) -> list:
    """Sort key under which s2 comes before s10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text.lower())]


def numbered(values: Sequence[str]) -> np.ndarray:
    """(N,) int64: equal strings get equal numbers from 0 in natural order; '' gets -1."""
    order = {value: i for i, value in enumerate(sorted({v for v in values if v}, key=natural))}
    return np.array([order.get(value, -1) for value in values], dtype=np.int64)


def say(text: str) -> None:
    """One line for the user, from one rank."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)
