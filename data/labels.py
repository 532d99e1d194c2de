"""Labels as one table (attributes first, then one column per expression), and conditions of a network."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from data.emotions import canonical
from data.request import Request
from engine.errors import UserError


def label_names(meta: dict) -> list[str]:
    """Column names of `label_table`: attributes, then classes."""
    return [*meta["attributes"], *meta["classes"]]


def label_table(batch: dict[str, Any], meta: dict) -> Tensor:
    """Labels of a batch (or of `FaceSet.labels`) as (N, L) float on the CPU, with values in {0, 1, NaN}.

    An unknown class (-1) is NaN in all class columns. L is 0 if the data have no labels.
    """
    columns = [torch.zeros(len(batch["index"]), 0)]
    if meta["attributes"]:
        columns.append(torch.as_tensor(batch["attr"]).float().cpu())
    if meta["classes"]:
        label = torch.as_tensor(batch["label"]).long().cpu()
        one_hot = F.one_hot(label.clamp_min(0), len(meta["classes"])).float()
        columns.append(one_hot.masked_fill(label[:, None] < 0, float("nan")))
    return torch.cat(columns, 1)


def requested_labels(request: Request, labels: Tensor, meta: dict) -> Tensor:
    """Target labels (N, L) in [0, 1] of faces with `labels` (N, L). Columns are those of `label_names`.

    An attribute gets the requested value. `flip` inverts its label; an unknown label stays NaN. An expression gets its
    amount, and the other classes keep the rest, so that the classes sum to 1. `happy=0` means neutral. Columns that
    are not in the request keep their values.

    Raises:
        UserError: a form other than set, amount or flip; `flip` of an expression; `happy=0` without a neutral class.
    """
    request.require("set", "amount", "flip", method="this model")
    names, wanted = label_names(meta), labels.clone()
    for item in request.attributes:
        column = names.index(item.name)
        if item.form == "flip":
            label = labels[:, column]
            wanted[:, column] = torch.where(label.isnan(), label, 1 - (label > 0.5).float())
        else:
            wanted[:, column] = float(item.value or 0.0)
    if request.classes:
        amounts = requested_classes(request, meta)  # (K,)
        start = len(meta["attributes"])
        rest = 1 - amounts.sum()
        wanted[:, start:] = amounts if rest <= 1e-6 else amounts + rest * labels[:, start:]
    return wanted


def requested_classes(request: Request, meta: dict) -> Tensor:
    """The requested amount of each class (K,); the sum is at most 1."""
    amounts = torch.zeros(len(meta["classes"]))
    for item in request.classes:
        if item.form == "flip":
            raise UserError(f"{item}: an expression has no other side; name another expression")
        amounts[meta["classes"].index(item.name)] += float(item.value or 0.0)
    if not amounts.sum():
        name = request.classes[0].name
        neutral = [i for i, known in enumerate(meta["classes"]) if canonical(known) == "neutral"]
        if not neutral:
            raise UserError(f"{name}=0: this model has no neutral class; name another expression")
        amounts[neutral[0]] = 1.0
    return amounts


def conditions(batch: dict[str, Tensor], num_classes: int, attributes: bool) -> tuple[Tensor, Tensor]:
    """Labels of a batch as conditions y (N, K) of a network, and which rows are known, (N,) bool.

    Classes: one-hot, or `label_soft` if the batch has it (rows sum to 1). An unknown label is a uniform row.
    Attributes: -1 or +1. An unknown attribute is 0, and its row counts as unknown.
    """
    if attributes:
        known = batch["attr"].isfinite()
        return (2 * batch["attr"] - 1).nan_to_num(), known.all(1)
    known = batch["label"] >= 0
    if "label_soft" in batch:
        y = batch["label_soft"].float()
    else:
        y = F.one_hot(batch["label"].clamp_min(0), num_classes).float()
    return torch.where(known[:, None], y, torch.full_like(y, 1 / num_classes)), known
