"""Edits in code space: a code and a request in, the edited code out.

One global vector ignores pose and expression. So a face is compared with matched groups of training faces. One group
has the face's own label, its expression and the attributes in `match`. The other group has the target label and matches
as far as possible. Between the two groups a code moves by optimal transport of Gaussians (`transport`), or by the
difference of nearest neighbours (`knn`, deep feature interpolation in code space, https://arxiv.org/abs/1611.05507).
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
MATCH = ("Mouth_Slightly_Open", "Male")  # attributes on which matched faces agree, if the data have them
NUM_NEIGHBORS = 100
FACES_PER_LATENT = 4  # least faces of a matched group per latent, for a stable mean and covariance
MAX_EXTRAPOLATION = 2.0  # transport: largest factor on a step, until the score reaches the target side's mean


@dataclass
class LatentEditor:
    """Edits codes of one run. codes: training faces. vectors: directions (of `kind`, or OLS) and scores."""

    codes: Codes
    vectors: AttributeVectors
    meta: dict
    kind: str = KINDS[0]
    k: int = NUM_NEIGHBORS
    match: Sequence[str] = MATCH
    keep: Sequence[str] = ()

    def move(self, mu: Tensor, request: Request, labels: Tensor | None = None) -> Tensor:
        """mu (Q, Z) -> edited codes (Q, Z). labels (Q, L) in {0, 1, NaN}; unknown ones are predicted.

        `transport` moves each face to the corresponding place of the target group, one attribute after the other. It
        then extends the step on the same line, at most twofold, until the score equals the target side's mean. The
        other kinds are directions. Their step sizes are solved together, so that every requested score equals its
        target side's mean. A step request (`Smiling=+1.5`, in units of the direction) is applied first and without
        scaling.
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
                extension = (torch.where(strength > 0, with_, without) - start @ score) / (
                    strength.sign() * (v @ score)
                )
                start = start + (strength * extension.nan_to_num(1).clamp(1, MAX_EXTRAPOLATION))[:, None] * v
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
        """Signed share of the full step from without to with, (Q,) in [-1, 1]. For a step request: its value."""
        if edit.form == "step":
            return torch.full((len(labels),), float(edit.value))
        return self.target_shares(edit, labels) - labels[:, label_names(self.meta).index(edit.name)]

    def orthogonalize_kept(self, v: Tensor) -> Tensor:
        """v with the directions of the attributes to keep projected out."""
        if not self.keep:
            return v
        return orthogonalize(v, self.vectors.direction[[self.vectors.row(name) for name in self.keep]])

    def edits(self, request: Request) -> list[AttributeEdit]:
        """The edits of a request. `happy=0` becomes an edit to neutral."""
        request.require("set", "amount", "flip", "step", method="vae")
        edits = []
        for edit in request:
            if edit.is_class and edit.form == "flip":
                raise UserError(f"{edit}: `flip` needs an attribute with two sides; name another expression")
            if edit.is_class and edit.form == "set" and edit.value == 0:
                if "neutral" not in self.vectors.names:
                    raise UserError(f"{edit}: the data have no neutral faces to edit to; name another expression")
                edit = replace(edit, name="neutral", value=1.0)
            edits.append(edit)
        return edits

    def complete(self, mu: Tensor, labels: Tensor | None) -> Tensor:
        """Labels (Q, L) with unknown ones predicted from the code by the scores. Labels without a score stay NaN."""
        names, v = label_names(self.meta), self.vectors
        labels = torch.full((len(mu), len(names)), float("nan")) if labels is None else labels.clone()
        for row, name in enumerate(v.names):
            if name in self.meta["attributes"]:
                column = labels[:, names.index(name)]
                column.copy_(torch.where(column.isnan(), side_of(mu, v.score[row], v.class_mean[row]).float(), column))
        rows = [row for row, name in enumerate(v.names) if name in self.meta["classes"]]
        if rows:  # predict the expression with the highest normalised score
            without, with_ = v.class_mean[rows].unbind(1)
            reading = (mu @ v.score[rows].T - without) / (with_ - without)  # (Q, K)
            columns = torch.tensor([names.index(v.names[row]) for row in rows])
            read = torch.nn.functional.one_hot(columns[reading.argmax(1)], len(names)).float()
            classes = torch.tensor([name in self.meta["classes"] for name in names])
            labels = torch.where(labels.isnan() & classes, read, labels)
        return labels

    def target_shares(self, edit: AttributeEdit, labels: Tensor) -> Tensor:
        """Target position between the sides' means for each face, 0 = without, 1 = with: (Q,)."""
        if edit.form == "flip":
            return 1 - labels[:, label_names(self.meta).index(edit.name)]
        return torch.full((len(labels),), float(edit.value))

    def direction(self, mu: Tensor, edit: AttributeEdit, request: Request, labels: Tensor) -> Tensor:
        """Direction from without to with, (Q, Z). For an expression: from the current to the target one."""
        if self.kind in LOCAL:
            return self.local_directions(mu, edit, request, labels)
        v = self.vectors.direction[self.vectors.row(edit.name)].repeat(len(mu), 1)
        if edit.is_class and "neutral" in self.vectors.names:
            for name in self.meta["classes"]:
                rows = labels[:, label_names(self.meta).index(name)] == 1
                if name != edit.name and name in self.vectors.names and rows.any():
                    v[rows] = v[rows] - self.vectors.direction[self.vectors.row(name)]
        return v

    def local_directions(self, mu: Tensor, edit: AttributeEdit, request: Request, labels: Tensor) -> Tensor:
        """Local directions (Q, Z) from matched groups. Faces with equal labels share their groups."""
        self.vectors.row(edit.name)  # raises UserError if it has too few faces
        names, classes = label_names(self.meta), self.meta["classes"]
        match_columns = [names.index(n) for n in self.match if n in names and n not in request]
        if not any(n in request for n in classes):  # an attribute edit: also match the expression
            match_columns = [names.index(n) for n in classes] + match_columns
        column = names.index(edit.name)
        match_key = labels[:, [column, *match_columns]].nan_to_num(-1)
        source_class = labels[:, [names.index(n) for n in classes]].nan_to_num(0) if edit.is_class else labels[:, :0]
        v, relaxed = torch.empty_like(mu), Counter()
        for key in torch.cat([match_key, source_class], 1).unique(dim=0):
            same_key = (torch.cat([match_key, source_class], 1) == key).all(1)
            side = 0 if edit.is_class and key[0] != 1 else int(key[0])
            matched_groups = self.matched_groups(
                edit, labels[same_key][0], side, match_columns, relaxed, int(same_key.sum())
            )
            v[same_key] = self.group_directions(mu[same_key], matched_groups, side)
        for name, count in relaxed.items():
            print(f"{edit}: {count} face(s) not matched on {name}: too few training faces agree with them on it")
        return v

    def group_directions(self, mu: Tensor, matched_groups: list[Tensor], side: int) -> Tensor:
        """Directions from without to with for codes (Q, Z) of `side`. matched_groups: masks (N,) of training faces."""
        rows = matched_groups[0] | matched_groups[1]
        codes, target = self.codes.mu[rows], matched_groups[1][rows].float()
        if self.kind == "transport":
            return transport_vectors(mu, codes, target, 1 - side)
        return knn_vectors(mu, codes, target, self.k)

    def matched_groups(
        self, edit: AttributeEdit, face: Tensor, side: int, match_columns: list[int], relaxed: Counter, faces: int
    ) -> list[Tensor]:
        """Training faces without and with the attribute, matched to `face` (L,): two masks (N,).

        Both groups must agree with the face on each of `match_columns` (an expression counts only if the face has it),
        as long as enough faces are left in each: 2 k, and for `transport` four per latent. If the target group has
        almost none (no angry face smiles), only the face's own group must agree. Where that column is an expression,
        the target group is then restricted to neutral faces if enough exist. In every other case the column is
        dropped and counted in `relaxed`.
        """
        names, classes, known = label_names(self.meta), self.meta["classes"], self.codes.labels
        target = known[:, names.index(edit.name)]
        sides = [target == 0, target == 1]
        enough = max(2 * self.k, FACES_PER_LATENT * self.codes.mu.shape[1] if self.kind == "transport" else 0)
        if edit.is_class:  # the source is the face's own expression, not the absence of the target
            source_class = [n for n in classes if face[names.index(n)] == 1 and n != edit.name]
            if source_class:
                sides[0] = known[:, names.index(source_class[0])] == 1
        if not (sides[0].any() and sides[1].any()):
            raise UserError(f"{edit}: no training face without, or none with it; choose another edit")
        for column in match_columns:
            if face[column].isnan() or (names[column] in classes and face[column] == 0):
                continue
            agree = known[:, column] == face[column]
            counts = [int((s & agree).sum()) for s in sides]
            if min(counts) >= enough:
                sides = [s & agree for s in sides]
            elif counts[1 - side] < MIN_SIDE and counts[side] >= enough:
                sides[side] = sides[side] & agree
                if names[column] in classes and "neutral" in classes:
                    neutral = sides[1 - side] & (known[:, names.index("neutral")] == 1)
                    sides[1 - side] = neutral if neutral.sum() >= enough else sides[1 - side]
            else:
                relaxed[names[column]] += faces
        return sides
