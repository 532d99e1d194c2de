"""Labels of faces as one table: attributes first, then a column for each expression. Every family reads this."""

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
