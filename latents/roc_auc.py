"""Area under the ROC curve."""

import torch
from torch import Tensor


def roc_auc(score: Tensor, label: Tensor) -> float:
    """Area under the ROC curve of `score` (N,) for `label` (N,) in {0, 1}. Labels that are NaN are left out.

    The result is in 0 .. 1, and NaN if a class is missing. Tied scores are ranked in the order of their rows.
    """
    known = label.isfinite()
    score, label = score[known], label[known]
    positive = int(label.sum())
    if positive in (0, len(label)):
        return float("nan")
    rank = torch.empty(len(score), dtype=torch.float64)
    rank[score.argsort()] = torch.arange(1, len(score) + 1, dtype=torch.float64)
    wins = rank[label == 1].sum() - positive * (positive + 1) / 2
    return float(wins / (positive * (len(label) - positive)))
