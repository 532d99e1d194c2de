"""The input of every metric: one export, the real faces, and the judges' predictions for both."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import UserError
from evaluation.classifier_metrics import expression_metrics
from evaluation.folder import Export
from evaluation.real import Real, at_size


@dataclass
class Predictions:
    """One judge and its predictions for the images of the export (`fake`) and for real faces (`real`, `train`)."""

    judge: Any  # evaluation.classifier.Classifier, or anything with its attributes
    fake: dict[str, Tensor]  # logits (M, len(names)), features (M, F), landmarks (M, P, 2)
    real: dict[str, Tensor]
    train: dict[str, Tensor]
    test_metrics: dict = field(default_factory=dict)  # test_metrics.json

    @property
    def name(self) -> str:
        """The last part of its run directory."""
        return Path(self.judge.origin.run).name

    @property
    def classes(self) -> list[str]:
        return self.judge.classes

    @property
    def attributes(self) -> list[str]:
        return self.judge.attributes

    def class_index(self, name: str, file: str) -> int:
        """Index of a class.

        Raises:
            UserError: the judge does not know the class; names the file and the known classes.
        """
        if name not in self.classes:
            raise UserError(
                f"{file}: the class is '{name}', but the judge {self.name} knows only {', '.join(self.classes)}; "
                "use a judge that was trained on this class"
            )
        return self.classes.index(name)

    def probabilities(self, images: str) -> Tensor:
        """Calibrated probabilities (N, len(judge.names)), classes first; softmax of classes, sigmoid of attributes.

        images: "fake" (the export), "real" or "train" (real faces). KeyError if this field has no logits.
        """
        return self.judge.probabilities(getattr(self, images)["logits"])

    def real_labels(self, eval_data: "EvalData") -> Tensor:
        """(N,) class indices of the real faces, in this judge's order; -1 = unknown."""
        lookup = [self.classes.index(name) if name in self.classes else -1 for name in eval_data.real.classes]
        table = torch.tensor([*lookup, -1])
        return table[eval_data.real.label]

    def real_attr(self, eval_data: "EvalData") -> Tensor:
        """(N, len(attributes)) attributes of the real faces in {0, 1}, in this judge's order; NaN = unknown."""
        found = torch.full((len(eval_data.real.images), len(self.attributes)), torch.nan)
        for column, name in enumerate(self.attributes):
            if name in eval_data.real.attributes and eval_data.real.attr.shape[1]:
                found[:, column] = eval_data.real.attr[:, eval_data.real.attributes.index(name)]
        return found

    def real_expression(self, eval_data: "EvalData") -> dict | None:
        """`macro` and `recall` of the judge on the real faces; None if they have no labels."""
        label = self.real_labels(eval_data)
        if not (label >= 0).any():
            return None
        return expression_metrics(self.real["logits"][:, : len(self.classes)], label, 1.0)


@dataclass
class EvalData:
    """One export, the real faces that it is compared with, and the judges."""

    export: Export
    real: Real
    judges: list[Predictions]
    inception: tuple[str, Tensor, Tensor, Tensor] | None = None  # as `features` returns them; replaces the judge's
    notes: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)

    def has(self, kind: str) -> bool:
        """True if the export has images of this kind."""
        return any(row.kind == kind for row in self.export.rows)

    def judges_with(self, head: str) -> Iterator[Predictions]:
        """The judges that have this head."""
        return (j for j in self.judges if head in j.judge.heads)

    def kinds(self) -> list[str]:
        """Kinds of images to compare with real faces: edits and samples; else reconstructions and real images."""
        found = [kind for kind in ("edit", "sample") if self.has(kind)]
        return found or [kind for kind in ("reconstruction", "real") if self.has(kind)]

    def conditions(self, kind: str) -> dict[str, Tensor]:
        """{target: rows} of one kind at full strength."""
        groups: dict[str, list[int]] = {}
        for i in self.export.at_full_strength(kind).tolist():
            groups.setdefault(self.export.rows[i].target, []).append(i)
        return {target: torch.tensor(rows) for target, rows in sorted(groups.items())}

    def real_faces_with(self, target: str) -> Tensor:
        """(n,) long: indices of the real faces that have the labels of a target, as "happy" or "Smiling=1;Male=0"."""
        keep = torch.ones(len(self.real.images), dtype=torch.bool)
        for name, _, value in (part.partition("=") for part in target.split(";") if part):
            if value and name in self.real.attributes:
                keep &= self.real.attr[:, self.real.attributes.index(name)] == float(value)
            elif not value and name in self.real.classes:
                keep &= self.real.label == self.real.classes.index(name)
            else:
                keep &= False
        return torch.nonzero(keep)[:, 0]

    def real_pixels(self) -> Tensor:
        """The real faces, uint8, at the export's size and with its number of channels."""
        return at_size(self.real.images, self.export.images.shape[-2:], self.export.images.shape[1])

    def source_attr(self, predictions: Predictions, rows: Tensor) -> Tensor:
        """(n, A) true attributes of the rows' sources, in the judge's order; NaN for a source that is no real face.

        Sources are found among the real faces by their pixels, so file names and indices need not agree.
        """
        if not hasattr(self, "_places"):
            size, channels = self.export.images.shape[-2:], self.export.images.shape[1]
            same = tuple(self.real.images.shape[1:]) == (channels, *size)
            self._places = {x.numpy().tobytes(): i for i, x in enumerate(self.real.images)} if same else {}
        found = torch.full((len(rows), len(predictions.attributes)), torch.nan)
        known = predictions.real_attr(self)
        for r, place in enumerate(self.export.source[rows].tolist()):
            real = self._places.get(self.export.images[place].numpy().tobytes()) if place >= 0 else None
            if real is not None:
                found[r] = known[real]
        return found

    def features(self) -> tuple[str, Tensor, Tensor, Tensor]:
        """Name of the feature network; features (N, F), float64, of export, real faces and training faces."""
        if self.inception is not None:
            return self.inception
        predictions = next((j for j in self.judges if "identity" not in j.judge.heads), self.judges[0])
        return f"faces of {predictions.name}", *(
            getattr(predictions, w)["features"].double() for w in ("fake", "real", "train")
        )
