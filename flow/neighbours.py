"""Directions of each face's own neighbours, chosen by what one sees: a thumbnail of the picture.

Nearest *codes* are nearly random (all lie within a percent of one distance), hence the picture chooses; and the
difference of two means of K codes is full of white noise, hence what it adds to the global direction is shrunk.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data.labels import label_names, label_table
from data.request import Move
from engine import UserError
from flow.directions import Directions, shrink_blocks
from flow.session import Session

THUMBNAIL = 16  # px
MATCH = ("Male", "Eyeglasses")  # neighbours agree with the face on these, where they are known


class Neighbours:
    """Training faces as thumbnails and labels; their codes are streamed when a direction is asked for."""

    def __init__(self, session: Session, directions: Directions, x: Tensor, table: Tensor, k: int) -> None:
        self.session, self.d, self.k = session, directions, k
        self.table, self.names = table, label_names(session.meta)
        seen = [(thumbnails(b["image"]).cpu(), label_table(b, session.meta)) for b in session.split("train").once(256)]
        self.thumbs, self.known = (torch.cat(part) for part in zip(*seen, strict=True))
        # (N, train); as differences, not as a matrix product, whose rounding makes a face its own neighbour.
        self.distance = torch.cdist(thumbnails(x), self.thumbs, compute_mode="donot_use_mm_for_euclid_dist")

    def __call__(self, wish: Move, rows: Tensor, sources: Sequence[str] | None) -> Tensor:
        """d_ols + shrunk (d_local - d_ols) for the faces `rows` (N,) bool -> (n, D), in one pass over the codes.

        sources: for a class, the one that each of these faces shows.
        """
        with_ = self.known[:, self.names.index(wish.name)] == 1
        weights = torch.zeros(int(rows.sum()), len(self.known))
        variance = torch.zeros(len(weights))
        for i, q in enumerate(rows.nonzero().flatten().tolist()):
            if sources is None:
                without = self.known[:, self.names.index(wish.name)] == 0
            else:
                without = self.known[:, self.names.index(sources[i])] == 1
            for side, sign in ((with_, 1.0), (without, -1.0)):
                near = self.nearest(q, side, wish)
                weights[i, near] = sign / len(near)
                variance[i] += 1 / len(near)
        delta, start = torch.zeros(len(weights), self.session.flow.dim), 0
        for photo, _ in self.session.stream("train"):
            codes = photo.code.flat().cpu()
            delta += weights[:, start : start + len(codes)] @ codes
            start += len(codes)
        whole = self.d.direction[self.d.row(wish.name)]
        if sources is not None:
            place = self.d.classes.index
            whole = self.d.class_code[place(wish.name)] - self.d.class_code[[place(name) for name in sources]]
        return whole + shrink_blocks(delta - whole, variance, self.session.flow.shapes)

    def nearest(self, q: int, side: Tensor, wish: Move) -> Tensor:
        """Rows of the k training faces on one side that look most like face q."""
        good = side & (self.distance[q] > 1e-6)  # a face is not its own neighbour
        for name in MATCH:
            if name in self.names and name != wish.name:
                column = self.names.index(name)
                told = self.table[q, column]
                agree = good & (self.known[:, column] == told)
                good = agree if not told.isnan() and agree.sum() >= self.k else good
        if not good.any():
            raise UserError(f"{wish}: no training face to take neighbours from")
        rows = good.nonzero().flatten()
        return rows[self.distance[q, rows].topk(min(self.k, len(rows)), largest=False).indices]


def thumbnails(x: Tensor) -> Tensor:
    """(N, C, H, H) -> grey, 16 x 16, flat."""
    return F.adaptive_avg_pool2d(x.mean(1, keepdim=True), THUMBNAIL).flatten(1)
