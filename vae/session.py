"""A run opened for pictures: how a VAE encodes and decodes, beside what every family shares."""

import argparse
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from data.labels import label_names
from data.photo import AlignedFace, load_face
from data.request import parse_request
from evaluation import session
from vae.attributes import Codes, cached_codes
from vae.config import Config
from vae.train import BetaVAE

BATCH = 256  # images at once


class Session(session.Session):
    """The method in evaluation mode; data and codes when a mode asks for them."""

    method: BetaVAE

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, Config, BetaVAE)

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

    def face(self, name: str, eyes: str | None = None) -> tuple[Tensor, Tensor, AlignedFace | None]:
        """A face by `test:12` or by file: image (1, C, H, H), labels (1, L) with NaN = unknown, the aligned photo."""
        batch = self.named(name)
        if batch is not None:
            return batch["image"], self.table(batch), None
        aligned = load_face(name, self.meta, eyes)
        if self.error(aligned.image).item() > self.usual_error:
            print(f"{name}: does not look like the training crops: give --eyes x1,y1,x2,y2 (or whole)")
        return aligned.image, torch.full((1, len(label_names(self.meta))), float("nan")), aligned

    @cached_property
    def usual_error(self) -> float:
        """The error that 99 of 100 validation faces stay below."""
        return self.usual(lambda batch: self.error(batch["image"]))

    def code_of(self, name: str) -> Tensor:
        """mu (1, Z) of a face."""
        return self.encode(self.face(name)[0])


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
