"""Exports (folders of images with a manifest) as tensors."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.decode import BadImage, decode
from engine.errors import UserError
from evaluation.manifest import Row, read_export, read_manifest


@dataclass
class Export:
    """The images of one method. Rows are sorted by file, so metrics do not depend on the order in the manifest."""

    folders: list[Path]
    rows: list[Row]  # N rows, with absolute paths
    images: Tensor  # (M, C, H, W) uint8: every image that a row names, once
    file: Tensor  # (N,) long: index into `images` of each row's image
    source: Tensor  # (N,) long: index of its source, -1 = none
    truth: Tensor  # (N,) long: index of its ground truth, -1 = none
    base: Tensor  # (N,) long: index of the image that strength 0 gives (reconstruction of the source, or the source)
    truth_recon: Tensor  # (N,) long: index of the reconstruction of the ground truth, -1 = none
    weights: dict[str, str] = field(default_factory=dict)  # {sha256: description} of each network behind the images
    notes: list[str] = field(default_factory=list)
    facts: list[dict] = field(default_factory=list)  # export.json of each folder

    def rows_where(self, keep: Callable[[Row], bool]) -> Tensor:
        """(n,) long: indices of the rows for which `keep` is true."""
        return torch.tensor([i for i, row in enumerate(self.rows) if keep(row)], dtype=torch.long)

    def at_full_strength(self, kind: str) -> Tensor:
        """(n,) long: rows of one kind at strength 1, or at the strength nearest to 1."""
        strengths = sorted({row.strength for row in self.rows if row.kind == kind}, key=lambda s: (abs(s - 1), s))
        return self.rows_where(lambda row: row.kind == kind and row.strength == strengths[0])


def read_folders(folders: Sequence[str | Path], max_images: int = 0) -> Export:
    """Read one or several exports of one method.

    Args:
        max_images: maximum number of rows, spread evenly over the sources; 0 = all.

    Raises:
        UserError: see `read_manifest` and `read_images`.
    """
    rows, starts, facts, weights = [], [], [], {}
    for folder in map(Path, folders):
        fact = read_export(folder)
        facts.append(fact)
        weights |= _weights(fact)
        for row in read_manifest(folder):
            paths = {
                k: str((folder / v).resolve())
                for k in ("file", "source", "truth", "landmarks")
                if (v := getattr(row, k))
            }
            rows.append(Row(**{**row.__dict__, **paths}))
            starts.append(fact.get("base") or "")
    order = sorted(range(len(rows)), key=lambda i: rows[i].file)
    rows, starts = [rows[i] for i in order], [starts[i] for i in order]
    rows, starts = _subsample(rows, starts, max_images)
    paths = sorted({path for row in rows for path in (row.file, row.source, row.truth) if path})
    place = {path: i for i, path in enumerate(paths)}
    at = lambda names: torch.tensor([place.get(name, -1) for name in names], dtype=torch.long)  # noqa: E731
    base, truth_recon, notes = _bases(rows, starts, place)
    return Export(
        [Path(f) for f in folders],
        rows,
        read_images(paths),
        at([r.file for r in rows]),
        at([r.source for r in rows]),
        at([r.truth for r in rows]),
        base,
        truth_recon,
        weights,
        notes,
        facts,
    )


def _weights(fact: dict) -> dict[str, str]:
    found = {fact["sha256"]: "the network that made the images"} if fact.get("sha256") else {}
    return found | {
        digest: f"the network '{name}', which was used to make the images"
        for name, digest in (fact.get("guides") or {}).items()
    }


def _subsample(rows: list[Row], starts: list[str], max_images: int) -> tuple[list[Row], list[str]]:
    """Keep about max_images rows. All rows of one source (edits, reconstructions, strengths) are kept or dropped."""
    if not max_images or len(rows) <= max_images:
        return rows, starts
    keys = [row.source_index or row.source or row.file for row in rows]
    unique = sorted(set(keys))
    count = max(1, len(unique) * max_images // len(rows))
    kept = {unique[i] for i in evenly_spaced(len(unique), count).tolist()}
    kept |= {row.truth for row, key in zip(rows, keys, strict=True) if key in kept and row.truth}
    chosen = [i for i, key in enumerate(keys) if key in kept or rows[i].source in kept]
    return [rows[i] for i in chosen], [starts[i] for i in chosen]


def _bases(rows: list[Row], starts: list[str], place: dict[str, int]) -> tuple[Tensor, Tensor, list[str]]:
    """`base` and `truth_recon` of an Export, and notes. Both are found among the rows of kind reconstruction."""
    by_file = {row.source: row.file for row in rows if row.kind == "reconstruction" and row.source}
    by_index = {row.source_index: row.file for row in rows if row.kind == "reconstruction" and row.source_index}
    base, truth_recon, missing = [], [], 0
    for row, start in zip(rows, starts, strict=True):
        recon = by_file.get(row.source) or by_index.get(row.source_index)
        wants = start == "reconstruction" or (start == "" and recon is not None)
        missing += row.kind == "edit" and start == "reconstruction" and recon is None
        base.append(place[recon] if wants and recon else place.get(row.source, -1))
        truth_recon.append(place.get(by_file.get(row.truth, ""), -1) if row.truth else -1)
    notes = []
    if missing:
        notes.append(
            f"the reconstructions of {missing} edits are missing: leakage and gap closed use the source instead; "
            "export the reconstructions into the same folder"
        )
    return torch.tensor(base), torch.tensor(truth_recon), notes


def read_images(paths: Sequence[str | Path]) -> Tensor:
    """Images of one size as (N, C, H, W) uint8; C = 1 if all images are grey, else 3.

    Raises:
        UserError: a file cannot be decoded, or its size differs from the first file's; names the file.
    """
    from tqdm import tqdm

    arrays = []
    for path in tqdm(paths, desc="reading images", disable=None, leave=False):
        try:
            arrays.append(decode(Path(path), str(path)))
        except BadImage as error:
            raise UserError(f"{error}; export it again") from None
        if arrays[-1].shape[:2] != arrays[0].shape[:2]:
            size = "{1} x {0}".format(*arrays[-1].shape), "{1} x {0}".format(*arrays[0].shape)
            raise UserError(
                f"{path}: is {size[0]} px, but {paths[0]} is {size[1]} px; all images of one export must have one size"
            )
    channels = max((a.shape[2] for a in arrays), default=3)
    stack = np.stack([a if a.shape[2] == channels else a.repeat(3, axis=2) for a in arrays])
    return torch.from_numpy(np.ascontiguousarray(stack.transpose(0, 3, 1, 2)))


def content_hash(images: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of shape and bytes of images (N, C, H, W) uint8."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    for part in images.split(4096):
        digest.update(np.ascontiguousarray(part.numpy()))
    return digest.hexdigest()[:16]


def evenly_spaced(count: int, n: int) -> Tensor:
    """(min(count, n),) long: n indices evenly spaced over range(count); all of them for n = 0 or n >= count."""
    return torch.arange(count) if not n or n >= count else torch.arange(n) * count // n
