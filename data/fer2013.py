"""FER2013: 35,887 grey faces of 48 x 48 px with seven expressions, as one csv, two csv files, or folders."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.config import DataConfig, home_path
from data.decode import BadImage, decode
from data.emotions import EMOTIONS, canonical
from data.folder import Entry, classify, scan
from data.raw import TEST, TRAIN, VAL, Index, RawFaces, digest, fingerprint_of, missing
from data.scan import is_hidden
from data.tables import read_text
from engine.errors import UserError

CLASSES: list[str] = list(EMOTIONS[:7])
USAGES = {"Training": TRAIN, "PublicTest": VAL, "PrivateTest": TEST}
VAL_FILES = ("val.csv", "valid.csv", "validation.csv")
SIDE = 48
WHERE = (
    "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge "
    "or https://www.kaggle.com/datasets/msambare/fer2013"
)
# Official numbers of images per class, angry .. neutral. Copies with files im<k>.png are numbered in this order.
PUBLIC_COUNTS = (467, 56, 496, 895, 653, 415, 607)
PRIVATE_COUNTS = (491, 55, 528, 879, 594, 416, 626)
FERPLUS_COLUMNS = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    *("unknown", "NF"),
)
FERPLUS_ORDER = [[canonical(name) for name in FERPLUS_COLUMNS].index(name) for name in CLASSES]
NOT_A_FACE = "not a face (FER+)"


@dataclass
class Rows:
    """For each row of the csv files: index of its file, byte offset and length of its pixels, label, usage, line."""

    file: list[int]
    start: list[int]
    length: list[int]
    label: list[int]
    usage: list[str]
    line: list[int]


class FER2013(RawFaces):
    """The first of `fer2013.csv`, `icml_face_data.csv`, `train.csv` + `test.csv`, or folders named by emotion."""

    options = ("ferplus",)
    channels = 1
    # Median over the 1,004 of 2,500 random faces in which OpenCV's Haar cascade finds two eyes, made symmetric.
    eyes = [[-0.38, -0.24], [0.38, -0.24]]

    def __init__(self, cfg: DataConfig) -> None:
        super().__init__(cfg)
        self.notes: list[str] = []
        self.files, self.entries = self._csv_files(), []
        if not self.files:
            self.entries, self.notes = scan(self.root)
        if not self.files and not self.entries:
            what = "fer2013.csv, icml_face_data.csv, train.csv (and test.csv), or train/ and test/ with emotion folders"
            raise missing(self.root, "FER2013", what, WHERE, "; ".join(self.notes))
        self.sources = list(self.files)
        self.votes_file = self._votes_file()
        if self.votes_file:
            self.sources.append(self.votes_file)
        self.handles: list[int] = []

    def fingerprint(self) -> str:
        pictures = fingerprint_of((entry.path for entry in self.entries), self.root)
        return digest([super().fingerprint(), pictures])

    def name(self, i: int) -> str:
        if self.entries:
            return self.entries[i].path.relative_to(self.root).as_posix()
        return f"{self.files[self.rows.file[i]].name}, line {self.rows.line[i]}"

    def read(self, i: int) -> np.ndarray:
        if self.entries:
            return decode(self.entries[i].path, self.name(i))
        file, start, length = self.rows.file[i], self.rows.start[i], self.rows.length[i]
        text = os.pread(self.handles[file], length, start)
        if text.translate(None, b"0123456789 "):
            raise BadImage(f"{self.name(i)}: the pixels are not integers in 0 .. 255")
        pixels = np.fromstring(text, dtype=np.int64, sep=" ")
        if len(pixels) != SIDE * SIDE:
            raise BadImage(f"{self.name(i)}: {len(pixels)} pixels, expected {SIDE * SIDE}")
        if pixels.max() > 255:
            raise BadImage(f"{self.name(i)}: a pixel is above 255")
        return pixels.astype(np.uint8).reshape(SIDE, SIDE, 1)

    def build_index(self) -> Index:
        return self._index_of_csv() if self.files else self._index_of_folders()

    # csv files

    def _csv_files(self) -> list[Path]:
        if self.root.is_file():
            return [self.root]
        for folder in (self.root, self.root / "fer2013"):
            for names in (("fer2013.csv",), ("icml_face_data.csv",), ("train.csv", *VAL_FILES, "test.csv")):
                if (folder / names[0]).is_file():
                    found = [folder / name for name in names if (folder / name).is_file()]
                    others = sorted(path.name for path in folder.glob("*.csv") if path not in found)
                    others = [name for name in others if not is_hidden(name) and name != self.cfg.ferplus]
                    if others:
                        self.notes.append(f"{folder}: {found[0].name} is used; {', '.join(others)} is ignored")
                    return found
        return []

    def _index_of_csv(self) -> Index:
        self.rows = Rows([], [], [], [], [], [])
        for number, path in enumerate(self.files):
            self.handles.append(os.open(path, os.O_RDONLY))
            _read_csv(path, number, self.rows)
        label = np.array(self.rows.label, np.int64)
        usage, notes = _usage_of_files(self.rows, self.files), list(self.notes)
        if (label < 0).any():
            notes.append(
                f"{self.files[-1]} has no labels; its {(label < 0).sum()} faces get label -1 (fer2013.csv has labels)"
            )
        split = np.array([USAGES[name] for name in usage], np.int8)
        labels, bad = {"label": label}, {}
        if self.votes_file:
            votes = _read_votes(self.votes_file, usage)
            labels["label_soft"] = _shares(votes)
            bad = {int(row): NOT_A_FACE for row in np.flatnonzero(votes[:, -1] > votes[:, :-1].max(axis=1))}
        return Index(split, labels, {"classes": CLASSES}, bad, notes)

    def _votes_file(self) -> Path | None:
        if not self.cfg.ferplus:
            return None
        if self.entries:
            raise UserError("data.ferplus: votes belong to rows of fer2013.csv, but data.root has folders of images")
        folder = self.root.parent if self.root.is_file() else self.root
        for path in (folder / self.cfg.ferplus, home_path(self.cfg.ferplus, "data.ferplus")):
            if path.is_file():
                return path
        raise missing(folder / self.cfg.ferplus, "FER+", "fer2013new.csv", "https://github.com/microsoft/FERPlus")

    # Folders

    def _index_of_folders(self) -> Index:
        label, present = classify(self.entries, self.root, [], dict(enumerate(CLASSES)))
        unknown = [name for name in present if name not in CLASSES]
        if unknown:
            raise UserError(
                f"{self.root}: FER2013 has no class '{unknown[0]}'; for another collection, set data.dataset: folder"
            )
        label = np.array([CLASSES.index(name) for name in present], np.int64)[label]
        named = [_usage_by_name(entry.path.name) for entry in self.entries]
        if all(usage is not None for usage in named):
            split = np.array(named, np.int8)
        else:
            split = np.array([TRAIN if e.split is None else e.split for e in self.entries], np.int8)
            split = _split_of_counted_names(self.entries, label, split)
        return Index(split, {"label": label}, {"classes": CLASSES}, {}, self.notes)


def _read_csv(path: Path, number: int, rows: Rows) -> None:
    """Store where the pixels of each row are. The pack reads the pixels later."""
    with open(path, "rb") as file:
        first = file.readline(10_000).decode("utf-8-sig", errors="replace")
        header = [name.strip().strip('"').strip().lower() for name in first.split(",")]
        if "pixels" not in header:
            raise UserError(f"{path}, line 1: there is no column 'pixels' (found {', '.join(header)[:80]!r}); expected "
                            "emotion,pixels,Usage as in Kaggle's fer2013.csv")  # fmt: skip
        if "emotion" not in header and path.name != "test.csv":
            raise UserError(f"{path}, line 1: there is no column 'emotion'; only test.csv may lack it")
        places = {name: header.index(name) for name in ("pixels", "emotion", "usage") if name in header}
        offset = file.tell()
        for line_number, line in enumerate(file, start=2):
            if line.strip():
                _note_row(path, number, line_number, line, offset, places, len(header), rows)
            offset += len(line)


def _note_row(
    path: Path, number: int, line_number: int, line: bytes, offset: int, places: dict, columns: int, rows: Rows
) -> None:
    cells = line.split(b",")
    where = f"{path}, line {line_number}"
    if len(cells) != columns:
        raise UserError(f"{where}: {len(cells)} cells, expected {columns}; the file is damaged, download it again")
    start = offset + sum(len(cell) + 1 for cell in cells[: places["pixels"]])
    cell = cells[places["pixels"]]
    inner = cell.strip().strip(b'"')
    rows.file.append(number)
    rows.start.append(start + cell.index(inner) if inner else start)
    rows.length.append(len(inner))
    rows.line.append(line_number)
    rows.label.append(_label(cells[places["emotion"]], where) if "emotion" in places else -1)
    usage = cells[places["usage"]].decode(errors="replace").strip().strip('"') if "usage" in places else ""
    if usage not in USAGES and "usage" in places:
        raise UserError(f"{where}: Usage: expected Training, PublicTest or PrivateTest, got '{usage[:40]}'")
    rows.usage.append(usage)


def _label(cell: bytes, where: str) -> int:
    text = cell.decode(errors="replace").strip().strip('"')
    if text not in ("0", "1", "2", "3", "4", "5", "6"):
        meaning = ", ".join(f"{k} {name}" for k, name in enumerate(CLASSES))
        raise UserError(f"{where}: emotion: expected 0 .. 6 ({meaning}), got '{text[:20]}'")
    return int(text)


def _usage_of_files(rows: Rows, files: list[Path]) -> list[str]:
    """The usage of every row. Without a column Usage, the file's name decides.

    If there is a val.csv, test.csv is PrivateTest. Otherwise it is PublicTest; in the whole official file, the rows
    after the 3,589 of PublicTest are PrivateTest.
    """
    names = [files[file].name for file in rows.file]
    test = [row for row, name in enumerate(names) if name == "test.csv" and not rows.usage[row]]
    has_val = any(path.name in VAL_FILES for path in files)
    whole = len(test) == sum(PUBLIC_COUNTS) + sum(PRIVATE_COUNTS)
    usage = [given or ("PublicTest" if name in VAL_FILES else "Training") for given, name in zip(rows.usage, names)]
    for place, row in enumerate(test):
        private = has_val or (whole and place >= sum(PUBLIC_COUNTS))
        usage[row] = "PrivateTest" if private else "PublicTest"
    return usage


def _usage_by_name(name: str) -> int | None:
    match = re.match(r"(Training|PublicTest|PrivateTest)_\d+", name)
    return USAGES[match.group(1)] if match else None


def _split_of_counted_names(entries: list[Entry], label: np.ndarray, split: np.ndarray) -> np.ndarray:
    """In a complete test folder of `im<k>.png`, the first images of each class are PublicTest, the rest PrivateTest."""
    test = np.flatnonzero(split == TEST)
    numbers = [entries[row].path.stem.removeprefix("im") for row in test]
    whole = np.bincount(label[test], minlength=7).tolist() == np.add(PUBLIC_COUNTS, PRIVATE_COUNTS).tolist()
    if not whole or not all(number.isdigit() for number in numbers):
        return split
    public = [int(number) < PUBLIC_COUNTS[label[row]] for number, row in zip(numbers, test, strict=True)]
    split = split.copy()
    split[test[public]] = VAL
    return split


def _read_votes(path: Path, usage: list[str]) -> np.ndarray:
    """(N, 10) votes, joined by row, because the numbers in FER+'s image names do not match the rows of fer2013.csv."""
    lines = read_text(path).splitlines()
    header = [name.strip() for name in lines[0].split(",")] if lines else []
    absent = [name for name in ("Usage", *FERPLUS_COLUMNS) if name not in header]
    if absent:
        raise UserError(f"{path}, line 1: there is no column '{absent[0]}'; expected FER+'s fer2013new.csv")
    rows = [line.split(",") for line in lines[1:] if line.strip()]
    if len(rows) < len(usage):
        raise UserError(f"{path}: {len(rows)} rows for {len(usage)} faces; expected one row per face of fer2013.csv")
    places = [header.index(name) for name in FERPLUS_COLUMNS]
    votes = np.zeros((len(usage), len(places)), np.int64)
    for number, (cells, expected) in enumerate(zip(rows, usage, strict=False)):
        where = f"{path}, line {number + 2}"
        if len(cells) != len(header):
            raise UserError(f"{where}: {len(cells)} cells, expected {len(header)}")
        if cells[header.index("Usage")].strip() != expected:
            raise UserError(f"{where}: Usage is {cells[header.index('Usage')]}, but this face is {expected}; "
                            "expected a file with the rows of fer2013.csv, in the same order")  # fmt: skip
        counts = [cells[place].strip() for place in places]
        if not all(count.isascii() and count.isdigit() for count in counts):
            raise UserError(f"{where}: expected ten integers (the votes)")
        votes[number] = counts
    return votes


def _shares(votes: np.ndarray) -> np.ndarray:
    """(N, 7) float32: the votes for the seven expressions, divided by their sum; zeros if there is no such vote."""
    seven = votes[:, FERPLUS_ORDER].astype(np.float32)
    return seven / np.maximum(seven.sum(axis=1, keepdims=True), 1)
