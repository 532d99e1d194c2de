"""Attribute directions in whitened code space: streamed moments, directions and LDA readers.

E (n, D): codes, coarsest level first. labels (n, L) in {0, 1, NaN = unknown}: attributes first, then one column per
class. No model here. A *direction* moves a code. A *reader* (linear discriminant analysis, LDA) predicts a label from
it. A step along a reader's normal changes the prediction but hardly the image, so the two differ.

In D dimensions any two codes are about sqrt(2 D) apart. A difference of means of n_1 and n_0 codes has noise of about
D (1/n_1 + 1/n_0) in its squared length. `standard_error` estimates this noise, `shrink_blocks` removes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.labels import label_names
from engine import UserError, fp32
from engine.checkpoint import load_fields
from latents.directions import Moments as LatentMoments
from latents.directions import class_means, lda_scores, ols_from_moments
from latents.roc_auc import roc_auc

MIN_SIDE = 20  # least faces with and without; a direction from fewer is mostly noise
POOL_SIZE = 4  # side to which levels are pooled for a reader
SHRINKAGE = 0.1  # of a reader's covariance towards a multiple of the identity


class Moments:
    """Sums over codes, batch by batch, in float64. Memory does not grow with the number of faces."""

    def __init__(self, num_attributes: int) -> None:
        self.num_attributes = num_attributes
        self.regression = LatentMoments()  # of the attributes; rows with an unknown attribute are left out
        self.count: Tensor | float = 0.0  # (L, 2) faces without and with
        self.total: Tensor | float = 0.0  # (L, 2, D)
        self.square: Tensor | float = 0.0  # (L, 2, D)

    def add(self, codes: Tensor, labels: Tensor) -> "Moments":
        """Add a batch. Raises ValueError on labels other than 0, 1 and NaN."""
        bad = ~(labels.isnan() | (labels == 0) | (labels == 1))
        if bad.any():
            raise ValueError(f"expected labels 0, 1 or NaN, got {labels[bad][0].item():g} (-1 and 1 must be mapped)")
        codes = codes.double()
        sides = torch.stack([labels == 0, labels == 1], 2).double()  # (n, L, 2)
        self.count = self.count + sides.sum(0)
        self.total = self.total + torch.einsum("nls,nd->lsd", sides, codes)
        self.square = self.square + torch.einsum("nls,nd->lsd", sides, codes.square())
        if self.num_attributes:
            self.regression.add(codes, labels[:, : self.num_attributes])
        return self

    def means(self) -> Tensor:
        """(L, 2, D). Raises ValueError if a side has no faces."""
        if (torch.as_tensor(self.count) == 0).any():
            empty = int((torch.as_tensor(self.count) == 0).any(1).nonzero()[0])
            raise ValueError(f"label {empty} has no face on one side, so it has no direction")
        return self.total / self.count[..., None]

    def mean_directions(self, columns: Sequence[int] | None = None) -> Tensor:
        """Mean with minus mean without (Glow, section 5.1). (L, D)"""
        means = self.select(columns).means()
        return means[:, 1] - means[:, 0]

    def ols_directions(
        self, ridge: float = 1e-3, columns: Sequence[int] | None = None, names: Sequence[str] | None = None
    ) -> Tensor:
        """Least squares over all attributes together: the effect of each with the others fixed. (A, D)"""
        regression = self.regression
        if columns is not None:
            c = torch.as_tensor(list(columns))
            r = regression
            regression = LatentMoments(r.n, r.sum_a[c], r.sum_z, r.aa[c][:, c], r.az[c])
        try:
            return ols_from_moments(regression, ridge, names)
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise UserError(f"least squares: {reason}; --kind mean takes one attribute at a time") from None

    def standard_error(self, start: int | None = None) -> Tensor:
        """Standard error of the difference of means, per latent: sqrt(var_1 / n_1 + var_0 / n_0). (L, D)

        start: a row. Differences are then taken from its mean *with*, instead of from each row's mean without.
        """
        variance = (self.square / self.count[..., None] - self.means().square()).clamp_min(0)
        without, with_ = (variance / self.count[..., None]).unbind(1)
        if start is None:
            return (without + with_).sqrt()
        error = (with_[start] + with_).sqrt()
        error[start] = 0  # from itself to itself
        return error

    def select(self, columns: Sequence[int] | None) -> "Moments":
        """The sums of some of the labels."""
        if columns is None:
            return self
        chosen = Moments(0)
        c = torch.as_tensor(list(columns))
        chosen.count, chosen.total, chosen.square = self.count[c], self.total[c], self.square[c]
        return chosen


@dataclass(frozen=True)
class Directions:
    """Directions and readers of one run; one row for each of `names`, attributes first, then classes.

    `direction` (L, D) goes from without to with at alpha 1; for a class it starts at neutral where that exists.
    `class_code` (K, D): mean codes of the classes. `error` (L, D): standard error of the difference of means between
    the same two sides. `count` (L, 2): faces without and with. `reader` (L, F): LDA on pooled codes (`pooled`).
    `reader_mean` (L, 2): its means on either side. `auc` (L,): its AUC on validation faces. `skipped`: labels without a
    direction, and why.
    """

    kind: str
    names: list[str]
    direction: Tensor
    classes: list[str]
    class_code: Tensor
    error: Tensor
    count: Tensor
    reader: Tensor
    reader_mean: Tensor
    auc: Tensor
    provenance: dict[str, Any]
    skipped: dict[str, str] = field(default_factory=dict)

    def row(self, name: str) -> int:
        """The row of a label. Raises UserError with the reason if it has none."""
        if name not in self.names:
            reason = self.skipped.get(name, f"the run knows {', '.join(self.names)}")
            raise UserError(f"{name} has no direction: {reason}")
        return self.names.index(name)


def pooled(eps: Sequence[Tensor]) -> Tensor:
    """Codes, finest level first -> input of a reader, (N, F).

    Each level is averaged to at most 4 x 4 and multiplied by the square root of the area, which keeps unit variance.
    """
    parts = []
    for level in eps:
        member = tiles(level.shape[-1], min(POOL_SIZE, level.shape[-1])).to(level)
        member = member / member.sum(1, keepdim=True).sqrt()
        with fp32():
            parts.append((member @ level @ member.T).flatten(1))
    return torch.cat(parts, 1)


def tiles(side: int, count: int) -> Tensor:
    """(count, side) of 0 and 1: membership of each pixel in one of `count` tiles of about equal size."""
    return F.one_hot(torch.arange(side) * count // side, count).T.float()


def fit_directions(
    moments: Moments, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], meta: dict, kind: str, provenance: dict
) -> Directions:
    """Directions of `kind` (ols | mean) from streamed moments. Readers from pooled codes (N, F) and labels (N, L)."""
    names, skipped = label_names(meta), {}
    for name, (n0, n1) in zip(names, moments.count.tolist(), strict=True):
        if min(n0, n1) < MIN_SIDE:
            skipped[name] = f"{n0:.0f} training faces without it and {n1:.0f} with it, {MIN_SIDE} are needed"
    kept = [c for c, name in enumerate(names) if name not in skipped]
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items()) or "the data have no labels"
        raise UserError(f"no label has enough faces on both sides; {reasons}")
    attributes = [c for c in kept if c < len(meta["attributes"])]
    classes = [c for c in kept if c >= len(meta["attributes"])]
    parts, errors = [], []
    if attributes:
        errors.append(moments.select(attributes).standard_error())
        if kind == "ols":
            parts.append(moments.ols_directions(columns=attributes, names=[names[c] for c in attributes]))
        else:
            parts.append(moments.mean_directions(attributes))
    class_code = moments.select(classes).means()[:, 1] if classes else torch.zeros(0, moments.total.shape[-1])
    if classes:
        start = names.index("neutral") if "neutral" in names else -1
        start = classes.index(start) if start in classes else None
        errors.append(moments.select(classes).standard_error(start))
        parts.append(class_code - (moments.select(classes).means()[:, 0] if start is None else class_code[start]))
    labels = train[1][:, kept]
    reader = lda_scores(train[0], labels, SHRINKAGE, [names[c] for c in kept])
    scores = val[0] @ reader.T
    return Directions(
        kind=kind,
        names=[names[c] for c in kept],
        direction=torch.cat(parts).float(),
        classes=[names[c] for c in classes],
        class_code=class_code.float(),
        error=torch.cat(errors).float(),
        count=moments.count[kept].long(),
        reader=reader,
        reader_mean=class_means(train[0], labels, reader),
        auc=torch.tensor([roc_auc(scores[:, i], val[1][:, c]) for i, c in enumerate(kept)]),
        provenance=provenance,
        skipped=skipped,
    )


def shrink_blocks(
    delta: Tensor, variance: float | Tensor, level_shapes: Sequence[tuple[int, int, int]], tile: int = 4
) -> Tensor:
    """Positive-part James-Stein shrinkage of delta (N, D), coarsest level first.

    Each block (level x channel x tile x tile) is multiplied by max(0, 1 - (m - 2) variance / |block|^2), with m its
    size. Blocks of pure noise nearly vanish. A side that `tile` does not divide is cut into tiles of about equal size.

    Args:
        variance: of each latent, a number or (N,).
        level_shapes: (C, h, w), finest first.
    """
    shapes = list(level_shapes)[::-1]
    variance = torch.as_tensor(variance, dtype=delta.dtype, device=delta.device).reshape(-1, 1, 1, 1)
    parts = []
    for part, (c, h, w) in zip(delta.split([c * h * w for c, h, w in shapes], 1), shapes, strict=True):
        rows, columns = (tiles(side, -(-side // tile)).to(delta) for side in (h, w))
        blocks = part.unflatten(1, (c, h, w))
        norm = (rows @ blocks.square() @ columns.T).clamp_min(1e-30)
        size = torch.outer(rows.sum(1), columns.sum(1))
        factor = (1 - (size - 2) * variance / norm).clamp(0, 1)
        parts.append((blocks * (rows.T @ factor @ columns)).flatten(1))
    return torch.cat(parts, 1)


def directions_path(run_dir: Path, kind: str) -> Path:
    """The file of a run's directions of a kind."""
    return run_dir / f"directions_{kind}.pt"


def load_directions(path: Path, provenance: dict) -> Directions:
    """Read directions. Raises UserError with the command to refit, if they belong to other weights or another
    n_bits."""
    found = load_fields(Directions, path)
    for key, what in (("sha256", "other weights"), ("n_bits", "another n_bits")):
        if found.provenance[key] != provenance[key]:
            raise UserError(
                f"{path}: fitted to {what} ({found.provenance[key]!s:.12}, the run has {provenance[key]!s:.12}); refit "
                f"with python flow/sample.py directions --run-dir {provenance['run']} --fit {found.kind}"
            )
    return found
