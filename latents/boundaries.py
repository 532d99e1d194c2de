"""Fit the hyperplane between codes with and without an attribute, from sampled codes and a classifier's scores.

Symbols: codes (N, d). scores (N, A), one column per attribute, high for images with the attribute. Scores are logits,
because saturated probabilities have ties. A normal (d,) has unit length and points to the side with the attribute.
Everything is computed in float64 and returned in the dtype of the codes. Errors are ValueError.

InterFaceGAN (https://arxiv.org/abs/1907.10786) fits a linear SVM to the codes with the highest and lowest scores
(`linear_normal`). `ridge_rank` uses all codes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ESTIMATORS = ("ridge_rank", "svc", "linear_svc", "logreg")


def extremes(score: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """The rows with the highest scores, with the lowest scores, and the rest, each in descending order.

    score (N,). share: size of each side, as a share of N if it is at most 1, else as a number; at most N // 2.
    """
    refuse_unknown(score[:, None])
    order = score.argsort(descending=True, stable=True)
    k = min(int(len(score) * share) if share <= 1 else int(share), len(score) // 2)
    if k < 1:
        raise ValueError(f"a share of {share:g} of {len(score)} codes is less than one code; give a larger share")
    return order[:k], order[len(order) - k :], order[k : len(order) - k]


def ridge_rank(codes: Tensor, scores: Tensor, ridge: float = 1e-3) -> Tensor:
    """Unit normals (A, d) of ridge regressions of the scores' normal ranks on the codes.

        n ~ (Sigma + ridge tr(Sigma) / d I)^-1 cov(c, y),   y = Phi^-1((rank + 1/2) / N)

    Sigma (d, d): covariance of the codes. Ranks start at 0; ties have their mean rank. All codes are used. An
    increasing transformation of the scores does not change the result.
    """
    refuse_unknown(scores)
    c = codes.double() - codes.double().mean(0)
    y = torch.stack([normal_ranks(column) for column in scores.T], 1)  # (N, A)
    sigma = c.T @ c / len(c)
    sigma = sigma + ridge * sigma.diagonal().mean() * torch.eye(len(sigma), dtype=sigma.dtype, device=sigma.device)
    normal = torch.linalg.solve(sigma, c.T @ y / len(c)).T  # (A, d)
    return torch.nn.functional.normalize(normal, dim=1).to(codes.dtype)


def linear_normal(
    codes: Tensor, score: Tensor, estimator: str = "svc", share: float = 0.02, split: float = 0.7, seed: int = 0
) -> Tensor:
    """Unit normal (d,) of a linear classifier between codes with the highest and the lowest scores.

    Args:
        estimator: svc (C 1, as in the paper), linear_svc (C 1e-3) or logreg (C 1e-2), all from scikit-learn.
        share: see `extremes`.
        split: share of each side for training. Each side is shuffled first, with numpy's legacy generator and positives
            first, as in the authors' release.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC, LinearSVC

    random = np.random.RandomState(seed)
    sides = []
    for rows in extremes(score, share)[:2]:
        place = np.arange(len(rows))
        random.shuffle(place)
        sides.append(codes[rows[torch.from_numpy(place[: max(1, int(len(rows) * split))])]])
    model = {
        "svc": lambda: SVC(kernel="linear", C=1.0),
        "linear_svc": lambda: LinearSVC(C=1e-3, random_state=seed),
        "logreg": lambda: LogisticRegression(C=1e-2, max_iter=1000),
    }[estimator]()
    model.fit(torch.cat(sides).double().cpu().numpy(), np.repeat([1, 0], [len(side) for side in sides]))
    normal = torch.from_numpy(model.coef_[0].astype(np.float64))
    return torch.nn.functional.normalize(normal, dim=0).to(codes)


def normal_ranks(score: Tensor) -> Tensor:
    """Phi^-1((rank + 1/2) / N) of score (N,), float64. Equal scores have their mean rank."""
    _, group, count = score.unique(return_inverse=True, return_counts=True)
    middle = count.cumsum(0).double() - (count.double() + 1) / 2  # mean rank of each group, from 0
    return torch.special.ndtri((middle[group] + 0.5) / len(score))


def best_offset(reading: Tensor, positive: Tensor) -> float:
    """b such that `reading + b > 0` predicts `positive` (N,) bool with the best balanced accuracy; reading (N,)."""
    order = reading.double().argsort()
    positive, values = positive[order].double(), reading.double()[order]
    sides = positive.sum(), (1 - positive).sum()
    if not (sides[0] and sides[1]):
        raise ValueError("all scores are on the same side of 0, so there is no boundary")
    below = torch.cat([positive.new_zeros(1), (1 - positive).cumsum(0)]) / sides[1]  # share of negatives below a cut
    above = 1 - torch.cat([positive.new_zeros(1), positive.cumsum(0)]) / sides[0]
    cut = int((below + above)[1:-1].argmax()) + 1 if len(values) > 2 else 1
    return -float(values[cut - 1 : cut + 1].mean())


def refuse_unknown(scores: Tensor) -> None:
    """Raise ValueError with the first row that has a NaN."""
    bad = torch.nonzero(scores.isnan().any(1)).flatten()
    if len(bad):
        raise ValueError(f"the score of row {int(bad[0])} is not a number ({len(bad)} such rows); score them again")
