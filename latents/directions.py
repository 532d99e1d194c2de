"""Attribute directions in a latent space, linear scores of attributes, and step sizes.

Symbols: mu (N, Z) are codes. attr (N, A) are labels in {0, 1}, with NaN = unknown; rows with unknown labels are left
out. A direction points from faces without the attribute to faces with it. Its length is the distance of the two class
means, so a step alpha = 1 moves a code by one class distance. Results are computed in float64 and returned in the
dtype of the codes.

A *direction* (mean, OLS, balanced, nearest neighbours) changes a code. A *score* (LDA) measures an attribute of a code.
Do not use a score's normal vector as a direction: it changes the score, but hardly the image.

Errors are `ValueError` with the attribute's name: labels other than 0, 1 and NaN, an attribute that is constant,
no faces on one side.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

MAX_ALPHA = 3.0  # class distances; there are no training codes further away
MAX_CONFOUNDERS = 4
CHUNK = 65_536  # rows converted to float64 at a time, to save memory


@dataclass
class Moments:
    """Sums for a linear regression, collected batch by batch in float64, so that codes need not be stored.

    Rows with an unknown label are skipped, because a regression needs all labels of a row.
    """

    n: int = 0
    sum_a: Tensor = field(default_factory=lambda: torch.zeros(()))  # (A,)
    sum_z: Tensor = field(default_factory=lambda: torch.zeros(()))  # (Z,)
    aa: Tensor = field(default_factory=lambda: torch.zeros(()))  # (A, A)
    az: Tensor = field(default_factory=lambda: torch.zeros(()))  # (A, Z)

    def add(self, z: Tensor, attr: Tensor) -> Moments:
        """Add a batch: z (N, Z), attr (N, A). Returns self."""
        keep = ~torch.isnan(attr).any(1)
        z, a = z[keep].double(), attr[keep].double()
        self.n += len(a)
        self.sum_a = self.sum_a.to(a) + a.sum(0)
        self.sum_z = self.sum_z.to(z) + z.sum(0)
        self.aa = self.aa.to(a) + a.T @ a
        self.az = self.az.to(z) + a.T @ z
        return self


@dataclass(frozen=True)
class Cells:
    """Cell counts of a balanced vector. A cell is a combination of confounder values.

    kept, dropped: {values of the confounders: (faces without the target attribute, faces with it)}.
    """

    target: str
    confounders: tuple[str, ...]
    kept: dict[tuple[int, ...], tuple[int, int]] = field(default_factory=dict)
    dropped: dict[tuple[int, ...], tuple[int, int]] = field(default_factory=dict)

    def describe(self) -> str:
        """`Smiling: 3 of 4 cells used; dropped Male=1 Bald=1 (without 40, with 3)`."""
        lines = []
        for values, (n0, n1) in self.dropped.items():
            cell = " ".join(f"{name}={v}" for name, v in zip(self.confounders, values, strict=True))
            lines.append(f"{cell or 'all'} (without {n0}, with {n1})")
        head = f"{self.target}: {len(self.kept)} of {len(self.kept) + len(self.dropped)} cells used"
        return head + ("; dropped " + ", ".join(lines) if lines else "")


# --- directions of all attributes at once ----------------------------------------------------------------------------


def mean_vectors(mu: Tensor, attr: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """Difference of the class means: mean code with minus mean code without, per attribute (A, Z).

    Attributes that are correlated in the data are mixed in these directions. Source: Larsen et al., "Autoencoding
    beyond pixels using a learned similarity metric" (arXiv 1512.09300), section 4.2.
    """
    means = mean_codes(mu, attr, names)
    return means[:, 1] - means[:, 0]


def mean_codes(mu: Tensor, attr: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """The mean code of each class (A, 2, Z): [:, 0] without and [:, 1] with the attribute."""
    mu, attr = _checked(mu, attr, names)
    sides = torch.cat([attr == 0, attr == 1], 1)  # (N, 2A)
    total = torch.zeros(sides.shape[1], mu.shape[1], dtype=torch.float64, device=mu.device)
    for rows in _chunks(len(mu)):
        total += sides[rows].double().T @ mu[rows].double()
    means = total / sides.sum(0).double()[:, None]
    return means.view(2, attr.shape[1], -1).transpose(0, 1).to(mu.dtype)


def ols_vectors(mu: Tensor, attr: Tensor, ridge: float = 1e-3, names: Sequence[str] | None = None) -> Tensor:
    """Coefficients (A, Z) of the regression mu ~ 1 + attributes: the change per attribute with the others fixed.

    `ridge` is added to the diagonal of the attributes' correlation matrix. One-hot classes need it, because they sum
    to 1. Rows with any unknown label are left out.
    """
    mu, attr = _checked(mu, attr, names)
    moments = Moments()
    for rows in _chunks(len(mu)):
        moments.add(mu[rows], attr[rows])
    return ols_from_moments(moments, ridge, names).to(mu.dtype)


def ols_from_moments(moments: Moments, ridge: float = 1e-3, names: Sequence[str] | None = None) -> Tensor:
    """`ols_vectors` from `Moments`, (A, Z) float64, for codes that are too large to store (those of a flow)."""
    if moments.n == 0:
        raise ValueError("there is no face with all attributes known; expected at least one. Choose fewer attributes.")
    n = moments.n
    mean_a, mean_z = moments.sum_a / n, moments.sum_z / n
    cov_aa = moments.aa / n - torch.outer(mean_a, mean_a)
    cov_az = moments.az / n - torch.outer(mean_a, mean_z)
    var = cov_aa.diagonal()
    for column in torch.nonzero(var < 1e-12).flatten().tolist():
        value = int(mean_a[column].round())
        raise ValueError(
            f"{_name(names, column)} is {value} for all {n} faces with known labels, so it has no direction; "
            "expected faces with 0 and with 1"
        )
    std = var.sqrt()
    correlation = cov_aa / torch.outer(std, std)
    system = correlation + ridge * torch.eye(len(std), dtype=correlation.dtype, device=correlation.device)
    return torch.linalg.solve(system, cov_az / std[:, None]) / std[:, None]


def lda_scores(mu: Tensor, attr: Tensor, shrink: float = 1e-3, names: Sequence[str] | None = None) -> Tensor:
    """Linear discriminant analysis: weights w = S^-1 d / sqrt(d' S^-1 d) of the scores mu @ w, (A, Z).

    d is the difference of the class means. S is the pooled covariance within the classes, plus `shrink` times its mean
    variance on the diagonal. A score has the standard deviation 1 within a class. It has no bias; see `class_means`.
    Source: Fisher, "The use of multiple measurements in taxonomic problems" (1936).
    """
    mu, attr = _checked(mu, attr, names)
    means = mean_codes(mu, attr, names).double()
    shared = None if torch.isnan(attr).any() else _covariance(mu)
    scores = []
    for a in range(attr.shape[1]):
        known = ~torch.isnan(attr[:, a])
        p = attr[known, a].double().mean()
        d = means[a, 1] - means[a, 0]
        total = shared if shared is not None else _covariance(mu[known])
        within = total - p * (1 - p) * torch.outer(d, d)  # total = within + between
        scale = within.diagonal().mean().clamp_min(1e-30)
        within = within + shrink * scale * torch.eye(len(d), dtype=d.dtype, device=d.device)
        w = torch.linalg.solve(within, d)
        scores.append(w / torch.sqrt((d @ w).clamp_min(1e-30)))
    return torch.stack(scores).to(mu.dtype)


def class_means(mu: Tensor, attr: Tensor, score: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """Mean score of each class (A, 2), for scores (A, Z) of `lda_scores`. `alphas_to_targets` moves to these values."""
    means = mean_codes(mu, attr, names).double()  # (A, 2, Z)
    return (means * score.double()[:, None]).sum(2).to(mu.dtype)


# --- directions of one attribute -------------------------------------------------------------------------------------


def balanced_vector(
    mu: Tensor,
    attr: Tensor,
    target: int | str,
    confounders: Sequence[int | str],
    min_cell: int = 20,
    names: Sequence[str] | None = None,
) -> tuple[Tensor, Cells]:
    """Direction that is balanced over confounders: the mean over cells c of m(target = 1, c) - m(target = 0, c).

    m is the mean code of the faces in a cell. Each cell has the same weight, also if it has few faces.
    Source: White, "Sampling Generative Networks" (arXiv 1609.04468), section 3.4.

    Args:
        mu: (N, Z). attr: (N, A).
        target, confounders: columns of attr, or names if `names` is given. At most 4 confounders.
        min_cell: a cell with fewer faces with or without the target is dropped.

    Returns:
        The direction (Z,) and the cell counts.

    Raises:
        ValueError: no cell is left, or more than 4 confounders.
    """
    mu, attr = _checked(mu, attr, names, constant_ok=True)
    t, others = _column(target, names), [_column(c, names) for c in confounders]
    if len(others) > MAX_CONFOUNDERS:
        raise ValueError(
            f"expected at most {MAX_CONFOUNDERS} confounders, got {len(others)}; each one halves the faces per cell"
        )
    if t in others:
        raise ValueError(f"{_name(names, t)} cannot be balanced against itself")
    _refuse_constant(attr[:, t : t + 1], [_name(names, t)])
    known = ~torch.isnan(attr[:, [t, *others]]).any(1)
    kept, dropped, steps = {}, {}, []
    for values in itertools.product((0, 1), repeat=len(others)):
        cell = known.clone()
        for column, value in zip(others, values, strict=True):
            cell &= attr[:, column] == value
        sides = [cell & (attr[:, t] == side) for side in (0, 1)]
        counts = tuple(int(side.sum()) for side in sides)
        if min(counts) < max(min_cell, 1):
            dropped[values] = counts
            continue
        kept[values] = counts
        steps.append(mu[sides[1]].double().mean(0) - mu[sides[0]].double().mean(0))
    cells = Cells(_name(names, t), tuple(_name(names, c) for c in others), kept, dropped)
    if not steps:
        raise ValueError(f"{cells.describe()}. Balance against fewer attributes, or set min_cell below {min_cell}.")
    return torch.stack(steps).mean(0).to(mu.dtype), cells


def knn_vectors(query: Tensor, mu: Tensor, target: Tensor, k: int = 100) -> Tensor:
    """Directions (Q, Z): mean of the k nearest codes with the target minus mean of the k nearest codes without it.

    Source: Upchurch et al., "Deep Feature Interpolation for Image Content Changes" (arXiv 1611.05507), Eq. 1 and 2;
    here in the latent space. A code equal to the query counts as the query itself and is left out.

    Args:
        query: (Q, Z). mu: (N, Z). target: (N,) labels in {0, 1, NaN}.
        k: number of neighbours per class; all of them if a class has fewer.
    """
    mu, attr = _checked(mu, target[:, None], None)
    codes, result = mu.double(), []
    square = codes.square().sum(1)
    for rows in _chunks(len(query), 64):
        near = query[rows].double()
        distance = (square - 2 * near @ codes.T + near.square().sum(1)[:, None]).clamp_min_(0)  # (q, N)
        for x, to_x in zip(near, distance, strict=True):
            candidates = torch.ones(len(codes), dtype=torch.bool, device=mu.device)
            _drop_query(candidates, to_x, x, codes)
            ends = [_nearest_mean(codes, to_x, candidates & (attr[:, 0] == side), k) for side in (0, 1)]
            result.append(ends[1] - ends[0])
    return torch.stack(result).to(mu.dtype)


# --- steps along directions ------------------------------------------------------------------------------------------


def orthogonalize(v: Tensor, keep: Tensor) -> Tensor:
    """Project v onto the orthogonal complement of the rows of `keep`. A step along it does not change keep @ code.

    v: (Z,) or (A, Z). keep: (Z,) or (K, Z); its rows may be linearly dependent.

    Raises:
        ValueError: v lies in the span of `keep`.
    """
    basis = _orthonormal(torch.atleast_2d(keep).double())  # (Z, r)
    x = v.double()
    rest = x
    for _ in range(2):  # the second pass removes rounding errors of the first
        rest = rest - (rest @ basis) @ basis.T
    length = torch.linalg.vector_norm(x, dim=-1)
    if bool(((torch.linalg.vector_norm(rest, dim=-1) < 1e-8 * length) & (length > 0)).any()):
        raise ValueError(
            "the direction lies in the span of the attributes to keep, so nothing is left of it; keep fewer attributes"
        )
    return rest.to(v.dtype)


def side_of(query: Tensor, score: Tensor, class_mean: Tensor) -> Tensor:
    """The class, 0 or 1, whose mean score is nearer, (Q,) int64. query (Q, Z), score (Z,), class_mean (2,)."""
    value = query.double() @ score.double()
    return (value > class_mean.double().mean()).long()


def alphas_to_targets(query: Tensor, v: Tensor, score: Tensor, target: Tensor) -> Tensor:
    """Steps alpha (Q, k) along k directions that together move k scores to their targets, clamped to [-3, 3].

    Each direction also changes the other scores. So alpha solves the k x k system M alpha = target - score(query) with
    M_ij = score_i . v_j. If M is singular, the solution with the smallest norm is taken.

    query (Q, Z); v (k, Z) or (Q, k, Z); score (k, Z); target (Q, k) or (k,), in units of the scores.
    """
    x, s = query.double(), score.double()
    moves = v.double().expand(len(x), *v.shape[-2:])
    system = torch.einsum("iz,qjz->qij", s, moves)  # (Q, k, k)
    wanted = target.double() - x @ s.T  # (Q, k)
    alpha = torch.linalg.pinv(system, rtol=1e-9) @ wanted[..., None]
    return alpha[..., 0].clamp(-MAX_ALPHA, MAX_ALPHA).to(query.dtype)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _chunks(n: int, size: int = CHUNK) -> list[slice]:
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _name(names: Sequence[str] | None, column: int) -> str:
    return names[column] if names is not None else f"attribute {column}"


def _column(which: int | str, names: Sequence[str] | None) -> int:
    if isinstance(which, str):
        if names is None or which not in names:
            raise ValueError(
                f"unknown attribute {which}; expected one of: {', '.join(names or ()) or 'no names were given'}"
            )
        return list(names).index(which)
    return int(which)


def _checked(mu: Tensor, attr: Tensor, names: Sequence[str] | None, constant_ok: bool = False) -> tuple[Tensor, Tensor]:
    """Convert codes and labels to float tensors on one device. Raise `ValueError` for invalid or constant labels."""
    mu = torch.as_tensor(mu)
    attr = torch.as_tensor(attr, device=mu.device)
    mu, attr = (t if t.is_floating_point() else t.float() for t in (mu, attr))
    if mu.dim() != 2 or attr.dim() != 2 or len(mu) != len(attr):
        raise ValueError(f"expected codes (N, Z) and labels (N, A), got {tuple(mu.shape)} and {tuple(attr.shape)}")
    bad = ~(torch.isnan(attr) | (attr == 0) | (attr == 1))
    if bool(bad.any()):
        row, column = torch.nonzero(bad)[0].tolist()
        value = f"{attr[row, column].item():g}"
        hint = " (labels of -1 and 1 must be mapped to 0 and 1 first)" if value == "-1" else ""
        raise ValueError(f"{_name(names, column)}: expected 0, 1 or NaN, found {value} in row {row}{hint}")
    if not constant_ok:
        _refuse_constant(attr, [_name(names, c) for c in range(attr.shape[1])])
    return mu, attr


def _refuse_constant(attr: Tensor, names: Sequence[str]) -> None:
    counts = torch.stack([(attr == 0).sum(0), (attr == 1).sum(0)]).T.tolist()
    for name, (without, with_) in zip(names, counts, strict=True):
        if without == 0 or with_ == 0:
            raise ValueError(
                f"{name} does not vary ({without} faces without it, {with_} with it), so it has no direction; "
                "expected faces of both kinds"
            )


def _covariance(mu: Tensor) -> Tensor:
    """Covariance (Z, Z) of the rows of mu, divided by N, in float64. Two passes over chunks."""
    mean = torch.zeros(mu.shape[1], dtype=torch.float64, device=mu.device)
    for rows in _chunks(len(mu)):
        mean += mu[rows].double().sum(0)
    mean /= len(mu)
    total = torch.zeros(mu.shape[1], mu.shape[1], dtype=torch.float64, device=mu.device)
    for rows in _chunks(len(mu)):
        centred = mu[rows].double() - mean
        total += centred.T @ centred
    return total / len(mu)


def _drop_query(candidates: Tensor, distance: Tensor, query: Tensor, codes: Tensor) -> None:
    """Set `candidates` to False, in place, where the code equals the query. `distance` has rounding errors."""
    close = torch.nonzero(distance <= 1e-9 * (1 + query.square().sum())).flatten()
    candidates[close[(codes[close] == query).all(1)]] = False


def _nearest_mean(codes: Tensor, distance: Tensor, side: Tensor, k: int) -> Tensor:
    rows = torch.nonzero(side).flatten()
    if len(rows) == 0:
        raise ValueError("one class has no face, so there are no neighbours; expected faces of both classes")
    if len(rows) > k:
        rows = rows[torch.topk(distance[rows], k, largest=False, sorted=False).indices]
    return codes[rows].mean(0)


def _orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis (Z, r) of the span of rows (K, Z). It uses the SVD, because QR fails for dependent rows."""
    u, s, _ = torch.linalg.svd(rows.T, full_matrices=False)
    return u[:, s > 1e-10 * s.max().clamp_min(1e-300)]
