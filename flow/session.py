"""A run opened for pictures: what all modes of `sample.py` share. Codes are float32 whatever the run trained in."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import Faces, FaceSet, build_faces
from data.photo import AlignedFace, load_face
from engine import Grid, UserError, load, save_grid
from engine.files import atomic_text
from flow.config import Config
from flow.directions import (
    Directions,
    Moments,
    fit_directions,
    label_names,
    label_table,
    load_directions,
    pooled,
    save_directions,
)
from flow.edit import CodedPhoto, encode_photo
from flow.likelihood import class_log_probs, image_bits
from flow.train import Glow
from losses.quantise import dequantise, to_levels, to_pixels

BATCH = 64  # images at once
PHOTO_PERCENTILE = 0.99  # of validation bits/dim; a photo above it does not look like the training crops


class Session:
    """The method in evaluation mode; data and directions when a mode asks for them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.dir = args, Path(args.run_dir)
        self.method: Glow = load(self.dir, Config, Glow, args.step, args.device)
        self.flow, self.labels = self.method.ema.module, self.method.labels
        self.meta, self.device, self.n_bits = self.method.meta, self.method.device, self.method.cfg.loss.n_bits
        self.generator = torch.Generator().manual_seed(args.seed)

    # --- faces ---------------------------------------------------------------------------------------------------

    @cached_property
    def faces(self) -> Faces:
        faces = build_faces(self.method.cfg.data)
        if faces.meta["fingerprint"] != self.meta["fingerprint"]:
            raise UserError(f"{self.dir}: its data have changed since it was trained; give the same data.root as then")
        return faces

    def split(self, name: str) -> FaceSet:
        """train, val or test of the run's data."""
        return getattr(self.faces, name)

    def face(self, name: str, eyes: Sequence[float] | None = None) -> tuple[Tensor, Tensor, AlignedFace | None]:
        """A face by `test:12` or by file: image (1, C, H, H), labels (1, L) with NaN = unknown, the aligned photo."""
        split, colon, number = name.partition(":")
        if colon and split in ("train", "val", "test"):
            faces = self.split(split)
            if not number.isdigit() or int(number) >= len(faces):
                raise UserError(f"{name}: expected {split}:0 to {split}:{len(faces) - 1}")
            batch = faces.take([int(number)])
            return batch["image"], self.table(batch), None
        aligned = load_face(name, self.meta, eyes)
        unknown = torch.full((1, len(label_names(self.meta))), float("nan"))
        bits = self.bits(aligned.image, self.y_from(aligned.image, unknown)).item()
        if bits > self.usual_bits:
            print(f"{name}: {bits:.2f} bits/dim, unlike the training crops: give --eyes x1,y1,x2,y2")
        return aligned.image, unknown, aligned

    def faces_of(self, names: Sequence[str], split: str, n: int, eyes: str | None = None) -> "Chosen":
        """The faces that a command names, or n of a split."""
        names = list(names) or [f"{split}:{i}" for i in spread(n, len(self.split(split)))]
        found = [self.face(name, eyes) for name in names]
        images, tables = torch.cat([image for image, _, _ in found]), torch.cat([table for _, table, _ in found])
        return Chosen(images, tables, [photo for _, _, photo in found], names)

    def table(self, batch: dict[str, Tensor]) -> Tensor:
        """Labels (N, L) of a batch; no columns where the data have none."""
        if not label_names(self.meta):
            return torch.zeros(len(batch["image"]), 0)
        return label_table(batch, self.meta)

    @cached_property
    def usual_bits(self) -> float:
        """Bits/dim that 99 of 100 validation faces stay below; infinite where the data are not at hand."""
        try:
            faces = self.split("val")
        except UserError as error:
            print(f"the photo is not compared with the training crops: {error}")
            return float("inf")
        batch = faces.fixed(min(len(faces), 256))
        return torch.quantile(self.bits(batch["image"], self.labels.of(batch)), PHOTO_PERCENTILE).item()

    # --- codes ---------------------------------------------------------------------------------------------------

    def y_from(self, x: Tensor, table: Tensor) -> Tensor | None:
        """y (N, K) of faces with labels (N, L): a class that nobody told is the one the density names."""
        if not len(self.labels):
            return None
        columns = [label_names(self.meta).index(name) for name in self.labels.names]
        known = table[:, columns].to(x.device)
        if not self.labels.are_classes:
            return torch.nan_to_num(known - self.labels.frequency.to(x.device), nan=0.0)
        label = torch.where(known.isnan().any(1), -1, known.argmax(1))
        if (label < 0).any():
            label = torch.where(label < 0, self.guess(x), label)
        return self.labels.encode(label.to(self.device)).to(x.device)

    def guess(self, x: Tensor) -> Tensor:
        """The class (N,) under which the density of each face is largest."""
        parts = []
        for part in x.split(BATCH):
            v = dequantise(to_levels(part.to(self.device), self.n_bits), self.n_bits, 0.5)
            parts.append(class_log_probs(self.flow, self.labels, v).argmax(1).cpu())
        return torch.cat(parts)

    def coded(self, x: Tensor, y: Tensor | None) -> Iterator[tuple[slice, CodedPhoto]]:
        """Codes of faces x (N, C, H, H), in batches: their rows, and the batch's codes on the device."""
        for start in range(0, len(x), BATCH):
            rows = slice(start, start + BATCH)
            mine = None if y is None else y[rows].to(self.device)
            yield rows, encode_photo(self.flow, x[rows].to(self.device), self.n_bits, mine)

    def stream(self, split: str, limit: int = 0) -> Iterator[tuple[CodedPhoto, dict[str, Tensor]]]:
        """Codes of a split under their own labels, batch by batch, at most `limit` faces (0 = all)."""
        done = 0
        for batch in self.split(split).once(BATCH, self.device):
            yield encode_photo(self.flow, batch["image"], self.n_bits, self.labels.of(batch)), batch
            done += len(batch["image"])
            if limit and done >= limit:
                return

    def bits(self, x: Tensor, y: Tensor | None, draws: int = 1) -> Tensor:
        """Bits per dimension (N,), on the CPU, in batches."""
        parts = []
        for start in range(0, len(x), BATCH):
            rows = slice(start, start + BATCH)
            mine = None if y is None else y[rows].to(self.device)
            part = image_bits(self.flow, x[rows].to(self.device), mine, self.n_bits, draws, self.generator)
            parts.append(part.cpu())
        return torch.cat(parts)

    def pictures(self, eps_flat: Tensor, y: Tensor | None) -> Tensor:
        """Codes (N, D), coarsest first -> images (N, C, H, H) in [-1, 1], on the CPU, in batches."""
        parts = []
        for start in range(0, len(eps_flat), BATCH):
            rows = slice(start, start + BATCH)
            mine = None if y is None else y[rows].to(self.device)
            v = self.flow.decode(self.flow.unflatten(eps_flat[rows].to(self.device)), mine)
            parts.append(to_pixels(v, self.n_bits).cpu())
        return torch.cat(parts)

    # --- directions ----------------------------------------------------------------------------------------------

    def provenance(self) -> dict[str, Any]:
        """Where directions come from."""
        origin = self.method.origin
        facts = {"dataset": self.meta["dataset"], "split": "train", "n_bits": self.n_bits}
        return facts | {"run": origin.run, "step": origin.step, "sha256": origin.sha256}

    def directions(self, kind: str) -> Directions:
        """The run's directions: read, or fitted, saved and said so."""
        path = self.dir / f"directions_{kind}.pt"
        if path.is_file():
            return load_directions(path, self.provenance())
        print(f"no {path} yet: fitting {kind} directions on the training faces")
        return self.fit(kind)

    def fit(self, kind: str, limit: int = 0) -> Directions:
        """One pass over train and val; writes `directions_<kind>.pt`."""
        moments = Moments(len(self.meta["attributes"]))
        train, val = [], []
        for photo, batch in self.stream("train", limit):
            table = label_table(batch, self.meta)
            moments.add(photo.code.flat().cpu(), table)
            train.append((pooled(photo.code.eps).cpu(), table))
        for photo, batch in self.stream("val"):
            val.append((pooled(photo.code.eps).cpu(), label_table(batch, self.meta)))
        both = [tuple(torch.cat(part) for part in zip(*seen, strict=True)) for seen in (train, val)]
        fitted = fit_directions(moments, *both, self.meta, kind, self.provenance())
        save_directions(fitted, self.dir / f"directions_{kind}.pt")
        return fitted

    # --- files ---------------------------------------------------------------------------------------------------

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
        origin = self.method.origin
        record = {"command": ["python", "flow/sample.py", *sys.argv[1:]], "seed": self.args.seed}
        record |= {"run": origin.run, "step": origin.step, "sha256": origin.sha256, "n_bits": self.n_bits} | facts
        atomic_text(path.with_suffix(".json"), json.dumps(record, indent=1))


class Chosen:
    """Faces to work on: images (N, C, H, H), labels (N, L) with NaN = unknown, aligned photos or None, names."""

    def __init__(self, x: Tensor, table: Tensor, photos: list[AlignedFace | None], names: list[str]) -> None:
        self.x, self.table, self.photos, self.names = x, table, photos, names


def spread(n: int, size: int) -> np.ndarray:
    """n places of `size`, evenly spread: neighbours in a set are often one person. n 0: all."""
    n = min(n or size, size)
    return np.arange(n) * size // max(n, 1)


def add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=["train", "val", "test"], default="test", help="which faces")


def blocks(kinds: Sequence[Tensor], names: Sequence[str], columns: int = 12) -> Grid:
    """Pictures of one face below each other, faces beside each other, in blocks of twelve."""
    columns = min(columns, len(kinds[0]))
    filled = [torch.cat([k, k.new_ones(-len(k) % columns, *k.shape[1:])]) for k in kinds]
    rows = torch.stack(filled, 1).unflatten(0, (-1, columns)).transpose(1, 2).flatten(0, 1)
    return Grid(rows, list(names) * (len(rows) // len(names)))
