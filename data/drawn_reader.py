"""Drawn faces as a data set. They need no download, and all facts about a face are known exactly."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data import synthetic
from data.config import DataConfig
from data.raw import TEST, TRAIN, VAL, Index, RawFaces, digest

SPLITS = ("train", "val", "test")
DEFAULT_SIZES = (20_000, 2_000, 2_000)


class DrawnFaces(RawFaces):
    """Faces of `data.synthetic`. Train, val and test have different persons.

    With `pair: true`, every second face is the previous face with another expression. Pose, light and noise are equal.
    """

    options = ("num_train", "num_val", "num_test", "per_identity", "prior", "independent", "intensity", "seed", "pair")
    eyes = [list(eye) for eye in synthetic.EYES]

    def __init__(self, cfg: DataConfig) -> None:
        super().__init__(cfg)
        self.num_classes = 8 if "contempt" in cfg.classes else 7
        self.channels = 1 if cfg.grayscale else 3
        sizes = (cfg.num_train, cfg.num_val, cfg.num_test)
        self.sizes = [n or default for n, default in zip(sizes, DEFAULT_SIZES, strict=True)]
        # The index of each row in `data.synthetic`, and whether the row is the second face of a pair.
        self.numbers = np.concatenate([self._numbers(part) for part in (TRAIN, VAL, TEST)])
        self.second = np.concatenate([np.arange(size) % 2 == 1 for size in self.sizes])

    def fingerprint(self) -> str:
        """A hash of the drawing code."""
        folder = Path(synthetic.__file__).parent
        files = sorted([*folder.glob("synthetic*.py"), *folder.glob("drawn/*.py")])
        return digest([self.num_classes, *(path.read_text(encoding="utf-8") for path in files)])

    def build_index(self) -> Index:
        split = np.repeat(np.array([TRAIN, VAL, TEST], dtype=np.int8), self.sizes)
        chunks = [self._facts(rows) for rows in np.array_split(np.arange(len(split)), max(1, len(split) // 2048))]
        labels = {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}
        names = {
            "classes": list(synthetic.CLASSES[: self.num_classes]),
            "attributes": list(synthetic.ATTRIBUTES),
        }
        return Index(split, labels, names)

    def read(self, i: int) -> np.ndarray:
        return self.read_many([i])[0]

    def read_many(self, rows: Sequence[int]) -> list[np.ndarray]:
        faces = synthetic.render(self.factors_of(np.asarray(rows)), self.cfg.image_size, self.cfg.grayscale)
        return list(faces.transpose(0, 2, 3, 1))

    def _numbers(self, part: int) -> np.ndarray:
        """Indices of the drawn faces of one split. Both faces of a pair have the same number."""
        count = np.arange(self.sizes[part])
        if self.cfg.pair:
            count = count // 2
        return count + synthetic.SPLIT_OFFSET[SPLITS[part]] * self._per_identity()

    def _per_identity(self) -> int:
        return self.cfg.per_identity // 2 if self.cfg.pair else self.cfg.per_identity

    def factors_of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The factors (`data.synthetic.factors`) of pack rows (N,), as in `batch["index"]`.

        Changed with `synthetic.apply` and rendered, they give the ground truth of an edit.
        """
        cfg, rows = self.cfg, np.asarray(rows, np.int64)
        drawn = synthetic.factors(
            cfg.seed,
            self.numbers[rows],
            per_identity=self._per_identity(),
            prior=cfg.prior,
            independent=cfg.independent,
            classes=self.num_classes,
            intensity=(cfg.intensity[0], cfg.intensity[1]),
        )
        return self._second_of_pairs(drawn, rows) if cfg.pair else drawn

    def _second_of_pairs(self, drawn: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Give odd rows another expression. It rotates, so that all pairs of expressions are equally frequent."""
        number = self.numbers[rows]
        other = (drawn["expr"] + 1 + number % (self.num_classes - 1)) % self.num_classes
        target = np.where(self.second[rows], other, -1)
        result = {key: value.copy() for key, value in drawn.items()}
        for k in np.unique(target[target >= 0]):
            changed = synthetic.apply(drawn, synthetic.CLASSES[k])
            for key, value in changed.items():
                chosen = target == k
                result[key][chosen] = value[chosen]
        return result

    def _facts(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        drawn = self.factors_of(rows)
        size = self.cfg.image_size
        facts = {
            "label": drawn["expr"].astype(np.int64),
            "label_soft": self._intensity(drawn),
            "attr": synthetic.attributes(drawn).astype(np.float32),
            "identity": self.numbers[rows] // self._per_identity(),
            "landmarks": ((synthetic.landmarks(drawn) + 1) * (size / 2) - 0.5).astype(np.float32),
        }
        if self.cfg.pair:
            facts["take"] = self.numbers[rows]
        return facts

    def _intensity(self, drawn: dict[str, np.ndarray]) -> np.ndarray:
        """(N, K): the intensity in the column of the expression, the rest in the column of neutral. Rows sum to 1."""
        neutral = synthetic.CLASSES.index("neutral")
        soft = np.zeros((len(drawn["expr"]), self.num_classes), dtype=np.float32)
        rows = np.arange(len(soft))
        soft[rows, drawn["expr"]] = drawn["intensity"]
        soft[rows, neutral] = 1 - soft.sum(axis=1) + soft[rows, neutral]
        return soft
