"""A run opened for pictures: what all modes of `sample.py` share."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import Faces, FaceSet, build_faces
from data.photo import AlignedFace, load_face
from data.request import parse_request
from engine import Grid, UserError, load, save_grid
from engine.files import atomic_text
from vae.attributes import Codes, cached_codes, label_names, label_table
from vae.config import Config
from vae.train import BetaVAE

BATCH = 256  # images at once
PHOTO_PERCENTILE = 0.99  # of validation errors; a photo above it does not look like the training crops


class Session:
    """The method in evaluation mode; data and codes when a mode asks for them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.dir = args, Path(args.run_dir)
        self.method: BetaVAE = load(self.dir, Config, BetaVAE, args.step, args.device)
        self.meta, self.device = self.method.meta, self.method.device
        self.generator = torch.Generator().manual_seed(args.seed)

    @cached_property
    def faces(self) -> Faces:
        faces = build_faces(self.method.cfg.data)
        if faces.meta["fingerprint"] != self.meta["fingerprint"]:
            print(f"note: these are not the very data that {self.dir} was trained on (another root, or newer drawings)")
        return faces

    def split(self, name: str) -> FaceSet:
        """train, val or test of the run's data."""
        return getattr(self.faces, name)

    def codes(self, split: str) -> Codes:
        """Codes of a split, made once for these weights."""
        return cached_codes(self.method, self.split(split), self.faces.meta["fingerprint"], self.dir, split)

    def encode(self, x: Tensor) -> Tensor:
        """(N, C, H, H) -> mu (N, Z), on the CPU, in batches."""
        return torch.cat([self.method.ema_encoder(part.to(self.device))[0].cpu() for part in x.split(BATCH)])

    def decode(self, z: Tensor) -> Tensor:
        """(N, Z) -> (N, C, H, H) in [-1, 1], on the CPU, in batches."""
        return torch.cat([self.method.ema_decoder(part.to(self.device)).cpu() for part in z.split(BATCH)])

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decoded mu."""
        return self.decode(self.encode(x))

    def error(self, x: Tensor) -> Tensor:
        """Mean squared error of each image's reconstruction, (N,), unweighted, on the [-1, 1] scale."""
        return (self.reconstruct(x) - x.cpu()).square().flatten(1).mean(1)

    def face(self, name: str, eyes: str | None = None) -> tuple[Tensor, Tensor | None, AlignedFace | None]:
        """A face by `test:12` or by file: image (1, C, H, H), labels (1, L) or None, the aligned photo or None."""
        split, colon, number = name.partition(":")
        if colon and split in ("train", "val", "test"):
            faces = self.split(split)
            if not number.isdigit() or int(number) >= len(faces):
                raise UserError(f"{name}: expected {split}:0 to {split}:{len(faces) - 1}")
            batch = faces.take([int(number)])
            known = self.meta["attributes"] or self.meta["classes"]
            return batch["image"], label_table(batch, self.meta) if known else None, None
        aligned = load_face(name, self.meta, eyes)
        if self.error(aligned.image).item() > self.usual_error:
            print(f"{name}: does not look like the training crops: give --eyes x1,y1,x2,y2 (or whole)")
        return aligned.image, None, aligned

    @cached_property
    def usual_error(self) -> float:
        """The error that 99 of 100 validation faces stay below; infinite where the data are not at hand."""
        try:
            faces = self.split("val")
        except UserError as error:
            print(f"the photo is not compared with the training crops: {error}")
            return float("inf")
        errors = self.error(faces.fixed(min(len(faces), 512))["image"])
        return torch.quantile(errors, PHOTO_PERCENTILE).item()

    def code_of(self, name: str) -> Tensor:
        """mu (1, Z) of a face."""
        return self.encode(self.face(name)[0])

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
        record = {"command": ["python", "vae/sample.py", *sys.argv[1:]], "seed": self.args.seed}
        record |= {"run": origin.run, "step": origin.step, "sha256": origin.sha256} | facts
        atomic_text(path.with_suffix(".json"), json.dumps(record, indent=1))


def spread(n: int, total: int) -> np.ndarray:
    """n places of `total`, evenly spread (all for 0 or more than there are): neighbours are often one person."""
    n = min(n or total, total)
    return np.arange(n) * total // n


def add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=["train", "val", "test"], default="test", help="which faces")


def rows_with(codes: Codes, meta: dict, requests: Sequence[str]) -> tuple[Tensor, str]:
    """Rows (N,) bool of faces that have all of `requests` (Smiling, Male=0, happy), and a caption of them."""
    names = label_names(meta)
    rows, said = torch.ones(len(codes.mu), dtype=torch.bool), ""
    for text in requests:
        asked = parse_request(text if "=" in text else f"{text}=1", meta["classes"], meta["attributes"])
        for move in asked.require("set", method="a group of faces"):
            rows &= codes.labels[:, names.index(move.name)] == move.value
            said += f", {move.name}" if move.value else f", not {move.name}"
    return rows, said
