"""Attribute vectors of one run: codes of its training faces, and the directions and scores fitted on them.

Codes are mu of the averaged encoder in evaluation mode, from the training split only. A *direction* moves a code. A
*score* (linear discriminant analysis) predicts the attribute from a code. Moving along the score's normal edits badly
in these code spaces, so the two differ (latents/directions.py).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.labels import label_names, label_table
from engine import UserError
from engine.checkpoint import load_fields, save_fields
from engine.files import atomic_write
from latents.directions import balanced_vector, class_means, lda_scores, mean_codes, mean_vectors, ols_vectors
from latents.roc_auc import roc_auc

logger = logging.getLogger("faces")
CONFOUNDERS = ("Male", "Mouth_Slightly_Open")  # default confounders of `balanced` vectors, if the data have them
MIN_SIDE = 20  # least faces without and with; a direction from fewer is mostly noise


@dataclass(frozen=True)
class Codes:
    """Codes of faces: mu (N, Z); labels (N, L) in {0, 1, NaN}, attributes first, then one column per class; index (N,),
    rows of the pack."""

    mu: Tensor
    labels: Tensor
    index: Tensor


@dataclass(frozen=True)
class AttributeVectors:
    """A rows, one for each attribute or expression in `names`.

    direction (A, Z): from without to with at alpha 1. An expression starts at neutral where that exists, and neutral's
    own direction is then 0. score (A, Z): whitened LDA. class_mean (A, 2): means of the score without and with. origin
    (Z,): mean code. mean_code (A, 2, Z): mean code of each side. count (A, 2): faces of each side. alpha_range (A, 2):
    1st and 99th percentile of training faces along the direction, from the origin, in units of alpha. auc (A, 2): AUC
    of direction and score on validation faces. provenance: data set, split, run, step, sha256 of the weights. skipped:
    labels without a vector, and why. cells: for balanced vectors, which combinations of confounders were used.
    """

    kind: str
    names: list[str]
    direction: Tensor
    score: Tensor
    class_mean: Tensor
    origin: Tensor
    mean_code: Tensor
    count: Tensor
    alpha_range: Tensor
    auc: Tensor
    provenance: dict[str, Any]
    skipped: dict[str, str] = field(default_factory=dict)
    cells: dict[str, str] = field(default_factory=dict)

    def row(self, name: str) -> int:
        """Index of an attribute. Raises UserError with the reason if it has no vector."""
        if name not in self.names:
            reason = self.skipped.get(name, f"expected one of {', '.join(self.names)}")
            raise UserError(f"{name} has no vector: {reason}")
        return self.names.index(name)


@torch.no_grad()
def encode(method: Any, faces: Any, batch_size: int = 256) -> Codes:
    """Codes of every face of a set, in order, not mirrored, on the CPU."""
    mus, labels, index = [], [], []
    for batch in faces.once(batch_size, method.device):
        mus.append(method.ema_encoder(batch["image"])[0].cpu())
        labels.append(label_table({k: v.cpu() for k, v in batch.items()}, method.meta))
        index.append(batch["index"].cpu())
    return Codes(torch.cat(mus), torch.cat(labels), torch.cat(index))


def cached_codes(method: Any, faces: Any, fingerprint: str, run_dir: Path, split: str) -> Codes:
    """`encode(method, faces)`, cached in the run directory for these weights and data."""
    path, key = codes_path(run_dir, split, method.origin.step), codes_key(method, fingerprint)
    if (held := read_codes(path, key)) is not None:
        return held
    logger.info(f"encoding {len(faces)} {split} faces into {path}")
    codes = encode(method, faces)
    with atomic_write(path) as file:
        np.savez(file, mu=codes.mu.numpy(), labels=codes.labels.numpy(), index=codes.index.numpy(), key=np.array(key))
    return codes


def codes_path(run_dir: Path, split: str, step: int) -> Path:
    """The file of the codes of a split."""
    return run_dir / f"codes_{split}_{step}.npz"


def codes_key(method: Any, fingerprint: str) -> str:
    """What codes depend on: the weights and the data."""
    return f"{method.origin.sha256} {fingerprint}"


def read_codes(path: Path, key: str) -> Codes | None:
    """Codes from a file; None if it is missing or of other weights or data."""
    if path.is_file():
        with np.load(path, allow_pickle=False) as held:
            if str(held["key"]) == key:
                return Codes(*(torch.from_numpy(held[name]) for name in ("mu", "labels", "index")))
    return None


def vectors_path(run_dir: Path, kind: str) -> Path:
    """The file of the vectors of a kind."""
    return run_dir / f"vectors_{kind}.pt"


def fit_vectors(
    train: Codes, val: Codes, meta: dict, kind: str, provenance: dict[str, Any], balance: Sequence[str] = CONFOUNDERS
) -> AttributeVectors:
    """Fit directions of `kind` (ols | mean | balanced over the cells of `balance`) and scores, for every label with
    enough faces on both sides."""
    names, skipped = label_names(meta), {}
    for column, name in enumerate(names):
        sides = [int((train.labels[:, column] == side).sum()) for side in (0, 1)]
        if min(sides) < MIN_SIDE:
            skipped[name] = f"{sides[0]} training faces without it and {sides[1]} with it, {MIN_SIDE} are needed"
    columns = [c for c, name in enumerate(names) if name not in skipped]
    if not columns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items()) or "the data have no labels"
        raise UserError(f"no label has enough faces on both sides; {reasons}")
    kept = [names[c] for c in columns]
    mu, labels = train.mu, train.labels[:, columns]
    direction, cells = _directions(train, meta, kind, kept, balance)
    score = lda_scores(mu, labels, names=kept)
    origin = mu.mean(0)
    along = (mu - origin) @ (direction / direction.square().sum(1, keepdim=True).clamp_min(1e-12)).T  # (N, A), alpha
    rank = torch.tensor([0.01, 0.99])
    val_labels = val.labels[:, columns]
    readings = torch.stack([val.mu @ direction.T, val.mu @ score.T], 2)  # (N, A, 2)
    auc = [[roc_auc(readings[:, a, i], val_labels[:, a]) for i in range(2)] for a in range(len(kept))]
    return AttributeVectors(
        kind=kind,
        names=kept,
        direction=direction,
        score=score,
        class_mean=class_means(mu, labels, score, kept),
        origin=origin,
        mean_code=mean_codes(mu, labels, kept),
        count=torch.stack([(labels == 0).sum(0), (labels == 1).sum(0)], 1),
        alpha_range=torch.stack([quantile(along[:, a], rank) for a in range(len(kept))]),
        auc=torch.tensor(auc),
        provenance=provenance,
        skipped=skipped,
        cells=cells,
    )


def _directions(
    train: Codes, meta: dict, kind: str, kept: list[str], balance: Sequence[str]
) -> tuple[Tensor, dict[str, str]]:
    """Directions (A, Z), and the cells of balanced ones.

    Attributes and expressions are fitted separately: with `happy` as a confounder, *Smiling* would lose its meaning.
    """
    names, parts, cells = label_names(meta), [], {}
    for group, start in ((meta["attributes"], None), (meta["classes"], "neutral")):
        chosen = [name for name in group if name in kept and name != start]
        rows = {start: torch.zeros(train.mu.shape[1])}
        if chosen:
            labels = train.labels[:, [names.index(name) for name in chosen]]
            if kind != "ols" and start in kept:  # OLS: neutral has no column, so it is what the others count from
                labels = contrast_with_reference(labels, train.labels[:, names.index(start)])
            if kind == "balanced":
                confounders = [name for name in balance if name in kept]
                table = torch.cat([labels, train.labels[:, [names.index(name) for name in confounders]]], 1)
                for column, name in enumerate(chosen):
                    rows[name], cells[name] = _balanced(train.mu, table, column, name, confounders)
            else:
                fitted = (ols_vectors if kind == "ols" else mean_vectors)(train.mu, labels, names=chosen)
                rows |= dict(zip(chosen, fitted, strict=True))
        parts += [rows[name] for name in group if name in kept]
    return torch.stack(parts), cells


def _balanced(mu: Tensor, table: Tensor, column: int, name: str, confounders: list[str]) -> tuple[Tensor, str]:
    """One balanced vector, and a description of its cells. Drops confounders while no cell has enough faces."""
    names = [str(i) for i in range(table.shape[1] - len(confounders))]
    names[column] = name
    others = [c for c in confounders if c != name]
    while True:
        try:
            vector, cells = balanced_vector(mu, table, name, others, MIN_SIDE, [*names, *confounders])
            return vector, cells.describe()
        except ValueError:
            if not others:
                raise
            others = others[:-1]


def contrast_with_reference(labels: Tensor, start: Tensor) -> Tensor:
    """Set zeros of one-hot columns (N, K) to NaN, except where `start` (N,) is 1: only the reference counts as 0."""
    return labels.masked_fill((labels == 0) & (start != 1)[:, None], float("nan"))


def quantile(values: Tensor, q: Tensor) -> Tensor:
    """`torch.quantile` without its limit of 16 million values."""
    return torch.from_numpy(np.quantile(values.numpy(), q.numpy())).float()


def load_vectors(path: Path, sha256: str) -> AttributeVectors:
    """Load vectors. Raises UserError if they belong to other weights than the checkpoint `sha256`."""
    vectors = load_fields(AttributeVectors, path)
    if vectors.provenance["sha256"] != sha256:
        run, step = vectors.provenance["run"], vectors.provenance["step"]
        raise UserError(
            f"{path}: fitted to other weights (step {step}); refit with "
            f"python vae/sample.py vectors --run-dir {run} --fit {vectors.kind}"
        )
    return vectors


def get_vectors(method: Any, run_dir: Path, kind: str, train: Codes, val: Callable[[], Codes]) -> AttributeVectors:
    """The run's vectors of `kind`, loaded. If missing, they are fitted and saved, with a message; only then are the
    codes of the validation faces made."""
    path = vectors_path(run_dir, kind)
    if path.is_file():
        return load_vectors(path, method.origin.sha256)
    logger.info(f"no {path} yet: fitting the {kind} vectors")
    vectors = fit_vectors(train, val(), method.meta, kind, provenance_of(method))
    save_fields(vectors, path)
    return vectors


def provenance_of(method: Any) -> dict[str, Any]:
    """Data set, run, step and hash that vectors were fitted with."""
    origin = method.origin
    facts = {"dataset": method.meta["dataset"], "split": "train", "fingerprint": method.meta["fingerprint"]}
    return facts | {"run": origin.run, "step": origin.step, "sha256": origin.sha256}
