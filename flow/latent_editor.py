"""Edits along directions: a request and codes in, steps in code space (N, D) out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.labels import label_names
from data.request import AttributeEdit, Request
from engine import UserError
from flow.directions import Directions, pooled
from flow.model import GlowFlow
from latents.directions import orthogonalize

GAIN_RANGE = (0.5, 3.0)  # limits of --gain auto
FORMS = ("set", "amount", "flip", "step")


@dataclass
class LatentEditor:
    """Directions of one run, and the step size along them.

    gain: factor on every step; None: set per face, so that the reader's score reaches the target side's mean. keep:
    labels whose directions are projected out. mask (D,): 1 where a code may change.
    """

    flow: GlowFlow
    directions: Directions
    meta: dict
    gain: float | None = 1.6
    keep: Sequence[str] = ()
    mask: Tensor | None = None

    def step(self, codes: Tensor, table: Tensor, request: Request) -> Tensor:
        """codes (N, D), labels (N, L) with NaN = unknown -> (N, D). Unknown labels are predicted from the code."""
        request.require(*FORMS, method="flow")
        scores = self.pool(codes) @ self.directions.reader.T  # (N, rows)
        total = torch.zeros_like(codes)
        for edit in request:
            if edit.is_class:
                move, row, side = self.class_step(scores, table, edit)
            else:
                move, row, side = self.attribute_step(scores, table, edit)
            move = self.restrict(move)
            total += self.gains(move, scores, row, side)[:, None] * move
        return total

    def attribute_step(self, scores: Tensor, table: Tensor, edit: AttributeEdit) -> tuple[Tensor, int, Tensor]:
        """alpha d for every face, the reader's row, the target side (N,). alpha is 0 for a face on the target side."""
        row, current = self.directions.row(edit.name), self.current_sides(scores, table, edit.name)
        if edit.form == "step":
            alpha = torch.full_like(current, float(edit.value))
        else:
            alpha = (1 - current if edit.form == "flip" else float(edit.value)) - current
        d = self.directions.direction[row].expand(len(current), -1)
        return alpha[:, None] * d, row, (current + alpha).clamp(0, 1)

    def class_step(self, scores: Tensor, table: Tensor, edit: AttributeEdit) -> tuple[Tensor, int, Tensor]:
        """Mean code of the target expression minus that of the current one, times the requested amount."""
        d = self.directions
        if edit.form == "flip":
            raise UserError(f"{edit}: `flip` needs an attribute with two sides; name another expression")
        if edit.form == "set" and edit.value == 0:
            edit = replace(edit, name="neutral", value=1.0)
        row, target = d.row(edit.name), d.classes.index(edit.name)
        source = self.current_classes(scores, table)
        move = d.class_code[target] - d.class_code[source]  # (N, D)
        return float(edit.value) * move, row, torch.full((len(source),), float(edit.value)).clamp(0, 1)

    def gains(self, move: Tensor, scores: Tensor, row: int, side: Tensor) -> Tensor:
        """(N,): the gain, or for each face the gain at which its reader score equals the mean of `side`."""
        if self.gain is not None:
            return torch.full((len(move),), self.gain)
        reader, (without, with_) = self.directions.reader[row], self.directions.reader_mean[row]
        target = without + side * (with_ - without)
        score_change = self.pool(move) @ reader
        no_change = score_change.abs() < 1e-6
        return (
            ((target - scores[:, row]) / score_change.masked_fill(no_change, 1.0))
            .clamp(*GAIN_RANGE)
            .masked_fill(no_change, 0.0)
        )

    def current_sides(self, scores: Tensor, table: Tensor, name: str) -> Tensor:
        """0 or 1 for each face (N,): its label if known, else the reader's prediction."""
        row = self.directions.row(name)
        known = table[:, label_names(self.meta).index(name)]
        read = (scores[:, row] > self.directions.reader_mean[row].mean()).float()
        return torch.where(known.isnan(), read, known)

    def current_classes(self, scores: Tensor, table: Tensor) -> Tensor:
        """Index into `directions.classes`, (N,): the label if known, else the highest normalised reader score."""
        d, names = self.directions, label_names(self.meta)
        rows = [d.names.index(name) for name in d.classes]
        without, with_ = d.reader_mean[rows].unbind(1)
        read = ((scores[:, rows] - without) / (with_ - without)).argmax(1)
        known = table[:, [names.index(name) for name in d.classes]]
        return torch.where(known.nan_to_num().sum(1) > 0, known.nan_to_num().argmax(1), read)

    def read(self, codes: Tensor, table: Tensor) -> Tensor:
        """Labels (N, L) with unknown ones predicted from codes (N, D). Labels without a reader stay NaN."""
        d, names, scores = self.directions, label_names(self.meta), self.pool(codes) @ self.directions.reader.T
        labels = table.clone()
        for name in self.meta["attributes"]:
            if name in d.names:
                labels[:, names.index(name)] = self.current_sides(scores, table, name)
        if d.classes:
            columns = torch.tensor([names.index(name) for name in d.classes])
            current_classes = torch.nn.functional.one_hot(self.current_classes(scores, table), len(d.classes)).float()
            unknown = table[:, columns].isnan().any(1, keepdim=True)
            labels[:, columns] = torch.where(unknown, current_classes, table[:, columns])
        return labels

    def restrict(self, move: Tensor) -> Tensor:
        """The step without the kept directions, and only where `mask` is 1."""
        if self.keep:
            kept = self.directions.direction[[self.directions.row(name) for name in self.keep]]
            try:
                move = orthogonalize(move, kept)
            except ValueError:
                raise UserError(
                    f"--keep {' '.join(self.keep)}: spans the whole direction of --attr, nothing is left to change; "
                    "keep other labels"
                ) from None
        return move if self.mask is None else move * self.mask

    def pool(self, codes: Tensor) -> Tensor:
        """Codes (N, D) -> input of the readers, (N, F)."""
        return pooled(self.flow.unflatten(codes))
