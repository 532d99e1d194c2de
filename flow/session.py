"""A run opened for pictures: what all modes of `sample.py` share. Codes are float32 whatever the run trained in."""

import argparse
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.labels import label_names, label_table
from data.photo import AlignedFace, load_face
from evaluation import session
from flow.config import Config
from flow.directions import Directions, Moments, fit_directions, load_directions, pooled, save_directions
from flow.edit import CodedPhoto, encode_photo
from flow.likelihood import class_log_probs, image_bits
from flow.train import Glow
from losses.quantise import dequantise, to_levels, to_pixels

BATCH = 64  # images at once


class Session(session.Session):
    """The method in evaluation mode; data and directions when a mode asks for them."""

    method: Glow

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, Config, Glow)
        self.flow, self.labels, self.n_bits = self.method.ema.module, self.method.labels, self.method.cfg.loss.n_bits
        self.facts = {"n_bits": self.n_bits}

    # --- faces ---------------------------------------------------------------------------------------------------

    def face(self, name: str, eyes: Sequence[float] | None = None) -> tuple[Tensor, Tensor, AlignedFace | None]:
        """A face by `test:12` or by file: image (1, C, H, H), labels (1, L) with NaN = unknown, the aligned photo."""
        batch = self.named(name)
        if batch is not None:
            return batch["image"], self.table(batch), None
        aligned = load_face(name, self.meta, eyes)
        unknown = torch.full((1, len(label_names(self.meta))), float("nan"))
        bits = self.bits(aligned.image, self.y_from(aligned.image, unknown)).item()
        if bits > self.usual_bits:
            print(f"{name}: {bits:.2f} bits/dim, unlike the training crops: give --eyes x1,y1,x2,y2")
        return aligned.image, unknown, aligned

    def faces_of(self, names: Sequence[str], split: str, n: int, eyes: str | None = None) -> "Chosen":
        """The faces that a command names, or n of a split."""
        names = self.choose(names, split, n)
        found = [self.face(name, eyes) for name in names]
        images, tables = torch.cat([image for image, _, _ in found]), torch.cat([table for _, table, _ in found])
        return Chosen(images, tables, [photo for _, _, photo in found], names)

    @cached_property
    def usual_bits(self) -> float:
        """Bits/dim that 99 of 100 validation faces stay below."""
        return self.usual(lambda batch: self.bits(batch["image"], self.labels.of(batch)), 256)

    # --- codes ---------------------------------------------------------------------------------------------------

    def y_from(self, x: Tensor, table: Tensor) -> Tensor | None:
        """y (N, K) of faces with labels (N, L): what nobody told, a class or a bit, is what the density names."""
        if not len(self.labels):
            return None
        columns = [label_names(self.meta).index(name) for name in self.labels.names]
        known = table[:, columns].to(x.device)
        unknown = known.isnan().any(1)
        if unknown.any():
            told = None if self.labels.are_classes else self.centred(known[unknown])
            guess = self.guess(x[unknown], told).to(known)
            known[unknown] = torch.where(known[unknown].isnan(), guess, known[unknown])
        if self.labels.are_classes:
            return self.labels.encode(known.argmax(1).to(self.device)).to(x.device)
        return self.centred(known)

    def centred(self, bits: Tensor) -> Tensor:
        """Attribute bits (N, K), NaN = unknown -> y (N, K)."""
        return torch.nan_to_num(bits - self.labels.frequency.to(bits.device), nan=0.0)

    def guess(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The label (N, K), one-hot or bits, that makes each face most likely. y: what is known of bits."""
        parts = []
        for start in range(0, len(x), BATCH):
            rows = slice(start, start + BATCH)
            v = dequantise(to_levels(x[rows].to(self.device), self.n_bits), self.n_bits, 0.5)
            mine = None if y is None else y[rows].to(self.device)
            parts.append(class_log_probs(self.flow, self.labels, v, mine).argmax(-1).cpu())
        named = torch.cat(parts)
        return F.one_hot(named, len(self.labels)) if self.labels.are_classes else named

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
            batch = {key: value[: limit - done] for key, value in batch.items()} if limit else batch
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
        return to_pixels(self.decoded(eps_flat, y), self.n_bits)

    def decoded(self, eps_flat: Tensor, y: Tensor | None) -> Tensor:
        """The same before rounding: v (N, C, H, H), where an exploded inverse still shows."""
        parts = []
        for start in range(0, len(eps_flat), BATCH):
            rows = slice(start, start + BATCH)
            mine = None if y is None else y[rows].to(self.device)
            parts.append(self.flow.decode(self.flow.unflatten(eps_flat[rows].to(self.device)), mine).cpu())
        return torch.cat(parts)

    # --- directions ----------------------------------------------------------------------------------------------

    def provenance(self) -> dict[str, Any]:
        """Where directions come from; `max`: training faces they were fitted to, 0 = all."""
        origin = self.method.origin
        facts = {"dataset": self.meta["dataset"], "split": "train", "n_bits": self.n_bits, "max": 0}
        return facts | {"run": origin.run, "step": origin.step, "sha256": origin.sha256}

    def directions(self, kind: str) -> Directions:
        """The run's directions: read, or fitted, saved and said so."""
        path = self.dir / f"directions_{kind}.pt"
        if path.is_file():
            found = load_directions(path, self.provenance())
            if found.provenance.get("max"):
                print(f"{path}: fitted to {found.provenance['max']} training faces only (directions --max)")
            return found
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
        fitted = fit_directions(moments, *both, self.meta, kind, self.provenance() | {"max": limit})
        save_directions(fitted, self.dir / f"directions_{kind}.pt")
        return fitted


class Chosen:
    """Faces to work on: images (N, C, H, H), labels (N, L) with NaN = unknown, aligned photos or None, names."""

    def __init__(self, x: Tensor, table: Tensor, photos: list[AlignedFace | None], names: list[str]) -> None:
        self.x, self.table, self.photos, self.names = x, table, photos, names
