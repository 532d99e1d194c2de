"""Which face comes when: pure functions of (seed, position), so that a resumed run goes on exactly where it was.

The batches of all ranks lie one after another on one endless line of positions; position p is the same face for any
number of ranks. Epochs follow each other on that line without a gap, so no remainder is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import UserError

# What a random number is for; each use has its own stream.
SHUFFLE, TURN, FLIP, PAIR, AUGMENT = range(1, 6)


def mixed(*parts: np.ndarray | int) -> np.ndarray:
    """64 random bits for each row of integers (broadcast): splitmix64's finaliser over the parts in turn."""
    h = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            z = h * np.uint64(0x9E3779B97F4A7C15) + np.asarray(part).astype(np.uint64) + np.uint64(0x632BE59BD9B4E019)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            h = z ^ (z >> np.uint64(31))
    return h


def uniform(*parts: np.ndarray | int) -> np.ndarray:
    """float64 in [0, 1) for each row of integers."""
    return (mixed(*parts) >> np.uint64(11)) * 2.0**-53


@dataclass
class BatchIndices:
    """One batch: `rows` (N,) pack rows, `mirror` (N,) bool, `epoch` (N,) how often the deck was gone through."""

    rows: np.ndarray
    mirror: np.ndarray
    epoch: np.ndarray


class IndexSampler:
    """Endless order over decks of rows; with several decks (classes) each comes equally often.

    flip: 'random' tosses for each (epoch, row), 'both' puts each row and its mirror image into the deck, 'none'.
    """

    def __init__(self, class_indices: Sequence[np.ndarray], seed: int, flip: str = "random") -> None:
        self.class_indices = [np.asarray(deck, dtype=np.int64) for deck in class_indices if len(deck)]
        if not self.class_indices:
            raise UserError("data: the training set is empty with these options; expected at least one face")
        self.seed, self.flip = seed, flip
        self._shuffles: dict[tuple[int, int], np.ndarray] = {}

    def at(self, positions: np.ndarray) -> BatchIndices:
        """The faces at these positions (N,) int64."""
        turn, deck = self._turns(positions)
        rows = np.empty(len(positions), np.int64)
        mirror = np.zeros(len(positions), bool)
        epoch = np.empty(len(positions), np.int64)
        for k, cards in enumerate(self.class_indices):
            length = len(cards) * (2 if self.flip == "both" else 1)
            mine = np.flatnonzero(deck == k)
            epoch[mine] = turn[mine] // length
            for e in np.unique(epoch[mine]):
                chosen = mine[epoch[mine] == e]
                card = self._shuffle(k, int(e), length)[turn[chosen] - e * length]
                rows[chosen] = cards[card % len(cards)]
                mirror[chosen] = card >= len(cards)
        if self.flip == "random":
            mirror = (mixed(FLIP, self.seed, epoch, rows) & np.uint64(1)).astype(bool)
        return BatchIndices(rows, mirror, epoch)

    def _turns(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which card of which deck: each block of K positions holds every deck once, in a shuffled order."""
        count = len(self.class_indices)
        if count == 1:
            return positions, np.zeros(len(positions), np.int64)
        block = positions // count
        dice = mixed(TURN, self.seed, block[:, None], np.arange(count)[None])
        deck = np.argsort(dice, axis=1, kind="stable")[np.arange(len(positions)), positions % count]
        return block, deck

    def _shuffle(self, deck: int, epoch: int, length: int) -> np.ndarray:
        key = (deck, epoch)
        if key not in self._shuffles:
            # Two epochs of each deck are enough: a batch straddles at most their border, unless it exceeds the deck.
            if len(self._shuffles) > 2 * len(self.class_indices):
                self._shuffles.pop(next(iter(self._shuffles)))
            generator = np.random.Generator(np.random.Philox(key=int(mixed(SHUFFLE, self.seed, deck, epoch)[0])))
            self._shuffles[key] = generator.permutation(length)
        return self._shuffles[key]


class PairSampler:
    """For each face another one of the same person (and take, where known) with another expression."""

    def __init__(self, rows: np.ndarray, label: np.ndarray, identity: np.ndarray, take: np.ndarray | None) -> None:
        """All (N,); `rows` are pack rows, a label or identity of -1 has no partner."""
        known = np.flatnonzero((label >= 0) & (identity >= 0))
        take = np.full(len(rows), -1) if take is None else take
        order = known[np.lexsort((label[known], take[known], identity[known]))]
        group = _runs(identity[order], take[order])
        same = _runs(identity[order], take[order], label[order])
        self.sorted_rows = rows[order]
        self.group_start, self.group_end = _bounds(group)
        self.same_start, self.same_end = _bounds(same)
        self.choices = (self.group_end - self.group_start) - (self.same_end - self.same_start)
        self.place = np.full(int(rows.max(initial=-1)) + 1, -1, np.int64)
        self.place[self.sorted_rows] = np.arange(len(order))

    def exists(self, rows: np.ndarray) -> np.ndarray:
        """(N,) bool: whether these pack rows have a partner."""
        place = self.place[rows]
        return (place >= 0) & (self.choices[place] > 0) if len(self.choices) else np.zeros(len(rows), bool)

    def of(self, rows: np.ndarray, epoch: np.ndarray | int, seed: int) -> np.ndarray:
        """(N,) pack rows of partners: f(seed, epoch, row), all choices equally likely."""
        place = self.place[rows]
        assert (place >= 0).all() and (self.choices[place] > 0).all()
        start, choices = self.group_start[place], self.choices[place]
        pick = start + (mixed(PAIR, seed, epoch, rows) % choices.astype(np.uint64)).astype(np.int64)
        # Jump over the faces with the own expression, which lie together.
        jump = np.where(pick >= self.same_start[place], self.same_end[place] - self.same_start[place], 0)
        return self.sorted_rows[pick + jump]


def _runs(*keys: np.ndarray) -> np.ndarray:
    """(N,) number of the run of equal keys that each sorted row belongs to."""
    if not len(keys[0]):
        return np.zeros(0, np.int64)
    changes = np.any([np.diff(key, prepend=key[:1]) != 0 for key in keys], axis=0)
    return np.cumsum(changes)


def _bounds(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.searchsorted(runs, runs, "left"), np.searchsorted(runs, runs, "right")
