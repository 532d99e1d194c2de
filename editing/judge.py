"""Predictions of a judge (a classifier of `evaluation/`) for edited images."""

from pathlib import Path

import torch
from torch import Tensor

from data.request import Request
from editing.editor import Editor
from editing.release import unpacked
from engine import UserError
from engine.grids import to_uint8
from evaluation import classifier


class Judge:
    """A judge, with the classes and attributes that it and a run have in common.

    Raises:
        UserError: the judge lacks a class of the run, or has none of its names.
    """

    def __init__(self, run: str | Path, editor: Editor) -> None:
        self.net = classifier.load(unpacked(run), role="judge", device=str(editor.device))
        self.classes = [name for name in editor.classes if name in self.net.names]
        self.attributes = [name for name in editor.attributes if name in self.net.names]
        missing = [name for name in editor.classes if name not in self.net.names]
        if missing or not (self.classes or self.attributes):
            names = ", ".join(missing or editor.attributes)
            raise UserError(f"{run}: does not know {names}; train a judge on the data of {editor.run_dir}")

    def probabilities(self, images: Tensor, names: list[str]) -> Tensor:
        """Probabilities (N, len(names)) of images (N, C, H, H) in [-1, 1], rounded to 8 bits."""
        logits = self.net.logits(torch.from_numpy(to_uint8(images)))
        return self.net.probabilities(logits)[:, [self.net.names.index(name) for name in names]].cpu()

    def captions(self, images: Tensor, request: Request | None = None) -> list[str]:
        """Captions of images (N, C, H, H): `happy .97`, or the probabilities of the requested attributes."""
        if self.classes and (request is None or request.classes):
            p, names = self.probabilities(images, self.classes), self.classes
            best = p.argmax(1).tolist()
            return [f"{names[k]} {p[i, k]:.2f}".replace("0.", ".") for i, k in enumerate(best)]
        names = [n for n in (request.names if request is not None else self.attributes) if n in self.attributes]
        p = self.probabilities(images, names)
        if request is not None:
            return [" ".join(f"{n} {v:.2f}".replace("0.", ".") for n, v in zip(names, row)) for row in p.tolist()]
        return [" ".join(n for n, v in zip(names, row) if v > 0.5) or "none" for row in p.tolist()]
