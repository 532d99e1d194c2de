"""Scores of sampled codes: a guide's logits for their images. They are the training set of the boundaries.

A guide is a classifier of `evaluation/` with role guide. The judge, which measures the edits, is another classifier.
Codes are not stored; they are sampled again from their seed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import UserError
from engine.files import atomic_text, atomic_write
from interface_gan.codes import draw_z, images_of, map_z
from interface_gan.model import Generator

logger = logging.getLogger("faces")
SHARD = 4096  # rows of a file
NUM_REAL = 4096  # training faces that are also scored


@dataclass(frozen=True)
class Scores:
    """Logits (N, A) for the images of `draw_z(N, Z, seed)`, and `real` (M, A) for training faces. Classes come first.

    `guides`: {run: sha256}. `weights`: sha256 of the generator's checkpoint.
    """

    logits: Tensor
    real: Tensor
    names: list[str]
    classes: list[str]
    seed: int
    weights: str
    guides: dict[str, str]


@torch.no_grad()
def read_images(guide: Any, images: Tensor, batch_size: int = 256) -> Tensor:
    """The guide's logits (N, A) for images (N, C, H, H) in [-1, 1], on the CPU."""
    return torch.cat([guide(part.to(guide.device)).cpu() for part in images.split(batch_size)])


def score_codes(
    generator: Generator, weights: str, guide: Any, faces: Any, num: int, seed: int, folder: Path
) -> Scores:
    """Score `num` codes, in shards in folder/<key>/. Existing shards are used again.

    faces: the training set, for the scores of real faces.
    """
    guides = {guide.origin.run: guide.origin.sha256}
    place, dim = Path(folder) / score_key(weights, guides, seed), len(generator.mapping.w_avg)
    place.mkdir(parents=True, exist_ok=True)
    shards = []
    for start in range(0, num, SHARD):
        rows = min(SHARD, num - start)
        path = place / f"{start:08d}.npy"
        held = np.load(path) if path.is_file() else np.zeros((0, len(guide.names)), np.float32)
        if len(held) < rows:  # a new shard, or the last shard of a shorter table
            logger.info(f"scoring codes {start + len(held)} .. {start + rows} of {num}")
            w = map_z(generator, draw_z(rows - len(held), dim, seed, start + len(held)))
            logits = read_images(guide, images_of(generator, generator.broadcast(w)))
            held = np.concatenate([held, logits.numpy()])
            _save(path, held)
        shards.append(torch.from_numpy(held[:rows]))
    real = _real_scores(guide, faces, place / "real.npy")
    facts = {"weights": weights, "guides": guides, "seed": seed, "names": guide.names, "classes": guide.classes}
    atomic_text(place / "scores.json", json.dumps(facts, indent=1))
    return Scores(torch.cat(shards), real, list(guide.names), list(guide.classes), seed, weights, guides)


def score_key(weights: str, guides: dict[str, str], seed: int) -> str:
    """The folder's name: a hash of everything that the scores depend on."""
    return hashlib.sha256(json.dumps([weights, *guides.values(), seed]).encode()).hexdigest()[:12]


def read_scores(folder: Path, provenance: dict[str, Any]) -> Scores:
    """The scores that boundaries with this `provenance` were fitted to. Raises UserError if they are missing."""
    weights, guides, seed, num = (provenance[key] for key in ("sha256", "guides", "seed", "num"))
    place = Path(folder) / score_key(weights, guides, seed)
    if not (place / "scores.json").is_file():
        raise UserError(f"{place}: the scores of these boundaries are missing; run interface_gan/sample.py score again")
    facts = json.loads((place / "scores.json").read_text())
    shards = [torch.from_numpy(np.load(place / f"{start:08d}.npy")) for start in range(0, num, SHARD)]
    real = torch.from_numpy(np.load(place / "real.npy"))
    return Scores(torch.cat(shards)[:num], real, facts["names"], facts["classes"], seed, weights, guides)


def _real_scores(guide: Any, faces: Any, path: Path) -> Tensor:
    if not path.is_file():
        rows = np.unique(np.linspace(0, len(faces) - 1, min(NUM_REAL, len(faces))).round().astype(np.int64))
        _save(path, read_images(guide, faces.take(rows, "cpu")["image"]).numpy())
    return torch.from_numpy(np.load(path))


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as file:
        np.save(file, array)


def log_odds(logits: Tensor, classes: Sequence[str], start: str = "neutral") -> tuple[Tensor, list[str]]:
    """The targets (N, A') of the boundaries from logits (N, A), classes first; and the names of the added columns.

    The column of a class has its log-odds, l_k - logsumexp of the other classes. Attributes do not change. If the class
    `start` exists, a column such as `happy/neutral` with l_happy - l_neutral is added for every other class.
    """
    k = len(classes)
    if k == 0:
        return logits, []
    own = logits[:, :k].double()
    others = own[:, None].expand(-1, k, -1).masked_fill(torch.eye(k, dtype=torch.bool), -torch.inf)
    table = [(own - others.logsumexp(2)).to(logits.dtype), logits[:, k:]]
    pairs = []
    if start in classes:
        base = classes.index(start)
        pairs = [f"{name}/{start}" for name in classes if name != start]
        table.append((own - own[:, base : base + 1])[:, [c for c in range(k) if c != base]].to(logits.dtype))
    return torch.cat(table, 1), pairs
