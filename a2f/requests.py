"""What may be asked for: attribute rows in {-1, 0, +1}, wrong rows for a critic, and the data's joint distribution."""

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
FEW = 50  # training faces that agree with a request; with fewer the nearest rows are taken too
COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
BEARDS = ("5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns")
# attribute that is 1 -> attributes that are then 0. The values are what a face can show at once.
EXCLUDES = {
    **{name: tuple(other for other in COLOURS if other != name) for name in COLOURS},
    "Bald": ("Bangs", *COLOURS),
    "No_Beard": BEARDS,
}


def signed(attr: Tensor) -> Tensor:
    """attr (N, A) in [0, 1], NaN = unknown -> 2v - 1, and 0 where unknown. Networks see nothing else."""
    return (2 * attr - 1).nan_to_num()


def wrong_requests(a: Tensor, wrong: str) -> Tensor:
    """Requests (N, A) for real faces that they do not fulfil: another row's (may be equal), or one bit turned."""
    if wrong == "row":
        return a.roll(1, 0)
    turned = F.one_hot(torch.randint(a.shape[1], (len(a),), device=a.device), a.shape[1])
    return a * (1 - 2 * turned)


def texture_columns(texture: list[str], attributes: list[str]) -> list[int]:
    """Columns of `attributes` that stages 1 and 2 see, in the order of `texture` ([]: TEXTURE's names, in data order).

    Raises:
        UserError: a name that the data lack, or none at all.
    """
    names = texture or [name for name in attributes if name in TEXTURE]
    missing = [name for name in names if name not in attributes]
    if missing or not names:
        raise UserError(
            f"model.texture: expected names of {', '.join(attributes) or 'attributes, and these data have none'}; "
            f"got {', '.join(missing) or 'none of them'}"
        )
    return [attributes.index(name) for name in names]


@dataclass
class AttributeTable:
    """Distinct attribute rows of the training faces, and how many faces show each: the joint distribution.

    Rows with an unknown attribute are left out. Independent bits would be another distribution: most of their rows
    have no hair colour, or several.
    """

    attributes: list[str]
    rows: np.ndarray  # (R, A) in {0, 1}, float32
    counts: np.ndarray  # (R,) int64

    @classmethod
    def of(cls, attr: np.ndarray, attributes: list[str]) -> "AttributeTable":
        """From the labels (N, A) of training faces."""
        known = attr[~np.isnan(attr).any(1)]
        if not len(known):
            raise UserError("data: no training face has all attributes known; choose fewer with data.attributes")
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
        """Raises UserError if the file is missing."""
        if not path.is_file():
            raise UserError(f"{path}: is missing; train.py writes it, start the training command once more")
        with np.load(path) as file:
            return cls([str(n) for n in file["attributes"]], file["rows"].astype(np.float32), file["counts"])

    def support(self, given: dict[str, float]) -> int:
        """How many training faces agree with every stated value; an amount counts as its nearer side."""
        return int(self.counts[self._agree(given) == 0].sum())

    def draw(self, n: int, given: dict[str, float] | None = None, seed: int = 0, first: int = 0) -> np.ndarray:
        """n complete rows (n, A) in [0, 1] that keep every stated value; the rest follows the training faces.

        Row k is a function of (seed, first + k). Where fewer than 50 training faces agree, the rows that contradict
        the fewest stated values are taken instead, the stated values are set and what excludes them is cleared.

        Args:
            given: {attribute: 0, 1 or an amount between}.

        Raises:
            UserError: stated values that exclude each other.
        """
        given = given or {}
        self.refuse_conflicts(given)
        distance = self._agree(given)
        chosen = distance == 0
        if self.counts[chosen].sum() < FEW:
            order = np.sort(np.unique(distance))
            limit = next((d for d in order if self.counts[distance <= d].sum() >= FEW), order[-1])
            chosen = distance <= limit
        edges = np.cumsum(np.where(chosen, self.counts, 0))
        u = [torch.rand((), generator=torch.Generator().manual_seed(seed_of(seed, 1, first + k))) for k in range(n)]
        places = np.searchsorted(edges, np.array(u, dtype=np.float64) * edges[-1], side="right")
        rows = self.rows[np.minimum(places, len(edges) - 1)].copy()
        for name, value in given.items():
            rows[:, self.attributes.index(name)] = value
        return self.repaired(rows, given)

    def complete(self, rows: np.ndarray) -> np.ndarray:
        """Attributes (n, A) with NaN filled from the commonest training row that agrees with the known ones best."""
        filled = rows.copy()
        for row in filled:
            known = ~np.isnan(row)
            distance = (self.rows[:, known] != (row[known] > 0.5)).sum(1)
            best = np.lexsort((-self.counts, distance))[0]
            row[~known] = self.rows[best][~known]
        return filled

    def _agree(self, given: dict[str, float]) -> np.ndarray:
        """(R,) how many stated values a row contradicts."""
        columns = [self.attributes.index(name) for name in given]
        wanted = np.array([value > 0.5 for value in given.values()], dtype=np.float32)
        return (self.rows[:, columns] != wanted).sum(1)

    def refuse_conflicts(self, given: dict[str, float]) -> None:
        """Raise UserError where stated values exclude each other."""
        for name, others in EXCLUDES.items():
            clash = [o for o in others if given.get(o, 0) > 0.5 and given.get(name, 0) > 0.5]
            if clash:
                raise UserError(f"{name}=1 {clash[0]}=1: a face cannot show both; ask for one of them")

    def repaired(self, rows: np.ndarray, given: dict[str, float]) -> np.ndarray:
        """Clear in `rows` (n, A) what stated values exclude, and what excludes them; stated values stay."""
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
