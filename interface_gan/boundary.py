"""Boundaries of a generator: the hyperplane of every attribute, the readings of codes, and its quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import UserError
from engine.checkpoint import load_fields
from interface_gan.score import Scores, log_odds
from latents.boundaries import ESTIMATORS, best_offset, linear_normal, ridge_rank
from latents.roc_auc import roc_auc

SPACES = ("w", "z")
FIT_SHARE = 0.8  # share of the codes for fitting; the others are for the AUC
MIN_SIDE, MIN_STABILITY, MIN_AUC = 100, 0.9, 0.75  # of a usable boundary


@dataclass(frozen=True)
class Boundaries:
    """Boundaries of A names (attributes, classes, and pairs of classes), one row each.

    The reading of a code c (Z,) is normal . c + offset. It is positive on the side with the attribute.

    Attributes:
        normal: (A, Z), unit length.
        offset: (A,).
        sigma: (A,), standard deviation of the reading over codes.
        side_mean: (A, 2), mean reading without and with the attribute.
        span: (A, 2), 1st and 99th percentile of the reading.
        auc: (A,), on codes that were not used for fitting.
        stability: (A,), correlation of the readings of two normals, each fitted to half of the codes.
        prevalence: (A, 2), share of fakes and of training faces that have the attribute, according to the guide.
        pairs: names such as happy/neutral, for steps from one class to another.
        skipped: {name: reason} of names without a usable boundary.
        provenance: sha256 of the generator's weights and of the guides, number and seed of the codes, names.
    """

    space: str
    estimator: str
    names: list[str]
    classes: list[str]
    pairs: list[str]
    normal: Tensor
    offset: Tensor
    sigma: Tensor
    side_mean: Tensor
    span: Tensor
    auc: Tensor
    stability: Tensor
    prevalence: Tensor
    skipped: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def row(self, name: str) -> int:
        """The row of a name. Raises UserError with the reason if there is no usable boundary."""
        if name not in self.names:
            reason = self.skipped.get(name, f"the guide knows {', '.join([*self.names, *self.skipped])}")
            raise UserError(f"{name} has no boundary: {reason}")
        return self.names.index(name)

    def read(self, codes: Tensor) -> Tensor:
        """Readings (N, A) of codes (N, Z)."""
        return codes @ self.normal.T + self.offset

    @property
    def attributes(self) -> list[str]:
        """The names that are neither classes nor pairs."""
        return [name for name in self.names if name not in self.classes and name not in self.pairs]


def fit_boundaries(
    codes: Tensor, scores: Scores, space: str, estimator: str = "ridge_rank", share: float = 0.02
) -> Boundaries:
    """Fit boundaries for all names of the guide to codes (N, Z) of the `space` and their scores.

    estimator: ridge_rank | svc | linear_svc | logreg. share: the last three use only the codes with the most extreme
    scores, this share on each side.
    """
    assert space in SPACES and estimator in ESTIMATORS, (space, estimator)
    table, pairs = log_odds(scores.logits, scores.classes)
    real = log_odds(scores.real, scores.classes)[0]
    names = [*scores.names, *pairs]
    prevalence = torch.stack([(t > 0).float().mean(0) for t in (table, real)], 1)  # (A, 2)
    if pairs:  # a face has the class with the largest logit
        k = len(scores.classes)
        for column, logits in enumerate((scores.logits, scores.real)):
            seen = torch.nn.functional.one_hot(logits[:, :k].argmax(1), k).float().mean(0)
            prevalence[:k, column] = seen
    skipped = {}
    for column, name in enumerate(names):
        fewer = min(int((table[:, column] > 0).sum()), int((table[:, column] <= 0).sum()))
        if fewer < MIN_SIDE:
            needed = f"about --num {-(-MIN_SIDE * len(table) // fewer)}" if fewer else "a better generator"
            skipped[name] = f"one side has only {fewer} of {len(table)} codes; expected at least {MIN_SIDE} ({needed})"
    kept = [c for c, name in enumerate(names) if name not in skipped]
    if not kept:
        raise UserError(f"no attribute has enough codes on both sides: {skipped}")
    rows, figures = _fit_rows(codes, table[:, kept], estimator, share)
    usable = []
    for i, column in enumerate(kept):
        stability, auc = float(figures["stability"][i]), float(figures["auc"][i])
        if stability < MIN_STABILITY or auc < MIN_AUC:
            skipped[names[column]] = (
                f"not usable: stability {stability:.2f} (at least {MIN_STABILITY}), AUC {auc:.2f} (at least {MIN_AUC})"
            )
        else:
            usable.append(i)
    chosen = [names[kept[i]] for i in usable]
    return Boundaries(
        space=space,
        estimator=estimator,
        names=chosen,
        classes=[name for name in scores.classes if name in chosen],
        pairs=[name for name in pairs if name in chosen],
        normal=rows[usable],
        **{key: value[usable] for key, value in figures.items()},
        prevalence=prevalence[[kept[i] for i in usable]],
        skipped=skipped,
        provenance={
            "sha256": scores.weights,
            "guides": scores.guides,
            "num": len(table),
            "seed": scores.seed,
            "names": {"classes": scores.classes, "attributes": scores.names[len(scores.classes) :]},
        },
    )


def _fit_rows(codes: Tensor, table: Tensor, estimator: str, share: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Unit normals (A, Z), and the other fields of every row."""
    count = int(FIT_SHARE * len(codes))
    normal = _normals(codes[:count], table[:count], estimator, share)
    halves = [_normals(codes[rows], table[rows], estimator, share) for rows in (slice(0, count, 2), slice(1, count, 2))]
    reading = codes @ normal.T  # (N, A)
    figures: dict[str, list] = {key: [] for key in ("offset", "sigma", "side_mean", "span", "auc", "stability")}
    for a in range(table.shape[1]):
        positive = table[:, a] > 0
        offset = best_offset(reading[:, a], positive)
        r = reading[:, a] + offset
        pair = torch.stack([codes @ half[a] for half in halves])
        figures["offset"].append(torch.tensor(offset))
        figures["sigma"].append(r.std())
        figures["side_mean"].append(torch.stack([r[~positive].mean(), r[positive].mean()]))
        figures["span"].append(r.sort().values[[int(0.01 * len(r)), int(0.99 * len(r))]])
        figures["auc"].append(torch.tensor(roc_auc(r[count:], positive[count:].float())))
        figures["stability"].append(torch.corrcoef(pair)[0, 1])
    return normal, {key: torch.stack(values).float() for key, values in figures.items()}


def _normals(codes: Tensor, table: Tensor, estimator: str, share: float) -> Tensor:
    if estimator == "ridge_rank":
        return ridge_rank(codes, table)
    return torch.stack([linear_normal(codes, column, estimator, share) for column in table.T])


def boundaries_path(run_dir: Path, space: str, estimator: str) -> Path:
    """The file of a run's boundaries."""
    return Path(run_dir) / f"boundaries_{space}_{estimator}.pt"


def load_boundaries(run_dir: Path, space: str, estimator: str, sha256: str) -> Boundaries:
    """Read them. Raises UserError if there are none, or if they were fitted to other weights than `sha256`."""
    path = boundaries_path(run_dir, space, estimator)
    remedy = f"fit them with python interface_gan/sample.py boundary --run-dir {run_dir} --guide RUN"
    if not path.is_file():
        raise UserError(f"{path}: this file does not exist; {remedy}")
    found = load_fields(Boundaries, path)
    if found.provenance["sha256"] != sha256:
        raise UserError(f"{path}: the boundaries were fitted to other weights of this run; {remedy}")
    return found


def describe(boundaries: Boundaries) -> str:
    """A table with one line per boundary, sorted by AUC, and then the names without one."""
    lines = ["name                    AUC  stability  fakes  faces  distance of the sides in sigma"]
    for row in boundaries.auc.argsort(descending=True).tolist():
        fakes, faces = boundaries.prevalence[row].tolist()
        apart = float((boundaries.side_mean[row, 1] - boundaries.side_mean[row, 0]) / boundaries.sigma[row])
        lines.append(
            f"{boundaries.names[row]:<22} {boundaries.auc[row]:5.3f}      {boundaries.stability[row]:5.3f}"
            f"   {fakes:4.2f}   {faces:4.2f}  {apart:5.2f}"
        )
    return "\n".join([*lines, *(f"{name}: {reason}" for name, reason in boundaries.skipped.items())])
