"""Landmarks as shapes: align them, standardise them, and draw them from a training set.

A face has 68 points in iBUG's order, with x and y in [-1, 1] of the image. All functions but the bank's draws are pure.
"""

import numpy as np
import torch
from torch import Tensor

from data import FaceSet
from data.landmarks import mirror_points
from engine import UserError

OUTER, INNER = (36, 45), (39, 42)  # corners of the eyes, image-left first
NUM_POINTS = 68
CHOICES = 8  # partners of a face to draw from


def align(points: Tensor) -> Tensor:
    """(N, 68, 2) in any frame -> eye frame: origin between the inner corners of the eyes, outer corners horizontal
    and one unit apart.

    A bounding box is not used, because an open mouth would change it, and so the expression would change the scale.
    """
    origin = points[:, INNER].mean(1, keepdim=True)  # (N, 1, 2)
    across = points[:, OUTER[1]] - points[:, OUTER[0]]  # (N, 2)
    cos, sin = (across / across.square().sum(1, keepdim=True).clamp_min(1e-12)).unbind(1)  # turn back, over the length
    turn = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)  # (N, 2, 2)
    return (points - origin) @ turn.transpose(1, 2)


class LandmarkBank:
    """Training landmarks with labels and persons. They are in memory, not in checkpoints."""

    def __init__(
        self, points: Tensor, label: Tensor, person: Tensor, num_classes: int, partners: Tensor | None = None
    ) -> None:
        """Keep the rows with points and a label.

        points (M, 68, 2), label (M,), person (M,); -1: unknown. partners (M, P): rows of other faces of the same
        person, -1: none; the default is found from `person`.

        Raises:
            UserError: a class has no face with landmarks.
        """
        usable = points.isfinite().all(2).all(1) & (label >= 0)
        self.points, self.label, self.person = points[usable].float(), label[usable], person[usable]
        if partners is None:
            self.partners = other_faces(self.person)
        else:
            place = torch.full((len(usable) + 1,), -1)  # the last place serves -1
            place[:-1][usable] = torch.arange(int(usable.sum()))
            self.partners = place[partners[usable]]
        self.rows = [torch.nonzero(self.label == k)[:, 0] for k in range(num_classes)]
        empty = [k for k, rows in enumerate(self.rows) if not len(rows)]
        if empty:
            raise UserError(f"data.classes: no training face of class {empty[0]} has landmarks; leave the class out")

    @classmethod
    def of(cls, faces: FaceSet, num_classes: int) -> "LandmarkBank":
        """The bank of a training set. With `data.pair`, partners are images of one session with the same head pose, so
        the code does not need the pose."""
        points, label = (torch.from_numpy(faces.labels[key]) for key in ("landmarks", "label"))
        person = faces.labels.get("identity")
        known = torch.full_like(label, -1) if person is None else torch.from_numpy(person)
        table = None
        if faces.pair_sampler is not None:
            place = np.full(int(faces.rows.max()) + 1, -1)
            place[faces.rows] = np.arange(len(faces.rows))
            found = [place[faces.pair_sampler.of(faces.rows, epoch, 0)] for epoch in range(CHOICES)]
            table = torch.from_numpy(np.stack(found, 1))
        return cls(points, label.long(), known.long(), num_classes, table)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def has_persons(self) -> bool:
        """Whether each face has another face of the same person."""
        return bool((self.partners >= 0).any(1).all())

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean shape (68, 2) of the aligned points and their mirror images, and one deviation of all coordinates."""
        shapes = torch.cat([align(self.points), align(mirror_points(self.points))])
        mean = shapes.mean(0)
        return mean, (shapes - mean).square().mean().sqrt()

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random faces, each class equally often: points (n, 68, 2), points of another face of the same person (or of
        the same face, if there is no other), label (n,), person (n,). Half of them are mirrored."""
        label = torch.randint(len(self.rows), (n,))
        rows = self._rows_of(label)
        points, other = self.points[rows], self.points[self._partners_of(rows)]
        mirrored = (torch.rand(n) < 0.5)[:, None, None]
        points, other = (torch.where(mirrored, mirror_points(p), p) for p in (points, other))
        return points, other, label, self.person[rows]

    def of_class(self, label: Tensor) -> Tensor:
        """Points (N, 68, 2) of random faces of these classes (N,). Half of them are mirrored."""
        points = self.points[self._rows_of(label.cpu())]
        return torch.where((torch.rand(len(label)) < 0.5)[:, None, None], mirror_points(points), points)

    def _rows_of(self, label: Tensor) -> Tensor:
        chance = torch.rand(len(label)).tolist()
        return torch.stack([self.rows[k][int(u * len(self.rows[k]))] for k, u in zip(label.tolist(), chance)])

    def _partners_of(self, rows: Tensor) -> Tensor:
        table = self.partners[rows]  # (N, P)
        chosen = (torch.rand(table.shape) + (table >= 0)).argmax(1)  # a random one of those that exist
        partner = table.gather(1, chosen[:, None])[:, 0]
        return torch.where(partner >= 0, partner, rows)


def other_faces(person: Tensor) -> Tensor:
    """(M, P): rows of up to `CHOICES` other faces of the person (M,) of each face; -1: none."""
    table = torch.full((len(person), CHOICES), -1)
    order = torch.argsort(person, stable=True)
    counts = torch.unique_consecutive(person[order], return_counts=True)[1]
    for places in order.split(counts.tolist()):
        if person[places[0]] < 0:
            continue
        for step in range(1, min(CHOICES, len(places) - 1) + 1):
            table[places, step - 1] = places.roll(-step)
    return table
