"""Labels of faces: one table (attributes first, then a column for each expression), and conditions of a network."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def label_names(meta: dict) -> list[str]:
    """The columns of `label_table`: attributes, then classes."""
    return [*meta["attributes"], *meta["classes"]]


def label_table(batch: dict[str, Any], meta: dict) -> Tensor:
    """Labels of a batch (or of a set's arrays) as (N, L) float on the CPU, in {0, 1, NaN}.

    An unknown class (-1) is NaN in each of its columns; L is 0 where the data have no labels.
    """
    columns = [torch.zeros(len(batch["index"]), 0)]
    if meta["attributes"]:
        columns.append(torch.as_tensor(batch["attr"]).float().cpu())
    if meta["classes"]:
        label = torch.as_tensor(batch["label"]).long().cpu()
        one_hot = F.one_hot(label.clamp_min(0), len(meta["classes"])).float()
        columns.append(one_hot.masked_fill(label[:, None] < 0, float("nan")))
    return torch.cat(columns, 1)


def conditions(batch: dict[str, Tensor], num_classes: int, attributes: bool) -> tuple[Tensor, Tensor]:
    """Labels of a batch as y (N, K), and which rows are known (N,) bool.

    Classes: one-hot, or `label_soft` where the batch has it (rows sum to 1); an unknown label is the uniform row.
    Attributes: -1 or +1; an unknown bit is 0, and makes its row unknown.
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
