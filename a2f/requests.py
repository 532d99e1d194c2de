"""Requests: attribute rows in {-1, 0, +1}, wrong requests for the critic, and the attributes' joint distribution."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from a2f.config import TEXTURE
from engine.errors import UserError
from engine.files import atomic_write
from engine.precision import seed_of

ATTRIBUTE_TABLE = "attribute_table.npz"  # in the run directory
MIN_SUPPORT = 50  # training faces that agree with a request; if there are fewer, similar rows are also used
COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
BEARDS = ("5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns")
# If the attribute (key) is 1, these attributes (values) must be 0.
EXCLUDES = {
    **{name: tuple(other for other in COLOURS if other != name) for name in COLOURS},
    "Bald": ("Bangs", *COLOURS),
    "No_Beard": BEARDS,
}


def signed(attr: Tensor) -> Tensor:
    """The networks' input: 2 attr - 1, for attr (N, A) in [0, 1]. An unknown attribute (NaN) becomes 0."""
    return (2 * attr - 1).nan_to_num()


def wrong_requests(a: Tensor, wrong: str) -> Tensor:
    """Wrong requests (N, A) for real faces with requests a. row: another row's (may be equal); bit: one bit flipped."""
    if wrong == "row":
        return a.roll(1, 0)
    flipped = F.one_hot(torch.randint(a.shape[1], (len(a),), device=a.device), a.shape[1])
    return a * (1 - 2 * flipped)


def texture_columns(texture: list[str], attributes: list[str]) -> list[int]:
    """The columns of `attributes` that stages 1 and 2 use, in the order of `texture` (if empty: those of TEXTURE).

    Raises:
        UserError: the data do not have a name of `texture`, or no name is left.
    """
    names = texture or [name for name in attributes if name in TEXTURE]
    missing = [name for name in names if name not in attributes]
    if missing or not names:
        raise UserError(
            f"model.texture: expected some of {', '.join(attributes) or 'the attributes, but these data have none'}; "
            f"got {', '.join(missing) or 'none of them'}"
        )
    return [attributes.index(name) for name in names]


@dataclass
class AttributeTable:
    """The joint distribution of attributes: the distinct attribute rows of the training faces, and their counts.

    Rows with an unknown attribute are left out. Sampling each attribute independently would be wrong: most rows would
    have no hair colour, or several.
    """

    attributes: list[str]
    rows: np.ndarray  # (R, A) in {0, 1}, float32
    counts: np.ndarray  # (R,) int64

    @classmethod
    def of(cls, attr: np.ndarray, attributes: list[str]) -> "AttributeTable":
        """Count the labels (N, A) of training faces."""
        known = attr[~np.isnan(attr).any(1)]
        if not len(known):
            raise UserError("data: no training face has a value for all attributes; choose fewer with data.attributes")
        rows, counts = np.unique(known, axis=0, return_counts=True)
        return cls(list(attributes), rows.astype(np.float32), counts.astype(np.int64))

    def only(self, names: list[str]) -> "AttributeTable":
        """The joint distribution of some of the attributes."""
        columns = [self.attributes.index(name) for name in names]
        rows, place = np.unique(self.rows[:, columns], axis=0, return_inverse=True)
        return AttributeTable(list(names), rows, np.bincount(place.reshape(-1), self.counts).astype(np.int64))

    def save(self, path: Path) -> None:
        with atomic_write(path) as file:
            np.savez(file, attributes=np.array(self.attributes), rows=self.rows.astype(np.int8), counts=self.counts)

    @classmethod
    def load(cls, path: Path) -> "AttributeTable":
        """Read a saved table. Raises UserError if the file is missing."""
        if not path.is_file():
            raise UserError(f"{path}: this file is missing; run the training command again, which writes it")
        with np.load(path) as file:
            return cls([str(n) for n in file["attributes"]], file["rows"].astype(np.float32), file["counts"])

    def support(self, given: dict[str, float]) -> int:
        """The number of training faces that agree with all given values. An amount above 0.5 counts as 1, else as 0."""
        return int(self.counts[self._num_conflicts(given) == 0].sum())

    def draw(self, n: int, given: dict[str, float] | None = None, seed: int = 0, first: int = 0) -> np.ndarray:
        """Sample n complete rows (n, A) in [0, 1]. Given values stay; the others follow the joint distribution.

        Row k is a function of (seed, first + k). If fewer than MIN_SUPPORT training faces agree with the given values,
        rows with the fewest contradictions are used instead. Their values are then replaced by the given ones, and
        attributes that exclude these become 0.

        Args:
            given: {attribute: 0, 1 or an amount between}.

        Raises:
            UserError: given values exclude each other.
        """
        given = given or {}
        self.refuse_conflicts(given)
        distance = self._num_conflicts(given)
        chosen = distance == 0
        if self.counts[chosen].sum() < MIN_SUPPORT:
            order = np.sort(np.unique(distance))
            limit = next((d for d in order if self.counts[distance <= d].sum() >= MIN_SUPPORT), order[-1])
            chosen = distance <= limit
        edges = np.cumsum(np.where(chosen, self.counts, 0))
        u = [torch.rand((), generator=torch.Generator().manual_seed(seed_of(seed, 1, first + k))) for k in range(n)]
        places = np.searchsorted(edges, np.array(u, dtype=np.float64) * edges[-1], side="right")
        rows = self.rows[np.minimum(places, len(edges) - 1)].copy()
        for name, value in given.items():
            rows[:, self.attributes.index(name)] = value
        return self.repaired(rows, given)

    def complete(self, rows: np.ndarray) -> np.ndarray:
        """Replace NaN in rows (n, A) by the values of the training row that agrees best and is the most frequent."""
        filled = rows.copy()
        for row in filled:
            known = ~np.isnan(row)
            distance = (self.rows[:, known] != (row[known] > 0.5)).sum(1)
            best = np.lexsort((-self.counts, distance))[0]
            row[~known] = self.rows[best][~known]
        return filled

    def _num_conflicts(self, given: dict[str, float]) -> np.ndarray:
        """(R,) the number of given values that a row contradicts."""
        columns = [self.attributes.index(name) for name in given]
        wanted = np.array([value > 0.5 for value in given.values()], dtype=np.float32)
        return (self.rows[:, columns] != wanted).sum(1)

    def refuse_conflicts(self, given: dict[str, float]) -> None:
        """Raise UserError if given values exclude each other."""
        for name, others in EXCLUDES.items():
            clash = [o for o in others if given.get(o, 0) > 0.5 and given.get(name, 0) > 0.5]
            if clash:
                raise UserError(f"{name}=1 {clash[0]}=1: these exclude each other; request one of them only")

    def repaired(self, rows: np.ndarray, given: dict[str, float]) -> np.ndarray:
        """Set attributes of `rows` (n, A) to 0 that exclude a given value, or that a given value excludes."""
        for name, others in EXCLUDES.items():
            if name not in self.attributes:
                continue
            column = self.attributes.index(name)
            present = [self.attributes.index(o) for o in others if o in self.attributes]
            if given.get(name, 0) > 0.5:
                rows[:, [c for c in present if self.attributes[c] not in given]] = 0
            elif name not in given and any(given.get(o, 0) > 0.5 for o in others):
                rows[:, column] = 0
        return rows
