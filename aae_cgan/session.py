"""A run opened for pictures: what all modes of `sample.py` share."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aae_cgan.config import Config
from aae_cgan.targets import conditions
from aae_cgan.train import AAECGAN
from data.emotions import canonical
from data.photo import AlignedFace, load_face
from data.request import Request, parse_request
from engine import UserError
from engine.grids import to_uint8
from evaluation import classifier, session

BATCH = 256  # images at once


@dataclass
class Subject:
    """A face to edit: x (1, C, H, H), its label y (1, K), where that label is from, the aligned photo or None."""

    name: str
    x: Tensor
    y: Tensor
    label_from: str
    photo: AlignedFace | None = None


class Session(session.Session):
    """The method in evaluation mode, as an `Editor` on the CPU in batches; data and judge when a mode asks for them."""

    method: AAECGAN

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, Config, AAECGAN)
        self.names, self.attributes = self.method.names, self.method.attributes

    def encode(self, x: Tensor) -> Tensor:
        """(N, C, H, H) -> z (N, Z), on the CPU, in batches."""
        return torch.cat([self.method.encode(part.to(self.device)).cpu() for part in x.split(BATCH)])

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """(N, Z), (N, K) -> (N, C, H, H) in [-1, 1], on the CPU, in batches."""
        parts = zip(z.split(BATCH), y.split(BATCH), strict=True)
        return torch.cat([self.method.decode(a.to(self.device), b.to(self.device)).cpu() for a, b in parts])

    def labels(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Labels of a batch as y (N, K), and which are known (N,)."""
        return conditions(batch, len(self.names), self.attributes)

    def subjects(self, names: Sequence[str], eyes: Any = None, source: str | None = None) -> list[Subject]:
        """Faces by `test:12` or by file, with the labels they have, are said (`source`) or are read to have."""
        return [self._subject(name, eyes, source) for name in names]

    def fixed(self, split: str, n: int) -> list[str]:
        """Names of n faces of a split, spread over it, expressions in turn; none is chosen by hand."""
        faces = self.split(split)
        index = faces.fixed(min(n, len(faces)))["index"].tolist()
        place = {row: i for i, row in enumerate(faces.rows.tolist())}
        return [f"{split}:{place[row]}" for row in index]

    def _subject(self, name: str, eyes: Any, source: str | None) -> Subject:
        batch = self.named(name)
        if batch is not None:
            y, known = self.labels(batch)
            if source is None and bool(known.all()):
                return Subject(name, batch["image"], y, "its own")
            return Subject(name, batch["image"], *self.label_of(batch["image"], source))
        aligned = load_face(name, self.meta, eyes)
        y, label_from = self.label_of(aligned.image, source)
        if self.error(aligned.image, y).item() > self.usual_error:
            print(f"{name}: does not look like the training crops: give --eyes x1,y1,x2,y2")
        return Subject(name, aligned.image, y, label_from, aligned)

    def label_of(self, x: Tensor, source: str | None) -> tuple[Tensor, str]:
        """y (1, K) of an unlabelled face: as said, else as the guide reads it, else neutral, or no attribute."""
        if source is not None:
            return self.request_row(parse_request(source, self.meta["classes"], self.meta["attributes"])), "as given"
        if self.method.guide is not None:
            logits = self.method.guide(x.to(self.device)).cpu()
            y = 2 * logits.sigmoid() - 1 if self.attributes else logits.softmax(1)
            return y, "read by the guide"
        if self.attributes:
            print("labels of the photo are unknown: every attribute is taken as absent; give --from Name=1 ...")
            return -torch.ones(1, len(self.names)), "taken as absent"
        print("the photo's expression is unknown and taken as neutral; give --from happy or another")
        return self.one_hot("neutral")[None], "taken as neutral"

    def request_row(self, request: Request, y: Tensor | None = None) -> Tensor:
        """What a request asks of a face with label y (1, K): (1, K)."""
        request.require("set", "amount", "flip", method="aae_cgan")
        row = -torch.ones(1, len(self.names)) if y is None else y.clone()
        if not self.attributes:
            return self._class_row(request, row if y is not None else self.one_hot("neutral")[None])
        for wish in request:
            if wish.name not in self.names:
                raise UserError(f"{wish.name}: this run edits {', '.join(self.names)}")
            at = self.names.index(wish.name)
            row[:, at] = -row[:, at].sign() if wish.form == "flip" else 2 * wish.value - 1
        return row

    def _class_row(self, request: Request, y: Tensor) -> Tensor:
        """Classes: the amounts asked for, and of the own label what they leave."""
        for wish in request:
            if wish.name not in self.names or wish.form == "flip":
                raise UserError(f"{wish}: this run shows {', '.join(self.names)}")
        asked = sum(wish.value * self.one_hot(wish.name) for wish in request)
        if not asked.sum():  # happy=0: away from it
            asked = self.one_hot("neutral")
        return asked[None] + (1 - asked.sum()) * y

    def one_hot(self, name: str) -> Tensor:
        """(K,); `neutral` is what the set calls it, and the uniform row where it has none."""
        found = [i for i, known in enumerate(self.names) if known == name or canonical(known) == name]
        if not found:
            return torch.full((len(self.names),), 1 / len(self.names))
        return torch.eye(len(self.names))[found[0]]

    def error(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared error of each reconstruction, (N,), on the [-1, 1] scale."""
        return (self.decode(self.encode(x), y) - x.cpu()).square().flatten(1).mean(1)

    @cached_property
    def usual_error(self) -> float:
        """The error that 99 of 100 validation faces stay below."""
        return self.usual(lambda batch: self.error(batch["image"], self.labels(batch)[0]))

    @cached_property
    def judge(self) -> Any:
        """The classifier of --judge, or None."""
        if not getattr(self.args, "judge", None):
            return None
        judge = classifier.load(self.args.judge, role="judge", device=str(self.device))
        missing = [name for name in self.names if name not in judge.names]
        if missing:
            raise UserError(f"{self.args.judge}: does not know {', '.join(missing)}; train it on the run's data")
        return judge

    def verdicts(self, images: Tensor) -> Tensor:
        """The judge's probabilities of the run's names, (N, K), of images (N, C, H, H) as a file would hold them."""
        logits = self.judge.logits(torch.from_numpy(to_uint8(images)))
        columns = [self.judge.names.index(name) for name in self.names]
        return self.judge.probabilities(logits)[:, columns].cpu()


def add_judge(parser: argparse.ArgumentParser) -> None:
    """--judge."""
    parser.add_argument("--judge", type=Path, help="run of a classifier of evaluation/ that reads every tile")
