"""Boundaries of one generator: the hyperplane of every attribute, how far codes lie from it, and how good it is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import UserError
from engine.files import atomic_write
from interface_gan.score import Scores, log_odds
from latents.boundaries import ESTIMATORS, best_offset, linear_normal, ridge_rank
from latents.roc_auc import roc_auc

SPACES = ("w", "z")
FITTED = 0.8  # share of the codes that a normal is fitted to; AUCs are of the others
MIN_SIDE, MIN_STABILITY, MIN_AUC = 100, 0.9, 0.75


@dataclass(frozen=True)
class Boundaries:
    """One row an attribute or class of `names`: A rows. The reading of a code c (Z,) is normal . c + offset; it is
    positive with the attribute.

    normal (A, Z), unit length; offset (A,); sigma (A,): standard deviation of the reading over codes; side_mean (A, 2):
    mean reading without and with it; span (A, 2): its 1st and 99th percentile; auc (A,) on codes that were not fitted;
    stability (A,): correlation of the readings of normals fitted to two halves of the codes; prevalence (A, 2): share
    of fakes and of training faces that the guide sees it in. `pairs`: names such as happy/neutral, from one class to
    another. `skipped`: what has no usable boundary, and why. `provenance`: sha256 of the generator's weights and of the
    guides, number and seed of the codes, names that the guide knows.
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
        """The row of a name. Raises UserError with the reason if it has no usable boundary."""
        if name not in self.names:
            reason = self.skipped.get(name, f"the guide knows {', '.join([*self.names, *self.skipped])}")
            raise UserError(f"{name} has no boundary: {reason}")
        return self.names.index(name)

    def read(self, codes: Tensor) -> Tensor:
        """Readings (N, A) of codes (N, Z)."""
        return codes @ self.normal.T + self.offset

    @property
    def attributes(self) -> list[str]:
        """Names that are neither classes nor pairs of them."""
        return [name for name in self.names if name not in self.classes and name not in self.pairs]


def fit_boundaries(
    codes: Tensor, scores: Scores, space: str, estimator: str = "ridge_rank", share: float = 0.02
) -> Boundaries:
    """Fit every name of the guide to codes (N, Z) of the `space` and their scores.

    estimator: ridge_rank | svc | linear_svc | logreg; share: of the codes on each side that the last three see.
    """
    assert space in SPACES and estimator in ESTIMATORS, (space, estimator)
    table, pairs = log_odds(scores.logits, scores.classes)
    real = log_odds(scores.real, scores.classes)[0]
    names = [*scores.names, *pairs]
    prevalence = torch.stack([(t > 0).float().mean(0) for t in (table, real)], 1)  # (A, 2)
    if pairs:  # a class counts as seen where it is the likeliest, not where its odds exceed 1
        k = len(scores.classes)
        for column, logits in enumerate((scores.logits, scores.real)):
            seen = torch.nn.functional.one_hot(logits[:, :k].argmax(1), k).float().mean(0)
            prevalence[:k, column] = seen
    skipped = {}
    for column, name in enumerate(names):
        fewer = min(int((table[:, column] > 0).sum()), int((table[:, column] <= 0).sum()))
        if fewer < MIN_SIDE:
            needed = f"about --num {-(-MIN_SIDE * len(table) // fewer)}" if fewer else "a better generator"
            skipped[name] = f"{fewer} of {len(table)} codes lie on one side, {MIN_SIDE} are needed ({needed})"
    kept = [c for c, name in enumerate(names) if name not in skipped]
    if not kept:
        raise UserError(f"no attribute has codes enough on both sides: {skipped}")
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
    """Unit normals (A, Z) and the figures of every row."""
    count = int(FITTED * len(codes))
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
    """Where a run keeps them."""
    return Path(run_dir) / f"boundaries_{space}_{estimator}.pt"


def save_boundaries(boundaries: Boundaries, path: Path) -> None:
    """Tensors and plain values, read back with `weights_only=True`."""
    with atomic_write(path) as file:
        torch.save({f.name: getattr(boundaries, f.name) for f in dataclasses.fields(boundaries)}, file)


def load_boundaries(run_dir: Path, space: str, estimator: str, sha256: str) -> Boundaries:
    """Read them. Raises UserError where there are none, or those of other weights than the checkpoint `sha256`."""
    path = boundaries_path(run_dir, space, estimator)
    remedy = f"fit them with python interface_gan/sample.py boundary --run-dir {run_dir} --guide RUN"
    if not path.is_file():
        raise UserError(f"{path} is not there; {remedy}")
    found = Boundaries(**torch.load(path, map_location="cpu", weights_only=True))
    if found.provenance["sha256"] != sha256:
        raise UserError(f"{path}: fitted to other weights of this run; {remedy}")
    return found


def describe(boundaries: Boundaries) -> str:
    """The table: one line a boundary, best first, then what has none."""
    lines = ["name                    AUC  stability  fakes  faces  sides' distance in sigma"]
    for row in boundaries.auc.argsort(descending=True).tolist():
        fakes, faces = boundaries.prevalence[row].tolist()
        apart = float((boundaries.side_mean[row, 1] - boundaries.side_mean[row, 0]) / boundaries.sigma[row])
        lines.append(
            f"{boundaries.names[row]:<22} {boundaries.auc[row]:5.3f}      {boundaries.stability[row]:5.3f}"
            f"   {fakes:4.2f}   {faces:4.2f}  {apart:5.2f}"
        )
    return "\n".join([*lines, *(f"{name}: {reason}" for name, reason in boundaries.skipped.items())])
