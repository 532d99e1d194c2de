"""CelebA: aligned faces of 178 x 218 px with 40 attributes, persons and five landmarks; images in a folder or a zip.

Labels and images are joined by image name. The number of rows in line 1 of the text files is ignored, because subsets
keep the official number.
"""

import os
import random
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.config import DataConfig
from data.decode import BadImage, decode
from data.raw import IMAGE_SUFFIXES, TEST, TRAIN, Index, RawFaces, digest, fingerprint_of, missing
from data.scan import is_hidden, is_image_name
from data.tables import read_text
from engine.errors import UserError

WHERE = "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (Google Drive, 'Align&Cropped Images' and 'Anno')"
FOLDERS = ("", "celeba", "CelebA", "Img", "Anno", "Eval")  # in the official download, torchvision and mirrors
IMAGES = "img_align_celeba"
READ_LABELS = "labels_read.json"  # written by evaluation.label: attributes that a classifier read
KINDS = (IMAGES, f"{IMAGES}_png")  # the second is the official set of png files; the tables still name jpg files
STARGAN_SEED, STARGAN_TEST = 1234, 1999  # yunjey/stargan shuffles the lines; the first 1,999 are the test set


@dataclass
class Table:
    """One annotation file: a row of numbers for each image name."""

    path: Path
    names: list[str]
    header: list[str]
    values: np.ndarray  # (N, columns) int64; float64 if a value is not an integer
    lines: list[int]  # line number of each row, for messages

    def joined(self, names: list[str], absent: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows in the order of `names`, and (N,) bool: the table has a row for this name.

        A name without a row gets the value `absent` in all columns.

        Raises:
            UserError: two different rows for one image.
        """
        place: dict[str, int] = {}
        for i, name in enumerate(self.names):
            first = place.setdefault(_key(name), i)
            if first != i and (self.values[first] != self.values[i]).any():
                raise UserError(
                    f"{self.path}, line {self.lines[i]}: {name} is also on line {self.lines[first]}, with other "
                    "values; expected one row per image; remove one of the two"
                )
        # Only png files may use the rows of jpg names. Otherwise the table of another set could match by chance.
        found = [place.get(_key(name), place.get(_key(name).removesuffix(".png") + ".jpg", -1)) for name in names]
        rows = np.array(found, np.int64)
        return np.where(rows[:, None] >= 0, self.values[rows], absent), rows >= 0


def _key(name: str) -> str:
    return name.lower()


class CelebA(RawFaces):
    """`root/` with `img_align_celeba/` or `img_align_celeba.zip`, and CelebA's text files or Kaggle's csv files."""

    options = ("attr_values",)
    auto_crop = "celeba"
    crop_width = 178
    eyes = [[-0.2157, 0.0248], [0.2169, 0.0239]]  # means of the official landmarks: (69.3, 111.2) and (107.8, 111.1) px

    def __init__(self, cfg: DataConfig) -> None:
        super().__init__(cfg)
        self.found_notes: list[str] = []
        self.zip: zipfile.ZipFile | None = None
        self.archive, self.folder, self.members = self._find_images()
        stems = {
            "attr": "list_attr_celeba",
            "split": "list_eval_partition",
            "identity": "identity_CelebA",
            "landmarks": "list_landmarks_align_celeba",
        }
        self.texts = {key: path for key, stem in stems.items() if (path := self._find_text(stem))}
        self.measures_eyes = "landmarks" not in self.texts

    def fingerprint(self) -> str:
        texts = fingerprint_of(self.texts.values(), self.root.parent)
        if self.folder:
            return digest([texts, fingerprint_of((self.folder / name for name in self.members), self.folder)])
        assert self.archive is not None  # there is a folder or an archive
        return digest([texts, fingerprint_of([self.archive], self.root.parent), zlib.crc32(_tail(self.archive))])

    def name(self, i: int) -> str:
        return self.members[i]

    def read(self, i: int) -> np.ndarray:
        name = self.members[i]
        if self.folder:
            return decode(self.folder / name, name)
        assert self.zip is not None and self.archive is not None  # build_index opens it
        try:
            data = self.zip.read(self.paths[name])
        # zipfile raises the last two for an unknown compression and for a password.
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise BadImage(f"{self.archive.name}/{name}: cannot be read ({error})") from None
        return decode(data, name)

    def build_index(self) -> Index:
        if self.archive:
            self.members = self._open_zip(self.archive)
        notes = list(self.found_notes)
        labels: dict[str, np.ndarray] = {}
        names: dict[str, list[str]] = {}
        tables = {key: read_table(path) for key, path in self.texts.items()}
        if "attr" in tables:
            order = tables["attr"].names
            labels["attr"], names["attributes"] = self._attributes(tables["attr"], notes)
        else:
            order = sorted(self.members)
            notes.append(f"{self.root}: list_attr_celeba.txt is missing, so the faces have no attributes")
        if "identity" in tables:
            labels["identity"] = self._column(tables["identity"], 0, None)[:, 0]
        if "landmarks" in tables:
            columns = 4 if tables["landmarks"].values.shape[1] == 4 else 10  # 4: the eyes alone (scripts/align.py)
            points, known = self._joined(tables["landmarks"], columns, 0)
            labels["landmarks"] = np.full((len(points), 5, 2), np.nan, np.float32)
            labels["landmarks"][known, : columns // 2] = points.reshape(len(points), -1, 2)[known]
        if (self.texts_folder / READ_LABELS).is_file():
            notes.append(
                f"{self.texts_folder / READ_LABELS}: some labels were read by a classifier, not given by people"
            )
        split = np.full(len(self.members), TRAIN, np.int8)
        if "split" in tables:
            split = self._column(tables["split"], 0, 2)[:, 0].astype(np.int8)
            if (split < 0).any():
                notes.append(
                    f"{(split < 0).sum()} images are not in {self.texts['split'].name}; they are used for training"
                )
                split[split < 0] = TRAIN
        labels["split_stargan"] = stargan_split(order, self.members)
        return Index(split, labels, names, {}, notes)

    # Files

    def _find_images(self) -> tuple[Path | None, Path | None, list[str]]:
        """The zip or the folder, whichever has more images (the other is None), and the sorted image names."""
        folder, names = self._find_folder()
        places = (
            [self.root] if self.root.suffix == ".zip" else [self.root / f / f"{k}.zip" for k in KINDS for f in FOLDERS]
        )
        archive = next((path for path in places if path.is_file()), None)
        if archive and not names:
            return archive, None, []  # build_index opens it: to list 200,000 names takes a second
        if archive:
            try:
                zipped = self._open_zip(archive)
            except UserError as error:
                self.found_notes.append(f"{folder} is used, because {error}")
            else:
                if len(zipped) > len(names):
                    self.found_notes.append(
                        f"{folder} has {len(names)} of the {len(zipped)} images of {archive.name}; the zip is used"
                    )
                    return archive, None, zipped
        if folder and names:
            return None, folder, names
        what = f"{IMAGES}/ or {IMAGES}.zip, list_attr_celeba.txt, list_eval_partition.txt, identity_CelebA.txt"
        empty = f"{folder} has no images; expected {folder}/000001.jpg, ..." if folder else ""
        raise missing(self.root, "CelebA", what, WHERE, empty)

    def _find_folder(self) -> tuple[Path | None, list[str]]:
        """The first usual folder that has images, else the first that exists, else None; and the image names."""
        empty = None
        for kind in KINDS:
            for parent in FOLDERS:
                folder = self.root / parent / kind
                # Kaggle's copy has this folder inside a folder of the same name.
                for path in (folder / kind, folder):
                    if not path.is_dir():
                        continue
                    names = sorted(e.name for e in os.scandir(path) if is_image_name(e.name) and e.is_file())
                    if names:
                        return path, names
                    empty = empty or path
        return empty, []

    def _open_zip(self, archive: Path) -> list[str]:
        try:
            self.zip = zipfile.ZipFile(archive)
        except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeDecodeError) as error:
            size = archive.stat().st_size
            raise UserError(
                f"{archive}: this zip file is damaged ({error}). It has {size:,} bytes; the official file has "
                "1,443,490,838. Download it again"
            ) from None
        self.paths: dict[str, str] = {}
        for path in self.zip.namelist():
            parts = path.replace("\\", "/").split("/")  # zips from Windows may have backslashes
            if any(map(is_hidden, parts)) or os.path.splitext(parts[-1])[1].lower() not in IMAGE_SUFFIXES:
                continue
            if parts[-1] in self.paths:
                raise UserError(
                    f"{archive}: two images have the same name ({self.paths[parts[-1]]} and {path}); expected "
                    f"{IMAGES}/ only"
                )
            self.paths[parts[-1]] = path
        if not self.paths:
            raise UserError(f"{archive}: the zip has no images; expected {IMAGES}/000001.jpg .. 202599.jpg")
        return sorted(self.paths)

    @property
    def texts_folder(self) -> Path:
        """The folder of the text files."""
        return self.root.parent if self.root.is_file() else self.root

    def _find_text(self, stem: str) -> Path | None:
        places = [self.texts_folder / parent / f"{stem}{suffix}" for parent in FOLDERS for suffix in (".txt", ".csv")]
        there = [path for path in places if path.is_file()]
        if len(there) > 1:
            self.found_notes.append(f"{there[0]} is used; {', '.join(map(str, there[1:]))} is ignored")
        return there[0] if there else None

    # Labels

    def _joined(self, table: Table, columns: int, absent: int) -> tuple[np.ndarray, np.ndarray]:
        if table.values.shape[1] != columns:
            raise UserError(
                f"{table.path}, line {table.lines[0]}: {table.values.shape[1]} values after the image name, "
                f"expected {columns}"
            )
        rows, known = table.joined(self.members, absent)
        if not known.any():
            raise UserError(
                f"{table.path}: no row belongs to an image of {self.folder or self.archive} (the table has "
                f"{table.names[0]}, the images {self.members[0]}); expected the table of this data set"
            )
        return rows, known

    def _column(self, table: Table, low: int, high: int | None) -> np.ndarray:
        """(N, 1) values in low .. high, in the order of the images; -1 if an image has no row."""
        wrong = (table.values[:, :1] < low) | (table.values[:, :1] > (high if high is not None else np.inf))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            expected = f"{low} .. {high}" if high is not None else f"a number >= {low}"
            raise UserError(
                f"{table.path}, line {table.lines[row]}: value {table.values[row, 0]} for {table.names[row]}; "
                f"expected {expected}"
            )
        if table.values.dtype != np.int64:
            raise UserError(f"{table.path}: a value is not an integer; expected integers")
        return self._joined(table, 1, -1)[0]

    def _attributes(self, table: Table, notes: list[str]) -> tuple[np.ndarray, list[str]]:
        """Attributes (N, A) in {0, 1, NaN}, and their names."""
        if not table.header:
            raise UserError(f"{table.path}: the attribute names are missing; expected CelebA's list_attr_celeba.txt")
        low = -1 if self.cfg.attr_values == "-1/1" else 0
        wrong = (table.values != low) & (table.values != 1)
        if wrong.any():
            row, column = (int(v) for v in np.argwhere(wrong)[0])
            other = "; if 0 means no in this file, set data.attr_values: 0/1" if table.values[row, column] == 0 else ""
            raise UserError(
                f"{table.path}, line {table.lines[row]}: {table.header[column]} is {table.values[row, column]} for "
                f"{table.names[row]}; expected {low} or 1{other}"
            )
        rows, known = self._joined(table, len(table.header), low)
        if not known.all():
            notes.append(f"{(~known).sum()} images are not in {table.path.name}; their attributes are unknown")
        surplus = len(table.names) - int(known.sum())
        if surplus:
            notes.append(f"{surplus} rows of {table.path.name} have no image in {self.folder or self.archive}")
        return np.where(known[:, None], rows == 1, np.nan).astype(np.float32), table.header


def read_table(path: Path) -> Table:
    """Read one annotation file.

    Any line ending is accepted. Blanks, tabs, commas or semicolons may separate the values. Headers are optional, and
    so is a first column of row numbers.

    Raises:
        UserError: there is no row, a row has more or fewer values than the others, or a value is not a number.
    """
    text = read_text(path).replace('"', "").replace("\t", " ")
    rows = text.splitlines()
    sample = next((line for line in rows if any(s in line.lower() for s in IMAGE_SUFFIXES)), "")
    mark = "," if "," in sample else ";" if ";" in sample else " "
    numbered = mark != " " and not _is_image(sample.partition(mark)[0]) and _is_image(sample.split(mark)[1])
    names, rests, lines, header = [], [], [], []
    for number, line in enumerate(rows, start=1):
        line = line.partition(mark)[2] if numbered else line.strip()
        name, _, rest = line.partition(mark)
        name = name.strip()
        if not line.strip():
            continue
        if _is_image(name):
            names.append(name)
            rests.append(rest)
            lines.append(number)
        elif names:
            raise UserError(f"{path}, line {number}: expected an image name such as 000001.jpg, got '{name[:30]}'")
        elif rest or not (name.isascii() and name.isdigit()):
            header = [word.strip() for word in line.split(mark)] if mark != " " else line.split()
    if not names:
        raise UserError(f"{path}: no row starts with an image name; expected rows such as '000001.jpg 1 -1'")
    if header and len(header) == _count(rests[0], mark) + 1:
        header = header[1:]  # csv files also name the first column
    expected = len(header) if len(header) > 1 else _count(rests[0], mark)
    return Table(path, names, header, _numbers(path, rests, lines, names, expected, mark), lines)


def _is_image(name: str) -> bool:
    return os.path.splitext(name.strip())[1].lower() in IMAGE_SUFFIXES


def _count(rest: str, mark: str) -> int:
    return len(rest.split(mark)) if mark != " " else len(rest.split())


def _numbers(path: Path, rests: list[str], lines: list[int], names: list[str], expected: int, mark: str) -> np.ndarray:
    """(N, expected) int64, or float64 if a value is not an integer.

    All rows are parsed at once, because 8 million separate strings would need half a gigabyte. If that fails, each row
    is checked to find the faulty one.
    """
    if not any(_count(rest, mark) != expected for rest in rests):
        text = " ".join(rests).replace(mark, " ")
        if not text.translate(str.maketrans("", "", "0123456789-+. ")):
            values = np.fromstring(text, dtype=np.float64 if "." in text else np.int64, sep=" ")
            if len(values) == expected * len(rests):
                whole = values.astype(np.int64)
                return (whole if (whole == values).all() else values).reshape(len(rests), expected)
    for rest, line, name in zip(rests, lines, names, strict=True):
        words = rest.split(mark) if mark != " " else rest.split()
        if len(words) != expected:
            raise UserError(
                f"{path}, line {line}: {len(words)} values for {name}, expected {expected}; the file is damaged, "
                "download it again"
            )
        for word in words:
            if not (word.strip().lstrip("+-").isascii() and word.strip().lstrip("+-").isdigit()):
                raise UserError(f"{path}, line {line}: expected an integer, got '{word[:30]}'")
    raise UserError(f"{path}: the numbers cannot be read; the file is damaged, download it again")


def stargan_split(lines: list[str], members: list[str]) -> np.ndarray:
    """StarGAN's split: shuffle the lines of the attribute file with seed 1234; the first 1,999 are the test set."""
    order = list(lines)
    random.Random(STARGAN_SEED).shuffle(order)
    test = set(order[:STARGAN_TEST])
    return np.array([TEST if name in test else TRAIN for name in members], np.int8)


def _tail(path: Path) -> bytes:
    """The last 64 KiB, which hold the end of the zip's directory with sizes and CRCs."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 65_536))
        return file.read()
