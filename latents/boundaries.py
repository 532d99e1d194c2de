"""The hyperplane across which an attribute changes, fitted to sampled codes and a classifier's scores of their images.

Symbols: codes (N, d); scores (N, A), one column an attribute, high = with it (logits, not probabilities: a sigmoid
that saturates makes ties); a normal (d,) has unit length and points to *with*. float64 inside, the codes' type outside.

Shen et al. 1907.10786 fit a linear SVM to the codes of the highest and lowest scores (`linear_normal`). `ridge_rank`
uses all of them. Errors are ValueError.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ESTIMATORS = ("ridge_rank", "svc", "linear_svc", "logreg")


def extremes(score: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the highest scores, of the lowest, and of the rest, each from the highest down (1907.10786, section 3.1).

    score (N,). share: of N on each side (in (0, 1]), or a number of codes (above 1); at most N // 2.
    """
    refuse_unknown(score[:, None])
    order = score.argsort(descending=True, stable=True)
    k = min(int(len(score) * share) if share <= 1 else int(share), len(score) // 2)
    if k < 1:
        raise ValueError(f"a share of {share:g} of {len(score)} codes leaves none; give a larger one")
    return order[:k], order[len(order) - k :], order[k : len(order) - k]


def ridge_rank(codes: Tensor, scores: Tensor, ridge: float = 1e-3) -> Tensor:
    """Unit normals (A, d) of ridge regressions of the scores' normal ranks on the codes.

        n ~ (Sigma + ridge tr(Sigma) / d I)^-1 cov(c, y),   y = Phi^-1((rank + 1/2) / N)

    Sigma (d, d): covariance of the codes. Ranks start at 0, ties share the middle one. All codes count, and an
    increasing transformation of the scores changes nothing.
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
    """Unit normal (d,) of a linear classifier of the highest against the lowest scores.

    estimator: svc (C 1, the paper's), linear_svc (C 1e-3) or logreg (C 1e-2), all scikit-learn's. share: `extremes`.
    Each side is shuffled (numpy's legacy generator, positives first, as in the authors' release); the share `split`
    of it trains.
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
    """Phi^-1((rank + 1/2) / N) of score (N,), float64; equal scores share their middle rank."""
    _, group, count = score.unique(return_inverse=True, return_counts=True)
    middle = count.cumsum(0).double() - (count.double() + 1) / 2  # mean rank of each group, from 0
    return torch.special.ndtri((middle[group] + 0.5) / len(score))


def best_offset(reading: Tensor, positive: Tensor) -> float:
    """b such that `reading + b > 0` predicts `positive` (N,) bool with the best balanced accuracy; reading (N,)."""
    order = reading.double().argsort()
    positive, values = positive[order].double(), reading.double()[order]
    sides = positive.sum(), (1 - positive).sum()
    if not (sides[0] and sides[1]):
        raise ValueError("all scores lie on one side of 0: there is no boundary between them")
    below = torch.cat([positive.new_zeros(1), (1 - positive).cumsum(0)]) / sides[1]  # negatives rightly below a cut
    above = 1 - torch.cat([positive.new_zeros(1), positive.cumsum(0)]) / sides[0]
    cut = int((below + above)[1:-1].argmax()) + 1 if len(values) > 2 else 1
    return -float(values[cut - 1 : cut + 1].mean())


def refuse_unknown(scores: Tensor) -> None:
    """Raise ValueError that names the first row with a NaN."""
    bad = torch.nonzero(scores.isnan().any(1)).flatten()
    if len(bad):
        raise ValueError(f"the score of row {int(bad[0])} is not a number ({len(bad)} rows in all); score them again")
