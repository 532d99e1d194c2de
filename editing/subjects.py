"""The faces that an editor edits: faces of the data, photos, generated faces."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from data.photo import AlignedFace
from data.scan import list_images
from engine import UserError

SPLITS = ("train", "val", "test")
Code = dict[str, Tensor]  # tensors (N, ...) on the CPU; an editor always uses the same keys


@dataclass(eq=False)
class Subjects:
    """N faces of one editor: a batch as in training, with names.

    `batch` follows the contract of `data/README.md`: image (N, C, H, H) in [-1, 1], label (N,) with -1 = unknown, attr
    (N, A) with NaN = unknown, index (N,) with -1 = not in the pack. `code` is made once, by `Editor.codes`, and kept.
    """

    batch: dict[str, Tensor]
    names: list[str]  # test:12, me.jpg, or seed:7 (a generated face)
    photos: list[AlignedFace | None] = field(default_factory=list)
    code: Code | None = None
    given: bool = False  # the labels come from --from, not from the data

    def __post_init__(self) -> None:
        self.photos = self.photos or [None] * len(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def images(self) -> Tensor:
        """(N, C, H, H) in [-1, 1]."""
        return self.batch["image"]

    def select(self, rows: Sequence[int]) -> "Subjects":
        """The faces at these indices, in this order."""
        at = torch.as_tensor(list(rows), dtype=torch.long)
        code = None if self.code is None else {key: value[at] for key, value in self.code.items()}
        return Subjects(
            {key: value[at] for key, value in self.batch.items()},
            [self.names[i] for i in at.tolist()],
            [self.photos[i] for i in at.tolist()],
            code,
            self.given,
        )


def join(parts: Sequence[Subjects]) -> Subjects:
    """Concatenate Subjects. Batch keys that one of them lacks are dropped; codes are kept if all have them."""
    keys = [key for key in parts[0].batch if all(key in part.batch for part in parts)]
    codes = [part.code for part in parts]
    code = None
    if all(c is not None for c in codes):
        code = {key: torch.cat([c[key] for c in codes]) for key in codes[0]}
    return Subjects(
        {key: torch.cat([part.batch[key] for part in parts]) for key in keys},
        [name for part in parts for name in part.names],
        [photo for part in parts for photo in part.photos],
        code,
    )


def face_number(name: str, kind: str) -> int | None:
    """The number in `test:12` (kind "test") or `seed:7` (kind "seed"); None for another name.

    Raises:
        UserError: the part after the colon is not a number.
    """
    head, colon, number = name.partition(":")
    if not colon or head != kind:
        return None
    if not number.isascii() or not number.isdigit():
        raise UserError(f"{name}: expected a number after '{kind}:', as {kind}:0")
    return int(number)


def is_face_name(word: str) -> bool:
    """True if a word of the command line names a face of the data or a generated face."""
    return bool(re.fullmatch(rf"({'|'.join(SPLITS)}|seed):\d+", word))


def expand_folders(names: Sequence[str]) -> list[str]:
    """Replace each folder by the images in it and in its subfolders, in natural order; prints what is left out.

    Raises:
        UserError: a folder without images.
    """
    found: list[str] = []
    for name in names:
        if is_face_name(name) or not Path(name).is_dir():
            found.append(name)
            continue
        pictures, note = list_images(name)
        if note:
            print(f"{name}: {note}", file=sys.stderr)
        if not pictures:
            raise UserError(f"{name}: the folder has no image; expected files such as me.jpg or me.png")
        found += [str(p) for p in pictures]
    return found


def load_each(names: Sequence[str], load: Callable[[str], AlignedFace]) -> list[tuple[str, AlignedFace]]:
    """[(name, load(name))] of the photos. A photo that cannot be used is reported on stderr and skipped.

    Raises:
        UserError: no photo can be used.
    """
    loaded, errors = [], []
    for name in names:
        try:
            loaded.append((name, load(name)))
        except UserError as error:
            errors.append(str(error))
    if errors and not loaded:
        raise UserError("; ".join(errors) if len(errors) == 1 else "no photo could be used:\n  " + "\n  ".join(errors))
    for error in errors:
        print(f"skipped: {error}", file=sys.stderr)
    return loaded
