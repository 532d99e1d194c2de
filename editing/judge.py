"""Predictions of a judge (a classifier of `evaluation/`) for edited images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.emotions import class_order
from data.request import Request
from editing.editor import Editor
from editing.release import unpacked
from engine import Grid, UserError
from engine.grids import to_uint8
from evaluation import classifier
from evaluation.expression import by_target

NUM_WORST = 8  # edits in the grid of the worst edits


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


def edit_metrics(
    judge: Judge, classes: list[str], x: Tensor, source: Tensor, edited: Tensor
) -> tuple[dict[str, Any], Grid]:
    """The judge on faces and on their edits to each class, and a grid of the worst edits.

    Faces that already have the target class are left out.

    Args:
        x: faces (N, C, H, H) in [-1, 1] of classes `source` (N,). edited: (K, N, C, H, H), target by target.
    """
    num, n = len(classes), len(x)
    target = torch.arange(num).repeat_interleave(n)
    real, p = judge.probabilities(x, classes), judge.probabilities(edited.flatten(0, 1), classes)  # (K N, K)
    counted = source.repeat(num) != target
    table, by_name, accuracy = by_target(p.argmax(1)[counted], target[counted], num)
    of_target = p.gather(1, target[:, None])[:, 0]
    gain = of_target - real.repeat(num, 1).gather(1, target[:, None])[:, 0]
    worst = (of_target + ~counted).argsort()[:NUM_WORST].tolist()
    pairs = torch.stack([x[[i % n for i in worst]], edited.flatten(0, 1)[worst]])
    captions = [f"{classes[source[i % n]]} to {classes[target[i]]}" for i in worst]
    shares = table / table.sum(1, keepdim=True).clamp_min(1)
    recall = {name: float((real.argmax(1) == k)[source == k].float().mean()) for k, name in enumerate(classes)}
    facts = {
        "judge_on_real": float((real.argmax(1) == source).float().mean()),
        "target_accuracy": float(accuracy),
        "target_accuracy_by_target": {classes[k]: float(by_name[k]) for k in class_order(classes)},
        "recall_on_real": recall,
        "target_gain": float(gain[counted].mean()),
        "confusion": [[round(v, 3) for v in row] for row in shares.tolist()],
    }
    return facts, Grid(pairs, ["source", "edit"], captions)
