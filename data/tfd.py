"""TFD, the Toronto Face Database: 102,236 grey faces of 48 or 96 px, 4,178 with an expression, in a MATLAB file."""

import numpy as np

from data.config import DataConfig
from data.decode import FAULTY_FILE
from data.emotions import EMOTIONS
from data.raw import TEST, TRAIN, VAL, Index, RawFaces, missing
from engine.errors import UserError

WHERE = "the authors (J. Susskind, A. Anderson, G. Hinton; University of Toronto), on request"
FOLDS = 5
# Value of a fold's column -> split; 0 is unlabelled.
PARTS = {1: TRAIN, 2: VAL, 3: TEST}


class TFD(RawFaces):
    """`TFD_48x48.mat` or `TFD_96x96.mat`. If both exist, the larger one is used for image sizes above 48 px."""

    options = ("unlabelled",)
    channels = 1
    eyes = [[-0.5625, -0.5625], [0.5625, -0.5625]]  # row 10, columns 10 and 37 of 48

    def __init__(self, cfg: DataConfig) -> None:
        super().__init__(cfg)
        found = [self.root] if self.root.is_file() else sorted(self.root.glob("TFD_*.mat"), key=lambda path: path.name)
        found = [path for path in found if "info" not in path.name.lower()]
        if not found:
            raise missing(self.root, "TFD", "TFD_48x48.mat or TFD_96x96.mat", WHERE)
        wanted = "96" if cfg.image_size > 48 else "48"
        self.path = next((path for path in found if f"_{wanted}x{wanted}" in path.name), found[0])
        self.sources = [self.path]

    def name(self, i: int) -> str:
        return f"{self.path.name}, image {self.rows[i]}"

    def read(self, i: int) -> np.ndarray:
        return self.images[self.rows[i]][:, :, None]

    def build_index(self) -> Index:
        stored = self._load()
        self.images = stored["images"]
        label, identity = self._column(stored["labs_ex"], "labs_ex"), self._column(stored["labs_id"], "labs_id")
        wrong = (label != -1) & ((label < 1) | (label > 7))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise UserError(f"{self.path}: labs_ex of image {row} is {label[row]}; expected -1 or 1 .. 7")
        folds = stored["folds"].astype(np.int64)
        if folds.shape != (len(label), FOLDS) or not np.isin(folds, (0, 1, 2, 3)).all():
            raise UserError(
                f"{self.path}: folds has shape {folds.shape} and values {np.unique(folds)[:8].tolist()}; "
                f"expected ({len(label)}, {FOLDS}) with 0 unlabelled, 1 train, 2 valid, 3 test"
            )
        labelled = label > 0
        self.rows = np.flatnonzero(labelled | self.cfg.unlabelled)
        splits = np.full((len(self.rows), FOLDS), TRAIN, np.int8)
        for value, part in PARTS.items():
            splits[folds[self.rows] == value] = part
        label, identity = label[self.rows], identity[self.rows]
        labels = {"label": np.where(label > 0, label - 1, -1), "identity": identity}
        labels |= {f"split_fold{k}": splits[:, k] for k in range(FOLDS)}
        return Index(splits[:, 0], labels, {"classes": list(EMOTIONS[:7])})

    def _load(self) -> dict[str, np.ndarray]:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        try:
            stored = loadmat(self.path)
        except (*FAULTY_FILE, MatReadError) as error:
            raise UserError(
                f"{self.path}: expected a MATLAB file of version 5 or 7 ({error}); get the file again"
            ) from None
        absent = [key for key in ("images", "labs_ex", "labs_id", "folds") if key not in stored]
        if absent:
            there = ", ".join(key for key in stored if not key.startswith("__"))
            raise UserError(
                f"{self.path}: the variable '{absent[0]}' is missing (the file has {there}); expected TFD's own file"
            )
        images = stored["images"]
        if images.ndim != 3 or images.shape[1] != images.shape[2] or images.dtype != np.uint8:
            raise UserError(
                f"{self.path}: images are {images.dtype} {images.shape}; expected uint8 (N, 48, 48) or (N, 96, 96)"
            )
        return stored

    def _column(self, values: np.ndarray, name: str) -> np.ndarray:
        column = np.asarray(values).reshape(-1).astype(np.int64)
        if len(column) != len(self.images):
            raise UserError(f"{self.path}: {name} has {len(column)} values for {len(self.images)} images")
        return column
