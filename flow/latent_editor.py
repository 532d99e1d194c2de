"""From a request to a step in code space: `Smiling=1;Male=flip` and faces in, (N, D) out."""

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

GAIN_RANGE = (0.5, 3.0)  # of --gain auto
FORMS = ("set", "amount", "flip", "step")


@dataclass
class LatentEditor:
    """Directions of one run, and how far to go along them.

    gain: times every step; None = each face by its reader, to the mean of the side asked for. keep: labels whose
    directions are left out of the move. mask (D,): 1 where a code may move.
    """

    flow: GlowFlow
    directions: Directions
    meta: dict
    gain: float | None = 1.6
    keep: Sequence[str] = ()
    mask: Tensor | None = None

    def step(self, codes: Tensor, table: Tensor, request: Request) -> Tensor:
        """codes (N, D), labels (N, L) with NaN = unknown -> (N, D). Unknown labels are read from the code."""
        request.require(*FORMS, method="flow")
        readings = self.pool(codes) @ self.directions.reader.T  # (N, rows)
        total = torch.zeros_like(codes)
        for edit in request:
            if edit.is_class:
                move, row, side = self.class_step(readings, table, edit)
            else:
                move, row, side = self.attribute_step(readings, table, edit)
            move = self.allowed(move)
            total += self.gains(move, readings, row, side)[:, None] * move
        return total

    def attribute_step(self, readings: Tensor, table: Tensor, edit: AttributeEdit) -> tuple[Tensor, int, Tensor]:
        """alpha d for every face, the reader's row, and the side aimed at (N,). Who is there already stays."""
        row, now = self.directions.row(edit.name), self.sides(readings, table, edit.name)
        if edit.form == "step":
            alpha = torch.full_like(now, float(edit.value))
        else:
            alpha = (1 - now if edit.form == "flip" else float(edit.value)) - now
        d = self.directions.direction[row].expand(len(now), -1)
        return alpha[:, None] * d, row, (now + alpha).clamp(0, 1)

    def class_step(self, readings: Tensor, table: Tensor, edit: AttributeEdit) -> tuple[Tensor, int, Tensor]:
        """Mean code of the expression asked for minus that of the one shown, as far as asked."""
        d = self.directions
        if edit.form == "flip":
            raise UserError(f"{edit}: an expression has no other side; ask for another expression")
        if edit.form == "set" and edit.value == 0:
            edit = replace(edit, name="neutral", value=1.0)
        row, target = d.row(edit.name), d.classes.index(edit.name)
        source = self.shown(readings, table)
        move = d.class_code[target] - d.class_code[source]  # (N, D)
        return float(edit.value) * move, row, torch.full((len(source),), float(edit.value)).clamp(0, 1)

    def gains(self, move: Tensor, readings: Tensor, row: int, side: Tensor) -> Tensor:
        """(N,): the gain, or for each face the one at which the reader stands at the mean of `side`."""
        if self.gain is not None:
            return torch.full((len(move),), self.gain)
        reader, (without, with_) = self.directions.reader[row], self.directions.reader_mean[row]
        target = without + side * (with_ - without)
        reach = self.pool(move) @ reader
        still = reach.abs() < 1e-6
        return ((target - readings[:, row]) / reach.masked_fill(still, 1.0)).clamp(*GAIN_RANGE).masked_fill(still, 0.0)

    def sides(self, readings: Tensor, table: Tensor, name: str) -> Tensor:
        """0 or 1 for each face (N,): its label, or the side on which its reading lies."""
        row = self.directions.row(name)
        told = table[:, label_names(self.meta).index(name)]
        read = (readings[:, row] > self.directions.reader_mean[row].mean()).float()
        return torch.where(told.isnan(), read, told)

    def shown(self, readings: Tensor, table: Tensor) -> Tensor:
        """The expression of each face (N,), a place in `directions.classes`: its label, or the furthest reading."""
        d, names = self.directions, label_names(self.meta)
        rows = [d.names.index(name) for name in d.classes]
        without, with_ = d.reader_mean[rows].unbind(1)
        read = ((readings[:, rows] - without) / (with_ - without)).argmax(1)
        told = table[:, [names.index(name) for name in d.classes]]
        return torch.where(told.nan_to_num().sum(1) > 0, told.nan_to_num().argmax(1), read)

    def read(self, codes: Tensor, table: Tensor) -> Tensor:
        """Labels (N, L) with what is unknown read from codes (N, D); what has no reader stays NaN."""
        d, names, readings = self.directions, label_names(self.meta), self.pool(codes) @ self.directions.reader.T
        labels = table.clone()
        for name in self.meta["attributes"]:
            if name in d.names:
                labels[:, names.index(name)] = self.sides(readings, table, name)
        if d.classes:
            columns = torch.tensor([names.index(name) for name in d.classes])
            shown = torch.nn.functional.one_hot(self.shown(readings, table), len(d.classes)).float()
            unknown = table[:, columns].isnan().any(1, keepdim=True)
            labels[:, columns] = torch.where(unknown, shown, table[:, columns])
        return labels

    def allowed(self, move: Tensor) -> Tensor:
        """The move without what `keep` and `mask` forbid."""
        if self.keep:
            kept = self.directions.direction[[self.directions.row(name) for name in self.keep]]
            try:
                move = orthogonalize(move, kept)
            except ValueError:
                raise UserError(
                    f"--keep {' '.join(self.keep)}: holds all of what --attr asks to move; keep other labels"
                ) from None
        return move if self.mask is None else move * self.mask

    def pool(self, codes: Tensor) -> Tensor:
        """(N, D) -> what readers see, (N, F)."""
        return pooled(self.flow.unflatten(codes))
