"""What every figure is computed from: one export, the real faces, and what each judge says of both."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import UserError
from evaluation.folder import Export
from evaluation.real import Real, at_size


@dataclass
class Predictions:
    """One judge and its readings: `fake` of every picture of the export, `real` and `train` of the real faces."""

    judge: Any  # evaluation.classifier.Classifier, or anything with its fields
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
        """Number of a class.

        Raises:
            UserError: the judge was not taught it.
        """
        if name not in self.classes:
            raise UserError(
                f"{file}: is about '{name}', and the judge {self.name} knows only {', '.join(self.classes)}"
            )
        return self.classes.index(name)

    def probabilities(self, of: str) -> Tensor:
        """Calibrated, (N, len(names)) of "fake", "real" or "train"."""
        return self.judge.probabilities(getattr(self, of)["logits"])

    def real_labels(self, eval_data: "EvalData") -> Tensor:
        """(N,) labels of the real faces in this judge's numbering, -1 unknown."""
        lookup = [self.classes.index(name) if name in self.classes else -1 for name in eval_data.real.classes]
        table = torch.tensor([*lookup, -1])
        return table[eval_data.real.label]

    def real_attr(self, eval_data: "EvalData") -> Tensor:
        """(N, len(attributes)) bits of the real faces in this judge's order, NaN unknown."""
        found = torch.full((len(eval_data.real.images), len(self.attributes)), torch.nan)
        for column, name in enumerate(self.attributes):
            if name in eval_data.real.attributes and eval_data.real.attr.shape[1]:
                found[:, column] = eval_data.real.attr[:, eval_data.real.attributes.index(name)]
        return found

    def real_expression(self, eval_data: "EvalData") -> dict | None:
        """`macro` and `recall` on the real faces of this case; None without labels."""
        from evaluation.classifier_metrics import expression_metrics

        label = self.real_labels(eval_data)
        if not (label >= 0).any():
            return None
        return expression_metrics(self.real["logits"][:, : len(self.classes)], label, 1.0)


@dataclass
class EvalData:
    """One folder before its judges."""

    export: Export
    real: Real
    judges: list[Predictions]
    inception: tuple[str, Tensor, Tensor, Tensor] | None = (
        None  # readings of another feature network, if one was asked for
    )
    notes: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)

    def has(self, kind: str) -> bool:
        """Whether the export holds images of this kind."""
        return any(row.kind == kind for row in self.export.rows)

    def judges_with(self, head: str) -> Iterator[Predictions]:
        """Those judges that read this."""
        return (j for j in self.judges if head in j.judge.heads)

    def kinds(self) -> list[str]:
        """Kinds of images to judge as a whole: edits and samples, else reconstructions, else whatever is there."""
        found = [kind for kind in ("edit", "sample") if self.has(kind)]
        return found or [kind for kind in ("reconstruction", "real") if self.has(kind)]

    def conditions(self, kind: str) -> dict[str, Tensor]:
        """{target: rows} of a kind at full strength."""
        groups: dict[str, list[int]] = {}
        for i in self.export.main(kind).tolist():
            groups.setdefault(self.export.rows[i].target, []).append(i)
        return {target: torch.tensor(rows) for target, rows in sorted(groups.items())}

    def real_of(self, target: str) -> Tensor:
        """(n,) long: real faces that show what a target asks for."""
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
        """The real faces at the export's size and colour, uint8."""
        return at_size(self.real.images, self.export.images.shape[-2:], self.export.images.shape[1])

    def source_attr(self, predictions: Predictions, rows: Tensor) -> Tensor:
        """(n, A) true bits of the rows' sources in the judge's order, NaN where a source is not among the real faces.

        Sources are found by their pixels, so that no numbering has to agree.
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

    def subsample(self, rows: Tensor, most: int) -> Tensor:
        """At most `most` of these rows, evenly spread."""
        return rows if len(rows) <= most else rows[torch.arange(most) * len(rows) // most]

    def features(self) -> tuple[str, Tensor, Tensor, Tensor]:
        """Name of the feature network, features (float64) of the export, of the real faces, of the training faces."""
        if self.inception is not None:
            return self.inception
        predictions = next((j for j in self.judges if "identity" not in j.judge.heads), self.judges[0])
        return f"faces of {predictions.name}", *(
            getattr(predictions, w)["features"].double() for w in ("fake", "real", "train")
        )
