"""Which way in code space is an attribute, and how far: directions that move, scores that read, the step between.

Symbols: mu (N, Z) codes; attr (N, A) labels in {0, 1}, NaN = unknown (such rows are left out); a direction points
from *without* to *with* and has the length of one class distance: alpha = 1 moves a code as far as the two groups lie
apart. Everything is computed in float64 and returned in the codes' own type.

Two roles that must not be mixed up: a *direction* (mean, OLS, balanced, nearest neighbours) moves a code; a *score*
(LDA) reads it. Moving along the score's normal changes the reading and not the picture.

Errors are ValueError with a sentence that names the attribute: labels other than 0, 1 and NaN, an attribute that
never changes, cells without faces.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

MAX_ALPHA = 3.0  # class distances; further out no training face vouches for the decoder
MAX_CONFOUNDERS = 4
CHUNK = 65_536  # rows raised to float64 at a time: 200,000 codes stay as they are


@dataclass
class Moments:
    """Sums from which means and regressions follow: one pass over the codes, in batches, without keeping them.

    Rows with an unknown label are skipped (a regression needs all labels of a row). Sums are float64; z is (N, Z).
    """

    n: int = 0
    sum_a: Tensor | float = 0.0  # (A,)
    sum_z: Tensor | float = 0.0  # (Z,)
    aa: Tensor | float = 0.0  # (A, A)
    az: Tensor | float = 0.0  # (A, Z)

    def add(self, z: Tensor, attr: Tensor) -> Moments:
        """Count a batch: z (N, Z), attr (N, A). Returns itself."""
        keep = ~torch.isnan(attr).any(1)
        z, a = z[keep].double(), attr[keep].double()
        self.n += len(a)
        self.sum_a = self.sum_a + a.sum(0)
        self.sum_z = self.sum_z + z.sum(0)
        self.aa = self.aa + a.T @ a
        self.az = self.az + a.T @ z
        return self


@dataclass(frozen=True)
class Cells:
    """What a balanced vector rests on: per combination of the confounders, the numbers of faces without and with."""

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
    """Mean code with minus mean code without, per attribute -> (A, Z). Larsen et al. 1512.09300, section 4.2.

    The naive baseline: where attributes go together in the data, it moves them together.
    """
    means = mean_codes(mu, attr, names)
    return means[:, 1] - means[:, 0]


def mean_codes(mu: Tensor, attr: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """The mean code of each side -> (A, 2, Z), [:, 0] without and [:, 1] with the attribute."""
    mu, attr = _checked(mu, attr, names)
    sides = torch.cat([attr == 0, attr == 1], 1)  # (N, 2A)
    total = torch.zeros(sides.shape[1], mu.shape[1], dtype=torch.float64, device=mu.device)
    for rows in _chunks(len(mu)):
        total += sides[rows].double().T @ mu[rows].double()
    means = total / sides.sum(0).double()[:, None]
    return means.view(2, attr.shape[1], -1).transpose(0, 1).to(mu.dtype)


def ols_vectors(mu: Tensor, attr: Tensor, ridge: float = 1e-3, names: Sequence[str] | None = None) -> Tensor:
    """Least squares mu ~ 1 + attributes: what each attribute moves while the *others stay* -> (A, Z).

    One pass for X'X and X'mu; columns standardised, `ridge` added to their correlation matrix (one-hot classes, which
    sum to one, need it), the result scaled back to *without -> with*. Rows with any unknown label are left out.
    """
    mu, attr = _checked(mu, attr, names)
    moments = Moments()
    for rows in _chunks(len(mu)):
        moments.add(mu[rows], attr[rows])
    return ols_from_moments(moments, ridge, names).to(mu.dtype)


def ols_from_moments(moments: Moments, ridge: float = 1e-3, names: Sequence[str] | None = None) -> Tensor:
    """`ols_vectors` from sums gathered in batches -> (A, Z) float64: for codes too large to keep (a flow's)."""
    if moments.n == 0:
        raise ValueError("no face has all its attributes known: choose attributes that occur together")
    n = moments.n
    mean_a, mean_z = moments.sum_a / n, moments.sum_z / n
    cov_aa = moments.aa / n - torch.outer(mean_a, mean_a)
    cov_az = moments.az / n - torch.outer(mean_a, mean_z)
    var = cov_aa.diagonal()
    for column in torch.nonzero(var < 1e-12).flatten().tolist():
        value = int(mean_a[column].round())
        raise ValueError(f"{_name(names, column)} is {value} for every face that counts ({n}): it has no direction")
    std = var.sqrt()
    correlation = cov_aa / torch.outer(std, std)
    system = correlation + ridge * torch.eye(len(std), dtype=correlation.dtype, device=correlation.device)
    return torch.linalg.solve(system, cov_az / std[:, None]) / std[:, None]


def lda_scores(mu: Tensor, attr: Tensor, shrink: float = 1e-3, names: Sequence[str] | None = None) -> Tensor:
    """Whitened linear discriminants, the readers: score = mu @ w, w = S^-1 d / sqrt(d' S^-1 d) -> (A, Z). Fisher 1936.

    d: difference of the class means; S: pooled covariance within the classes, plus `shrink` times its mean variance.
    A score has unit standard deviation within a class, so the distance of its class means is in standard deviations.
    No bias: `class_means`.
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
    """The mean of each attribute's own score on its two sides -> (A, 2); what `alpha_to_side` aims at. score (A, Z)."""
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
    """Mean over the cells c of the confounders of [m(target = 1, c) - m(target = 0, c)] -> (Z,), Cells.

    White 1609.04468, section 3.4: every combination of at most four confounders counts once, however rare. A cell
    with fewer than `min_cell` faces on either side is dropped and listed; none left is an error. Attributes by
    column, or by name with `names`.
    """
    mu, attr = _checked(mu, attr, names, constant_ok=True)
    t, others = _column(target, names), [_column(c, names) for c in confounders]
    if len(others) > MAX_CONFOUNDERS:
        raise ValueError(
            f"at most {MAX_CONFOUNDERS} confounders (every further one halves the cells), got {len(others)}"
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
        raise ValueError(
            f"{cells.describe()}: balance against fewer attributes, or allow cells of fewer than {min_cell} faces"
        )
    return torch.stack(steps).mean(0).to(mu.dtype), cells


def knn_vectors(
    query: Tensor,
    query_attr: Tensor | None,
    mu: Tensor,
    attr: Tensor,
    target: int | str,
    k: int = 100,
    match: Sequence[int | str] = (),
    names: Sequence[str] | None = None,
) -> Tensor:
    """One direction per query: mean of its k nearest codes with the target minus that of its k nearest without.

    -> (Q, Z). Deep feature interpolation (Upchurch et al. 1611.05507, Eq. 1-2) in code space. query (Q, Z); query_attr
    (Q, A) or None, NaN where unknown. Neighbours agree with the query on `match` (relaxed from its end while a side
    has fewer than 4 k candidates: `kept_matches` tells), then come in the order of the number of other labels that
    differ, then of distance. A code equal to the query's is the query itself and never counts. Fewer than k on a side:
    all of them.
    """
    mu, attr = _checked(mu, attr, names, constant_ok=True)
    t, columns = _column(target, names), [_column(c, names) for c in match]
    _refuse_constant(attr[:, t : t + 1], [_name(names, t)])
    query_attr = _query_labels(query, query_attr, attr)
    keep = kept_matches(query_attr, attr, t, columns, k)
    codes, others = mu.double(), [c for c in range(attr.shape[1]) if c != t and c not in columns]
    square = codes.square().sum(1)
    has, lacks = (attr[:, others] == 1).float(), (attr[:, others] == 0).float()  # (N, O)
    result = torch.empty(len(query), mu.shape[1], dtype=torch.float64, device=mu.device)
    for rows in _chunks(len(query), 64):
        near = query[rows].double()
        distance = (square - 2 * near @ codes.T + near.square().sum(1)[:, None]).clamp_min_(0)  # (q, N)
        labels = query_attr[rows][:, others]
        differing = (labels == 0).float() @ has.T + (
            labels == 1
        ).float() @ lacks.T  # (q, N); unknown labels never differ
        for i, q in enumerate(range(len(query))[rows]):
            candidates = _agreeing(query_attr[q], attr, columns[: int(keep[q])])
            _drop_itself(candidates, distance[i], near[i], codes)
            order = differing[i].double() + distance[i] / (distance[i].max() * (1 + 1e-6)).clamp_min(1e-300)
            ends = [_nearest_mean(codes, order, candidates & (attr[:, t] == s), k, _name(names, t)) for s in (0, 1)]
            result[q] = ends[1] - ends[0]
    return result.to(mu.dtype)


def kept_matches(
    query_attr: Tensor,
    attr: Tensor,
    target: int | str,
    match: Sequence[int | str],
    k: int,
    names: Sequence[str] | None = None,
) -> Tensor:
    """How many of `match`, from its front, each query keeps with 4 k candidates left on either side -> (Q,) int64."""
    t, columns = _column(target, names), [_column(c, names) for c in match]
    kept = torch.zeros(len(query_attr), dtype=torch.int64)
    seen: dict[tuple[float, ...], int] = {}
    for q, row in enumerate(query_attr):
        key = tuple(row[columns].nan_to_num(-1).tolist())
        if key not in seen:
            seen[key] = 0
            for length in range(len(columns), 0, -1):
                candidates = _agreeing(row, attr, columns[:length])
                if min(int((candidates & (attr[:, t] == s)).sum()) for s in (0, 1)) >= 4 * k:
                    seen[key] = length
                    break
        kept[q] = seen[key]
    return kept


# --- using them ------------------------------------------------------------------------------------------------------


def orthogonalize(v: Tensor, keep: Tensor) -> Tensor:
    """v minus its part in the span of the rows of `keep`: moving along the rest leaves readings along `keep` alone.

    v (Z,) or (A, Z), keep (Z,) or (K, Z), dependent or not. A direction that lies in the span is an error.
    """
    basis = _orthonormal(torch.atleast_2d(keep).double())  # (Z, r)
    x = v.double()
    rest = x
    for _ in range(2):  # the second pass removes what rounding left of the first
        rest = rest - (rest @ basis) @ basis.T
    length = torch.linalg.vector_norm(x, dim=-1)
    if bool(((torch.linalg.vector_norm(rest, dim=-1) < 1e-8 * length) & (length > 0)).any()):
        raise ValueError("nothing is left to move: the direction lies within the attributes to keep")
    return rest.to(v.dtype)


def side_of(query: Tensor, score: Tensor, class_mean: Tensor) -> Tensor:
    """Which class mean each score is nearer to, 0 or 1 -> (Q,) int64. score (Z,), class_mean (2,)."""
    reading = query.double() @ score.double()
    return (reading > class_mean.double().mean()).long()


def alpha_to_side(query: Tensor, v: Tensor, score: Tensor, class_mean: Tensor, side: int | Tensor) -> Tensor:
    """How far along v each query must go for its score to be that side's class mean -> (Q,), clamped to [-3, 3].

    query (Q, Z); v (Z,) or (Q, Z); score (Z,) without bias; class_mean (2,); side 0, 1 or (Q,) of them. A direction
    along which the score does not change at all gives 0.
    """
    side = torch.as_tensor(side, device=query.device).expand(len(query))
    v = v.expand(len(query), -1) if v.dim() == 1 else v
    return alphas_to_targets(query, v[:, None], score[None], class_mean.double()[side][:, None])[:, 0]


def alphas_to_targets(query: Tensor, v: Tensor, score: Tensor, target: Tensor) -> Tensor:
    """Steps alpha (Q, k) along k directions at once, so that each of k scores lands on its target; clamped to [-3, 3].

    query (Q, Z); v (k, Z) or (Q, k, Z); score (k, Z); target (Q, k) or (k,), in units of the scores. Every direction
    also moves the other scores, hence one k x k system M alpha = target - score(query), M_ij = score_i . v_j. Where M
    is singular (two requests for one thing) the shortest solution is taken. A step given in advance: add it to
    `query` first.
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
            raise ValueError(f"{which} is not among the attributes: {', '.join(names or ()) or 'no names were given'}")
        return list(names).index(which)
    return int(which)


def _checked(mu: Tensor, attr: Tensor, names: Sequence[str] | None, constant_ok: bool = False) -> tuple[Tensor, Tensor]:
    """Codes and labels as floating tensors on one device; refuses labels that are not 0, 1 or NaN, and (asked)
    constant ones."""
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
                f"{name} does not vary: {without} faces without it, {with_} with it; no direction can be taken"
            )


def _covariance(mu: Tensor) -> Tensor:
    """Covariance of the rows (divided by N), float64, in two passes over chunks. -> (Z, Z)"""
    mean = sum(mu[rows].double().sum(0) for rows in _chunks(len(mu))) / len(mu)
    total = torch.zeros(mu.shape[1], mu.shape[1], dtype=torch.float64, device=mu.device)
    for rows in _chunks(len(mu)):
        centred = mu[rows].double() - mean
        total += centred.T @ centred
    return total / len(mu)


def _query_labels(query: Tensor, query_attr: Tensor | None, attr: Tensor) -> Tensor:
    if query_attr is None:
        return torch.full((len(query), attr.shape[1]), float("nan"), device=attr.device)
    return torch.as_tensor(query_attr, device=attr.device).float()


def _agreeing(row: Tensor, attr: Tensor, columns: Sequence[int]) -> Tensor:
    """Rows that agree with the query on `columns`; what the query does not know, it does not ask for. -> (N,) bool"""
    agree = torch.ones(len(attr), dtype=torch.bool, device=attr.device)
    for column in columns:
        if not torch.isnan(row[column]):
            agree &= attr[:, column] == row[column]
    return agree


def _drop_itself(candidates: Tensor, distance: Tensor, query: Tensor, codes: Tensor) -> None:
    """Clear `candidates` where the code equals the query's; the expanded square is only a sieve, its zero is
    rounded."""
    close = torch.nonzero(distance <= 1e-9 * (1 + query.square().sum())).flatten()
    candidates[close[(codes[close] == query).all(1)]] = False


def _nearest_mean(codes: Tensor, order: Tensor, side: Tensor, k: int, name: str) -> Tensor:
    rows = torch.nonzero(side).flatten()
    if len(rows) == 0:
        raise ValueError(f"{name}: no face is left on one side to take neighbours from")
    if len(rows) > k:
        rows = rows[torch.topk(order[rows], k, largest=False, sorted=False).indices]
    return codes[rows].mean(0)


def _orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis (Z, r) of the span of rows (K, Z). By SVD: the QR of dependent rows invents directions."""
    u, s, _ = torch.linalg.svd(rows.T, full_matrices=False)
    return u[:, s > 1e-10 * s.max().clamp_min(1e-300)]
