"""Packs: all pictures of a set, cropped and resized once, in one uint8 array.

A pack is a folder: `images.npy` (N, C, H, W) uint8, `labels.npz` (labels and facts of each row), `meta.json`. It has
all rows and all labels of its set. `data.faces` chooses the rows and labels of a run, so one pack serves many runs.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.config import DataConfig
from data.crop import FAULTS, FINE, REFUSED, UNREADABLE, crop_box, cut, fault_of, pixel_hash
from data.decode import BadImage
from data.eyes import measured_eyes
from data.raw import MissingFiles, RawFaces, digest, rank_zero_info
from engine.errors import UserError
from engine.files import atomic_dir, lock

VERSION = 2  # of the layout of a pack, and of the crop, the resize and the pixel hash
CHUNK = 64  # pictures that a worker prepares at a time
MAX_UNREADABLE = 0.2  # a set with more than this share of unreadable files is refused


@dataclass
class Pack:
    """An open pack. `images` is memory-mapped."""

    folder: Path
    images: np.ndarray  # (N, C, H, W) uint8
    labels: dict[str, np.ndarray]  # keys of a batch, and split, split_*, fault, pixels (a hash of the source pixels)
    meta: dict

    @property
    def landmarks_file(self) -> Path:
        """The file for landmarks that are found later (`data.landmarks`)."""
        return self.folder / "landmarks.npz"


def open_pack(cfg: DataConfig) -> Pack:
    """Open the pack of `cfg`. Make it first if it is missing, damaged or older than its raw files.

    A second process that needs the same pack waits for the first. If the raw files are missing, an existing pack from
    the same data.root is used, with a message.

    Raises:
        UserError: there is neither a pack nor raw files, or the raw files are invalid.
    """
    # Imported here, because data/__init__ defines READERS and imports this module.
    from data import READERS

    reader_class = READERS[cfg.dataset]
    try:
        reader = reader_class(cfg)
    except MissingFiles as error:
        folder = pack_folder(cfg, reader_class)
        if not _is_complete(folder, None):
            raise
        rank_zero_info(f"{str(error).partition(';')[0]}; the pack made from this data.root is used: {folder}")
        return _load(folder)
    folder = pack_folder(cfg, reader_class)
    source = reader.fingerprint()
    if not _is_complete(folder, source):
        _make_cache(folder.parent)
        with lock(folder.parent / f"{folder.name}.lock", wait=True, message="is being filled"):
            if not _is_complete(folder, source):
                _make(folder, reader, cfg, source)
    return _load(folder)


def _make_cache(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); set data.cache to a folder for packs") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written; set data.cache to a folder for packs")


def pack_folder(cfg: DataConfig, reader_class: type[RawFaces]) -> Path:
    """cache/<set>-<size>-<hash of the options>-<hash of the root>."""
    root = "" if cfg.dataset == "synthetic" else str(cfg.root_folder().resolve())
    return cfg.cache_folder() / f"{_stem(cfg, reader_class)}-{digest(root)[:6]}"


def _stem(cfg: DataConfig, reader_class: type[RawFaces]) -> str:
    facts = {name: getattr(cfg, name) for name in reader_class.options}
    facts |= {"crop": resolve_crop(cfg, reader_class), "grayscale": cfg.grayscale, "version": VERSION}
    return f"{cfg.dataset}-{cfg.image_size}-{digest(facts)[:10]}"


def resolve_crop(cfg: DataConfig, reader_class: type[RawFaces]) -> str | int | tuple[int, int, int, int]:
    """The crop of `cfg`; `auto` is replaced by its value for this set and size."""
    crop = cfg.crop_box()
    if crop != "auto":
        return crop
    if reader_class.auto_crop == "celeba":
        return 148 if cfg.image_size < 128 else 178
    return reader_class.auto_crop


def _is_complete(folder: Path, source: str | None) -> bool:
    """Whether `folder` is a complete pack of this version, made from the raw files `source` (None: any)."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        size = (folder / "images.npy").stat().st_size
        labels = (folder / "labels.npz").stat().st_size
    except (OSError, ValueError):
        return False
    whole = size == meta.get("image_bytes") and labels == meta.get("label_bytes") and meta.get("version") == VERSION
    return whole and source in (None, meta.get("source"))


def _load(folder: Path) -> Pack:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    # Copy-on-write, because torch needs a writable array. The file does not change.
    images = np.load(folder / "images.npy", mmap_mode="c")
    with np.load(folder / "labels.npz") as stored:
        labels = {key: stored[key] for key in stored.files}
    return Pack(folder, images, labels, meta)


def _make(folder: Path, reader: RawFaces, cfg: DataConfig, source: str) -> None:
    index = reader.index
    for note in index.notes:
        rank_zero_info(note)
    if not len(reader):
        raise UserError(f"{cfg.root_folder()}: no faces found for dataset {cfg.dataset}")
    with atomic_dir(folder) as temporary:
        channels = 1 if cfg.grayscale else reader.channels
        with open(temporary / "images.npy", "wb") as file:
            facts, content = _write_images(file, reader, cfg, channels)
        _refuse_if_unreadable(facts, cfg)
        labels = _final_labels(reader, facts)
        for key in sorted(labels):
            content.update(key.encode() + np.ascontiguousarray(labels[key]).tobytes())
        np.savez(temporary / "labels.npz", **labels)  # pyright: ignore[reportArgumentType]
        meta = _describe(reader, cfg, facts, channels)
        for note in meta["notes"][len(index.notes) :]:
            rank_zero_info(note)
        meta |= {"source": source, "fingerprint": content.hexdigest()[:16]}
        meta["image_bytes"] = (temporary / "images.npy").stat().st_size
        meta["label_bytes"] = (temporary / "labels.npz").stat().st_size
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


@dataclass
class Chunk:
    """n pictures, cropped and resized, and the facts of each."""

    images: np.ndarray  # (n, C, H, W) uint8; 0 if unreadable
    fault: np.ndarray  # (n,) uint8, index into FAULTS
    pixels: np.ndarray  # (n,) uint64, hash of the source pixels
    box: np.ndarray  # (n, 4) left, top, right, bottom of the crop in source px; NaN if unreadable
    size: np.ndarray  # (n, 2) width, height of the source in px
    named: list[str]  # the unreadable pictures: name and reason

    @classmethod
    def empty(cls, n: int, shape: tuple[int, ...] = (0,)) -> "Chunk":
        """n empty rows for pictures of `shape`."""
        return cls(
            np.zeros((n, *shape), np.uint8), np.zeros(n, np.uint8), np.zeros(n, np.uint64),
            np.full((n, 4), np.nan, np.float32), np.zeros((n, 2), np.int32), [],
        )  # fmt: skip


class Chunks:
    """A reader's pictures in chunks of CHUNK rows. Several threads call `get` at the same time."""

    def __init__(self, reader: RawFaces, cfg: DataConfig, channels: int) -> None:
        self.reader, self.size, self.channels = reader, cfg.image_size, channels
        self.crop, self.width = resolve_crop(cfg, type(reader)), reader.crop_width

    def __len__(self) -> int:
        return -(-len(self.reader) // CHUNK)

    def get(self, number: int) -> Chunk:
        """Chunk `number`, from 0."""
        rows = range(number * CHUNK, min((number + 1) * CHUNK, len(self.reader)))
        return self.prepare(self.reader.read_many(rows), len(rows))

    def prepare(self, pictures: Iterable[np.ndarray | BadImage], n: int) -> Chunk:
        """Crop and resize n pictures. A BadImage becomes a black row with the fault UNREADABLE."""
        chunk = Chunk.empty(n, (self.channels, self.size, self.size))
        for k, picture in zip(range(n), pictures, strict=True):
            if isinstance(picture, BadImage):
                chunk.fault[k] = UNREADABLE
                chunk.named.append(str(picture))
                continue
            height, wide = picture.shape[:2]
            edges = crop_box(wide, height, self.crop, self.width)
            chunk.images[k] = cut(picture, edges, self.size, self.channels)
            chunk.box[k], chunk.size[k] = edges, (wide, height)
            chunk.fault[k], chunk.pixels[k] = fault_of(picture), pixel_hash(picture)
        return chunk


def _write_images(file: BinaryIO, reader: RawFaces, cfg: DataConfig, channels: int) -> tuple[Chunk, "hashlib._Hash"]:
    """Write images.npy chunk by chunk, with few chunks in memory. Returns the facts of all rows and a content hash."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(reader), channels, cfg.image_size, cfg.image_size)}
    np.lib.format.write_array_header_1_0(file, header)
    content, facts, row = hashlib.sha256(), Chunk.empty(len(reader)), 0
    with Progress(len(reader), f"packing {cfg.dataset} at {cfg.image_size} px") as progress:
        for chunk in _prepared(Chunks(reader, cfg, channels)):
            file.write(chunk.images.data)
            content.update(chunk.images.data)
            rows = slice(row, row := row + len(chunk.images))
            for key in ("fault", "pixels", "box", "size"):
                getattr(facts, key)[rows] = getattr(chunk, key)
            facts.named += chunk.named
            progress.update(len(chunk.images))
    return facts, content


def _prepared(chunks: Chunks) -> Iterator[Chunk]:
    """Chunks in order, prepared in advance by threads. Decoding, resizing and drawing release Python's lock.

    Processes are not used: they fail if they are forked after CUDA starts, and they can outlive a killed parent.
    """
    workers = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        waiting: list[Future] = []
        try:
            for number in range(len(chunks)):
                waiting.append(pool.submit(chunks.get, number))
                if len(waiting) > 2 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _refuse_if_unreadable(facts: Chunk, cfg: DataConfig) -> None:
    if not facts.named:
        return
    shown = "; ".join(facts.named[:5]) + (f"; and {len(facts.named) - 5} more" if len(facts.named) > 5 else "")
    total = len(facts.fault)
    if len(facts.named) > MAX_UNREADABLE * total:
        raise UserError(f"{cfg.root_folder()}: {len(facts.named)} of {total} images cannot be read ({shown}); "
                        f"expected at most {MAX_UNREADABLE:.0%}; download the set again")  # fmt: skip
    rank_zero_info(f"{len(facts.named)} of {total} images cannot be read and are left out: {shown}")


def _final_labels(reader: RawFaces, facts: Chunk) -> dict[str, np.ndarray]:
    """The labels of the pack: as in a batch, with landmarks in [-1, 1] of the packed picture, and each row's facts."""
    labels = dict(reader.labels)
    fault = facts.fault.copy()
    for row in reader.index.bad:
        fault[row] = fault[row] or REFUSED
    labels |= {"split": reader.split.astype(np.int8), "fault": fault, "pixels": facts.pixels}
    for key in ("identity", "take"):
        if key in labels:
            labels[key] = _from_zero(labels[key])
    if "attr" in labels:
        attr = labels["attr"]
        labels["attr"] = np.where(np.isnan(attr), -1, attr).astype(np.int8)
    if "landmarks" in labels:
        corner, side = facts.box[:, None, :2], (facts.box[:, 2] - facts.box[:, 0])[:, None, None]
        points = (labels["landmarks"] + 0.5 - corner) / side * 2 - 1
        labels["landmarks"] = points.astype(np.float32)
    return labels


def _from_zero(numbers: np.ndarray) -> np.ndarray:
    """Renumber as 0, 1, 2, ... in the same order; -1 stays -1."""
    known = np.unique(numbers[numbers >= 0])
    return np.where(numbers >= 0, np.searchsorted(known, numbers), -1).astype(np.int64)


def _describe(reader: RawFaces, cfg: DataConfig, facts: Chunk, channels: int) -> dict:
    crop = resolve_crop(cfg, type(reader))
    eyes, note = _eyes(reader, facts), ""
    if reader.measures_eyes and not cfg.eyes and "landmarks" not in reader.labels:
        eyes, note = measured_eyes(reader, facts.fault == FINE, facts.box, eyes)
    return {
        "version": VERSION,
        "dataset": cfg.dataset,
        "root": "" if cfg.dataset == "synthetic" else str(cfg.root_folder().resolve()),
        "count": len(reader),
        "channels": channels,
        "image_size": cfg.image_size,
        "crop": crop if isinstance(crop, str) else ",".join(str(v) for v in np.atleast_1d(crop)),
        "eyes": eyes,
        "classes": list(reader.names.get("classes", [])),
        "attributes": list(reader.names.get("attributes", [])),
        "options": {name: getattr(cfg, name) for name in type(reader).options},
        "faults": {FAULTS[k]: int((facts.fault == k).sum()) for k in range(1, 4)},
        "faulty": _faulty(reader, facts)[:1000],
        "notes": [*reader.index.notes, *([f"{cfg.root_folder()}: {note}"] if note else [])],
    }


def _faulty(reader: RawFaces, facts: Chunk) -> list[str]:
    """Name and fault of all faulty images."""
    empty = [f"{reader.name(int(row))}: {FAULTS[facts.fault[row]]}" for row in np.flatnonzero(facts.fault > UNREADABLE)]
    return [*facts.named, *empty, *(f"{reader.name(row)}: {reason}" for row, reason in reader.index.bad.items())]


def _eyes(reader: RawFaces, facts: Chunk) -> list[list[float]] | None:
    """The reader's mean eye positions, converted from [-1, 1] of the source to [-1, 1] of the packed picture."""
    readable = np.flatnonzero(facts.size[:, 0] > 0)
    if reader.eyes is None or not len(readable):
        return None
    # One picture is enough: if a reader knows eye positions, all its pictures have the same size.
    row = readable[len(readable) // 2]
    (left, top, right, bottom), (width, height) = facts.box[row], facts.size[row]
    return [
        [
            round(float((((x + 1) / 2 * width) - left) / (right - left) * 2 - 1), 4),
            round(float((((y + 1) / 2 * height) - top) / (bottom - top) * 2 - 1), 4),
        ]
        for x, y in reader.eyes
    ]


class Progress(contextlib.AbstractContextManager):
    """A tqdm bar on a terminal, otherwise one line every ten seconds."""

    def __init__(self, total: int, title: str) -> None:
        from tqdm import tqdm

        self.total, self.title, self.done, self.start = total, title, 0, time.monotonic()
        self.last_line = self.start
        self.bar = tqdm(total=total, desc=title, unit=" images", disable=None)

    def update(self, count: int) -> None:
        """Count `count` more pictures as done."""
        self.done += count
        self.bar.update(count)
        if self.bar.disable and time.monotonic() - self.last_line > 10:
            self.last_line = time.monotonic()
            rank_zero_info(self._line())

    def _line(self) -> str:
        rate = self.done / max(time.monotonic() - self.start, 1e-6)
        return f"{self.title}: {self.done:,} of {self.total:,} images, {rate:,.0f} images/s"

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        if error[0] is None:
            rank_zero_info(self._line())
