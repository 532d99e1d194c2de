"""Semi-supervised batches: unlabelled faces train the autoencoder only."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import FaceSet


class SemiSupervisedBatches:
    """A training set with a fixed share of unlabelled faces in each batch. Labelled rows come first."""

    def __init__(self, labelled: FaceSet, unlabelled: FaceSet, share: float) -> None:
        self.labelled, self.unlabelled, self.share = labelled, unlabelled, share

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: Any = "cpu",
        first_step: int = 0,
    ) -> Iterator[dict[str, Tensor]]:
        """As `FaceSet.batches`; at least two rows of each kind."""
        num_unlabelled = min(max(2, round(batch_size * self.share)), batch_size - 2)
        args = (seed, rank, world_size, device, first_step)
        pairs = zip(
            self.labelled.batches(batch_size - num_unlabelled, *args),
            self.unlabelled.batches(num_unlabelled, *args),
            strict=True,
        )
        for known, unknown in pairs:
            yield {key: torch.cat([value, unknown[key]]) for key, value in known.items()}

    def fixed(self, n: int, device: Any = "cpu") -> dict[str, Tensor]:
        """Labelled faces."""
        return self.labelled.fixed(n, device)

    def once(self, batch_size: int, device: Any = "cpu") -> Iterator[dict[str, Tensor]]:
        """All faces."""
        yield from self.labelled.once(batch_size, device)
        yield from self.unlabelled.once(batch_size, device)


def semi_supervised(faces: FaceSet, share: float) -> FaceSet | SemiSupervisedBatches:
    """The set itself if every face has a label or `share` is 0 (labelled part only), else `SemiSupervisedBatches`.

    The labelled part is balanced as `faces` is.
    """
    label = faces.labels.get("label")
    if label is None or (label >= 0).all():
        return faces
    part = lambda rows, cfg: FaceSet(faces.store, faces.rows[rows], cfg, True, faces.num_classes)  # noqa: E731
    known = part(np.flatnonzero(label >= 0), faces.cfg)
    if not share:
        return known
    return SemiSupervisedBatches(known, part(np.flatnonzero(label < 0), replace(faces.cfg, balanced=False)), share)
