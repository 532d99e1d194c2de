"""A code and a request -> the moved code. Local moves, taken from training faces that are like the face in question.

A global vector bends with pose and place. So a face is compared with its likes: faces of its own side that share its
expression and what `match` names, and faces of the other side that share what they can. Between the two crowds a code
moves by optimal transport (`transport`), or along differences of nearest neighbours (`pairs`, `knn`: deep feature
interpolation, 1611.05507, in code space). Figures: README.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.labels import label_names
from data.request import AttributeEdit, Request
from engine import UserError
from latents.directions import alphas_to_targets, knn_vectors, orthogonalize, side_of
from latents.local import transport_vectors
from vae.attributes import MIN_SIDE, AttributeVectors, Codes

KINDS = ("transport", "knn", "ols", "balanced", "mean")
LOCAL = KINDS[:2]
MATCH = ("Mouth_Slightly_Open", "Male")  # faces are compared with faces that agree on these, where they exist
NUM_NEIGHBORS = 100
FACES_PER_LATENT = 4  # codes a latent that a crowd needs for its covariance, and for its mean to be steady
MAX_EXTRAPOLATION = 2.0  # transports: how far along its move a face may go until its score is on the side's mean


@dataclass
class LatentEditor:
    """Moves codes of one run. `codes`: training faces; `vectors`: directions (of `kind`, or OLS) and readers."""

    codes: Codes
    vectors: AttributeVectors
    meta: dict
    kind: str = KINDS[0]
    k: int = NUM_NEIGHBORS
    match: Sequence[str] = MATCH
    keep: Sequence[str] = ()

    def move(self, mu: Tensor, request: Request, labels: Tensor | None = None) -> Tensor:
        """mu (Q, Z) -> moved codes (Q, Z). labels (Q, L) in {0, 1, NaN} where known; what is not known is read.

        `transport` carries each face to its place on the other side, one request after the other, and further on the
        same line, at most twice as far, until its score is the mean of that side. The other kinds are directions:
        requests for a side are solved together, so that every requested score lands on its side's mean. A step
        (`Smiling=+1.5`, in whole moves) is taken first, and as it is.
        """
        labels = self.complete(mu, labels)
        directions, scores, targets = [], [], []
        start = mu
        for edit in self.edits(request):
            v = self.orthogonalize_kept(self.direction(start, edit, request, labels))  # (Q, Z)
            if edit.form == "step":
                start = start + self.strength(edit, labels)[:, None] * v
                continue
            row = self.vectors.row(edit.name)
            score, (without, with_) = self.vectors.score[row], self.vectors.class_mean[row]
            if self.kind == "transport":
                strength = self.strength(edit, labels)  # (Q,)
                reach = (torch.where(strength > 0, with_, without) - start @ score) / (strength.sign() * (v @ score))
                start = start + (strength * reach.nan_to_num(1).clamp(1, MAX_EXTRAPOLATION))[:, None] * v
                continue
            directions.append(v)
            scores.append(score)
            targets.append(without + self.target_shares(edit, labels) * (with_ - without))  # (Q,)
        if not directions:
            return start
        v = torch.stack(directions, 1)  # (Q, k, Z)
        alpha = alphas_to_targets(start, v, torch.stack(scores), torch.stack(targets, 1))  # (Q, k)
        return start + (alpha[..., None] * v).sum(1)

    def strength(self, edit: AttributeEdit, labels: Tensor) -> Tensor:
        """How much of the whole move from without to with each face is to make: (Q,) in [-1, 1]."""
        if edit.form == "step":
            return torch.full((len(labels),), float(edit.value))
        return self.target_shares(edit, labels) - labels[:, label_names(self.meta).index(edit.name)]

    def orthogonalize_kept(self, v: Tensor) -> Tensor:
        """v without the directions of the attributes to keep."""
        if not self.keep:
            return v
        return orthogonalize(v, self.vectors.direction[[self.vectors.row(name) for name in self.keep]])

    def edits(self, request: Request) -> list[AttributeEdit]:
        """The moves of a request; leaving an expression means going to neutral."""
        request.require("set", "amount", "flip", "step", method="vae")
        edits = []
        for edit in request:
            if edit.is_class and edit.form == "flip":
                raise UserError(f"{edit}: an expression has no other side; ask for another expression")
            if edit.is_class and edit.form == "set" and edit.value == 0:
                if "neutral" not in self.vectors.names:
                    raise UserError(f"{edit}: there is no neutral face to go to; ask for another expression")
                edit = replace(edit, name="neutral", value=1.0)
            edits.append(edit)
        return edits

    def complete(self, mu: Tensor, labels: Tensor | None) -> Tensor:
        """Labels (Q, L) with what is unknown read from the code by its score; unreadable ones stay NaN."""
        names, v = label_names(self.meta), self.vectors
        labels = torch.full((len(mu), len(names)), float("nan")) if labels is None else labels.clone()
        for row, name in enumerate(v.names):
            if name in self.meta["attributes"]:
                column = labels[:, names.index(name)]
                column.copy_(torch.where(column.isnan(), side_of(mu, v.score[row], v.class_mean[row]).float(), column))
        rows = [row for row, name in enumerate(v.names) if name in self.meta["classes"]]
        if rows:  # the expression whose score is the furthest towards its own side
            without, with_ = v.class_mean[rows].unbind(1)
            reading = (mu @ v.score[rows].T - without) / (with_ - without)  # (Q, K)
            columns = torch.tensor([names.index(v.names[row]) for row in rows])
            read = torch.nn.functional.one_hot(columns[reading.argmax(1)], len(names)).float()
            classes = torch.tensor([name in self.meta["classes"] for name in names])
            labels = torch.where(labels.isnan() & classes, read, labels)
        return labels

    def target_shares(self, edit: AttributeEdit, labels: Tensor) -> Tensor:
        """Where each face shall stand between the sides' means, 0 without to 1 with: (Q,)."""
        if edit.form == "flip":
            return 1 - labels[:, label_names(self.meta).index(edit.name)]
        return torch.full((len(labels),), float(edit.value))

    def direction(self, mu: Tensor, edit: AttributeEdit, request: Request, labels: Tensor) -> Tensor:
        """From without to with, one a face: (Q, Z). An expression is left for another, not for its absence."""
        if self.kind in LOCAL:
            return self.local(mu, edit, request, labels)
        v = self.vectors.direction[self.vectors.row(edit.name)].repeat(len(mu), 1)
        if edit.is_class and "neutral" in self.vectors.names:
            for name in self.meta["classes"]:
                rows = labels[:, label_names(self.meta).index(name)] == 1
                if name != edit.name and name in self.vectors.names and rows.any():
                    v[rows] = v[rows] - self.vectors.direction[self.vectors.row(name)]
        return v

    def local(self, mu: Tensor, edit: AttributeEdit, request: Request, labels: Tensor) -> Tensor:
        """Directions (Q, Z) from the crowds around each face; faces that are alike share theirs."""
        self.vectors.row(edit.name)  # or a sentence: too few faces
        names, classes = label_names(self.meta), self.meta["classes"]
        asked = [names.index(n) for n in self.match if n in names and n not in request]
        if not any(n in request for n in classes):  # an attribute: the expression is held where it can be
            asked = [names.index(n) for n in classes] + asked
        column = names.index(edit.name)
        alike = labels[:, [column, *asked]].nan_to_num(-1)
        shown = labels[:, [names.index(n) for n in classes]].nan_to_num(0) if edit.is_class else labels[:, :0]
        v, relaxed = torch.empty_like(mu), Counter()
        for key in torch.cat([alike, shown], 1).unique(dim=0):
            mine = (torch.cat([alike, shown], 1) == key).all(1)
            side = 0 if edit.is_class and key[0] != 1 else int(key[0])
            matched_groups = self.matched_groups(edit, labels[mine][0], side, asked, relaxed, int(mine.sum()))
            v[mine] = self.between(mu[mine], matched_groups, side)
        for name, count in relaxed.items():
            print(f"{edit}: too few training faces share {name} with {count} faces; it was not asked of them")
        return v

    def between(self, mu: Tensor, matched_groups: list[Tensor], side: int) -> Tensor:
        """From without to with for codes (Q, Z) of `side`; crowds: rows (N,) bool of training faces without, with."""
        rows = matched_groups[0] | matched_groups[1]
        codes, target = self.codes.mu[rows], matched_groups[1][rows].float()
        if self.kind == "transport":
            return transport_vectors(mu, codes, target, 1 - side)
        return knn_vectors(mu, None, codes, target[:, None], 0, self.k)

    def matched_groups(
        self, edit: AttributeEdit, face: Tensor, side: int, asked: list[int], relaxed: Counter, faces: int
    ) -> list[Tensor]:
        """Training faces without and with, as like `face` (L,) as they can be: two masks (N,).

        Each column of `asked` on which the face is 1 (or, for attributes, 0) is asked of both sides if enough faces
        are left on each (2 k, and for transports four a latent); of the face's own side alone where the other has
        none to speak of (no angry face smiles); else of neither, which `relaxed` counts under its name. Where it is
        the face's expression that the other side lacks, the other side's neutral faces are taken if there are enough:
        who stops smiling is not to look afraid.
        """
        names, classes, known = label_names(self.meta), self.meta["classes"], self.codes.labels
        target = known[:, names.index(edit.name)]
        sides = [target == 0, target == 1]
        enough = max(2 * self.k, FACES_PER_LATENT * self.codes.mu.shape[1] if self.kind == "transport" else 0)
        if edit.is_class:  # another expression is left, not the absence of this one
            shown = [n for n in classes if face[names.index(n)] == 1 and n != edit.name]
            if shown:
                sides[0] = known[:, names.index(shown[0])] == 1
        if not (sides[0].any() and sides[1].any()):
            raise UserError(f"{edit}: no training face on one side; ask for something else")
        for column in asked:
            if face[column].isnan() or (names[column] in classes and face[column] == 0):
                continue
            agree = known[:, column] == face[column]
            counts = [int((s & agree).sum()) for s in sides]
            if min(counts) >= enough:
                sides = [s & agree for s in sides]
            elif counts[1 - side] < MIN_SIDE and counts[side] >= enough:
                sides[side] = sides[side] & agree
                if names[column] in classes and "neutral" in classes:
                    plain = sides[1 - side] & (known[:, names.index("neutral")] == 1)
                    sides[1 - side] = plain if plain.sum() >= enough else sides[1 - side]
            else:
                relaxed[names[column]] += faces
        return sides
