"""Landmarks of faces as shapes: freed of place, turn and size, standardised, and drawn from a training set.

68 points in iBUG's order, x and y in [-1, 1] of the picture. Pure functions, but for the bank's draws.
"""

import numpy as np
import torch
from torch import Tensor

from data.landmarks import mirror_points
from engine import UserError

OUTER, INNER = (36, 45), (39, 42)  # corners of the eyes, image-left first
NUM_POINTS = 68


def align(points: Tensor) -> Tensor:
    """(N, 68, 2) in any frame -> eye frame: origin between the inner corners of the eyes, outer corners horizontal
    and one unit apart.

    Never by a box of mouth or jaw: an open mouth would move the eyes, and the expression would be scaled away.
    """
    origin = points[:, INNER].mean(1, keepdim=True)  # (N, 1, 2)
    across = points[:, OUTER[1]] - points[:, OUTER[0]]  # (N, 2)
    cos, sin = (across / across.square().sum(1, keepdim=True).clamp_min(1e-12)).unbind(1)  # turn back, over the length
    turn = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)  # (N, 2, 2)
    return (points - origin) @ turn.transpose(1, 2)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Unit codes (N, D) on the great circle from a (share 0) to b (1) and beyond."""
    angle = (a * b).sum(1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6).acos()
    mixed = (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
    return torch.nn.functional.normalize(mixed, dim=1)


class LandmarkBank:
    """Training landmarks with labels and persons, in memory; never part of a checkpoint."""

    def __init__(self, points: Tensor, label: Tensor, person: Tensor, num_classes: int) -> None:
        """points (M, 68, 2), label (M,), person (M,) with -1 unknown; rows without points or label are left out.

        Raises:
            UserError: a class has no face with landmarks.
        """
        usable = points.isfinite().all(2).all(1) & (label >= 0)
        self.points, self.label, self.person = points[usable].float(), label[usable], person[usable]
        self.rows = [torch.nonzero(self.label == k)[:, 0] for k in range(num_classes)]
        empty = [k for k, rows in enumerate(self.rows) if not len(rows)]
        if empty:
            raise UserError(f"data.classes: no training face of class {empty[0]} has landmarks; leave the class out")
        # Faces sorted by person: the partner of a face is one of the others between its person's first and last place.
        self.order = torch.argsort(self.person, stable=True)
        counts = torch.bincount(self.person.clamp_min(0), minlength=1)
        counts[0] = (self.person == 0).sum()
        self.count, self.first = counts, (self.person < 0).sum() + counts.cumsum(0) - counts
        self.place = torch.empty_like(self.order)
        self.place[self.order] = torch.arange(len(self.order))

    @classmethod
    def of(cls, labels: dict[str, np.ndarray], num_classes: int) -> "LandmarkBank":
        """Of a set's label arrays (`FaceSet.labels`)."""
        points, label = torch.from_numpy(labels["landmarks"]), torch.from_numpy(labels["label"]).long()
        person = labels.get("identity")
        known = torch.full_like(label, -1) if person is None else torch.from_numpy(person).long()
        return cls(points, label, known, num_classes)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def has_persons(self) -> bool:
        """Whether each face has another one of its person."""
        return bool((self.person >= 0).all()) and bool((self.count[self.person] > 1).all())

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean shape (68, 2) of the aligned points and their mirror images, and one deviation of all coordinates."""
        shapes = torch.cat([align(self.points), align(mirror_points(self.points))])
        mean = shapes.mean(0)
        return mean, (shapes - mean).square().mean().sqrt()

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random faces, every class equally often: points (n, 68, 2), points of another face of the same person (of
        the face itself where persons are unknown), label (n,), person (n,). Half of them mirrored."""
        label = torch.randint(len(self.rows), (n,))
        rows = self._rows_of(label)
        points, other = self.points[rows], self.points[self._partners(rows)]
        mirrored = (torch.rand(n) < 0.5)[:, None, None]
        points, other = (torch.where(mirrored, mirror_points(p), p) for p in (points, other))
        return points, other, label, self.person[rows]

    def of_class(self, label: Tensor) -> Tensor:
        """Points (N, 68, 2) of random faces of these classes (N,), half of them mirrored."""
        points = self.points[self._rows_of(label.cpu())]
        return torch.where((torch.rand(len(label)) < 0.5)[:, None, None], mirror_points(points), points)

    def _rows_of(self, label: Tensor) -> Tensor:
        chance = torch.rand(len(label)).tolist()
        return torch.stack([self.rows[k][int(u * len(self.rows[k]))] for k, u in zip(label.tolist(), chance)])

    def _partners(self, rows: Tensor) -> Tensor:
        person = self.person[rows]
        count, first = self.count[person.clamp_min(0)], self.first[person.clamp_min(0)]
        known = (person >= 0) & (count > 1)
        step = 1 + (torch.rand(len(rows)) * (count - 1).clamp_min(1)).long()
        place = first + (self.place[rows] - first + step) % count.clamp_min(1)
        return torch.where(known, self.order[torch.where(known, place, 0)], rows)
