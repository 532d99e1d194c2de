"""The order of training images, as a function of (seed, position). So a resumed run sees the same batches.

The batches of all ranks are consecutive positions 0, 1, 2, ... of one endless sequence. Position p is the same image
for any number of ranks. Epochs follow each other without a gap, so a batch may contain the end of one epoch and the
beginning of the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import UserError

# Each use of random numbers has its own stream.
SHUFFLE, CLASS_ORDER, FLIP, PAIR, AUGMENT = range(1, 6)


def mixed(*parts: np.ndarray | int) -> np.ndarray:
    """64-bit hash (uint64) of each row of integers; arguments broadcast. It applies splitmix64's finalizer per part."""
    h = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            z = h * np.uint64(0x9E3779B97F4A7C15) + np.asarray(part).astype(np.uint64) + np.uint64(0x632BE59BD9B4E019)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            h = z ^ (z >> np.uint64(31))
    return h


def uniform(*parts: np.ndarray | int) -> np.ndarray:
    """Pseudo-random float64 in [0, 1) for each row of integers; arguments broadcast."""
    return (mixed(*parts) >> np.uint64(11)) * 2.0**-53


@dataclass
class BatchIndices:
    """One batch: `rows` (N,) of the pack, `mirror` (N,) bool = flip horizontally, `epoch` (N,) of each image."""

    rows: np.ndarray
    mirror: np.ndarray
    epoch: np.ndarray


class IndexSampler:
    """Endless shuffled sequence of pack rows. With several index lists (classes), each class is equally frequent."""

    def __init__(self, class_indices: Sequence[np.ndarray], seed: int, flip: str = "random") -> None:
        """class_indices: one array of rows per class, or a single array.

        flip: "random" = random for each (epoch, row); "both" = an epoch has each row and its mirror image; "none".
        """
        self.class_indices = [np.asarray(indices, dtype=np.int64) for indices in class_indices if len(indices)]
        if not self.class_indices:
            raise UserError("data: the training set is empty with these options; expected at least one image")
        self.seed, self.flip = seed, flip
        self._permutations: dict[tuple[int, int], np.ndarray] = {}

    def at(self, positions: np.ndarray) -> BatchIndices:
        """The images at these positions (N,) int64."""
        count, class_of = self._classes_at(positions)
        rows = np.empty(len(positions), np.int64)
        mirror = np.zeros(len(positions), bool)
        epoch = np.empty(len(positions), np.int64)
        for k, indices in enumerate(self.class_indices):
            length = len(indices) * (2 if self.flip == "both" else 1)
            of_class = np.flatnonzero(class_of == k)
            epoch[of_class] = count[of_class] // length
            for e in np.unique(epoch[of_class]):
                chosen = of_class[epoch[of_class] == e]
                shuffled = self._permutation(k, int(e), length)[count[chosen] - e * length]
                rows[chosen] = indices[shuffled % len(indices)]
                mirror[chosen] = shuffled >= len(indices)
        if self.flip == "random":
            mirror = (mixed(FLIP, self.seed, epoch, rows) & np.uint64(1)).astype(bool)
        return BatchIndices(rows, mirror, epoch)

    def _classes_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each position (N,): the count of earlier images of its class, and the class.

        Each block of K positions holds every one of the K classes once, in random order.
        """
        num_classes = len(self.class_indices)
        if num_classes == 1:
            return positions, np.zeros(len(positions), np.int64)
        block = positions // num_classes
        keys = mixed(CLASS_ORDER, self.seed, block[:, None], np.arange(num_classes)[None])
        class_of = np.argsort(keys, axis=1, kind="stable")[np.arange(len(positions)), positions % num_classes]
        return block, class_of

    def _permutation(self, k: int, epoch: int, length: int) -> np.ndarray:
        key = (k, epoch)
        if key not in self._permutations:
            # Keep two epochs of each class: a batch usually spans at most two.
            if len(self._permutations) > 2 * len(self.class_indices):
                self._permutations.pop(next(iter(self._permutations)))
            generator = np.random.Generator(np.random.Philox(key=int(mixed(SHUFFLE, self.seed, k, epoch)[0])))
            self._permutations[key] = generator.permutation(length)
        return self._permutations[key]


class PairSampler:
    """Draws, for each image, another image of the same person (and take, if known) with another expression."""

    def __init__(self, rows: np.ndarray, label: np.ndarray, identity: np.ndarray, take: np.ndarray | None) -> None:
        """All arrays are (N,). `rows` are pack rows. An image with label or identity -1 has no partner."""
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
        """Pack rows of the partners (N,), a function of (seed, epoch, row). All choices are equally likely."""
        place = self.place[rows]
        assert (place >= 0).all() and (self.choices[place] > 0).all()
        start, choices = self.group_start[place], self.choices[place]
        pick = start + (mixed(PAIR, seed, epoch, rows) % choices.astype(np.uint64)).astype(np.int64)
        # Skip the images with the same expression; they are consecutive.
        jump = np.where(pick >= self.same_start[place], self.same_end[place] - self.same_start[place], 0)
        return self.sorted_rows[pick + jump]


def _runs(*keys: np.ndarray) -> np.ndarray:
    """Number the runs of equal keys in sorted rows: (N,) index of the run of each row."""
    if not len(keys[0]):
        return np.zeros(0, np.int64)
    changes = np.any([np.diff(key, prepend=key[:1]) != 0 for key in keys], axis=0)
    return np.cumsum(changes)


def _bounds(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.searchsorted(runs, runs, "left"), np.searchsorted(runs, runs, "right")
