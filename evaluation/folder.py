"""Folders of images as tensors: what an export holds, each picture read once, rows in an order of their own."""

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
    """One method's images. Rows are sorted by file, so that no figure depends on the manifest's order."""

    folders: list[Path]
    rows: list[Row]  # paths made absolute
    images: Tensor  # (M, C, H, W) uint8, every picture that a row names, once
    file: Tensor  # (N,) long: row -> its picture
    source: Tensor  # (N,) long, -1 = none
    truth: Tensor  # (N,) long, -1 = none
    base: Tensor  # (N,) long: what an edit starts from (the source's reconstruction, or the source), -1 = none
    truth_recon: Tensor  # (N,) long: the reconstruction of the truth, -1 = none
    weights: dict[str, str] = field(default_factory=dict)  # {sha256: what it is} of every network behind the images
    notes: list[str] = field(default_factory=list)
    facts: list[dict] = field(default_factory=list)  # the export.json of each folder

    def rows_where(self, keep: Callable[[Row], bool]) -> Tensor:
        """(n,) long: numbers of the rows for which `keep` holds."""
        return torch.tensor([i for i, row in enumerate(self.rows) if keep(row)], dtype=torch.long)

    def main(self, kind: str) -> Tensor:
        """Rows of a kind at full strength; where there is none at 1, the strength nearest to it."""
        strengths = sorted({row.strength for row in self.rows if row.kind == kind}, key=lambda s: (abs(s - 1), s))
        return self.rows_where(lambda row: row.kind == kind and row.strength == strengths[0])


def read_folders(folders: Sequence[str | Path], most: int = 0) -> Export:
    """Read one or several exports of one method.

    Args:
        most: at most so many rows, spread evenly over sources; 0 = all.

    Raises:
        UserError: what `read_manifest` says; a picture that cannot be decoded, or of another size than the first.
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
    rows, starts = _thinned(rows, starts, most)
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
    found = {fact["sha256"]: "the weights that made the images"} if fact.get("sha256") else {}
    return found | {
        digest: f"'{name}', which helped to make the images" for name, digest in (fact.get("guides") or {}).items()
    }


def _thinned(rows: list[Row], starts: list[str], most: int) -> tuple[list[Row], list[str]]:
    """Whole sources stay together: edits, their reconstructions and strengths."""
    if not most or len(rows) <= most:
        return rows, starts
    keys = [row.source_index or row.source or row.file for row in rows]
    unique = sorted(set(keys))
    count = max(1, len(unique) * most // len(rows))
    kept = {unique[i * len(unique) // count] for i in range(count)}
    kept |= {row.truth for row, key in zip(rows, keys, strict=True) if key in kept and row.truth}
    chosen = [i for i, key in enumerate(keys) if key in kept or rows[i].source in kept]
    return [rows[i] for i in chosen], [starts[i] for i in chosen]


def _bases(rows: list[Row], starts: list[str], place: dict[str, int]) -> tuple[Tensor, Tensor, list[str]]:
    """What each edit starts from, and the reconstruction of each truth, found among the rows of reconstructions."""
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
            f"{missing} edits start from a reconstruction that was not exported: leakage and gap closed are taken "
            "against the source; export the reconstructions into the same folder"
        )
    return torch.tensor(base), torch.tensor(truth_recon), notes


def read_images(paths: Sequence[str | Path]) -> Tensor:
    """Pictures of one size as (N, C, H, W) uint8; grey (C = 1) only if all are.

    Raises:
        UserError: a file cannot be decoded, or has another size than the first.
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
                f"{path}: is {size[0]} px and {paths[0]} is {size[1]}; all pictures of one export must agree"
            )
    channels = max((a.shape[2] for a in arrays), default=3)
    stack = np.stack([a if a.shape[2] == channels else a.repeat(3, axis=2) for a in arrays])
    return torch.from_numpy(np.ascontiguousarray(stack.transpose(0, 3, 1, 2)))


def content_hash(images: Tensor) -> str:
    """16 hex digits of shape and bytes of (N, C, H, W) uint8."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    for part in images.split(4096):
        digest.update(np.ascontiguousarray(part.numpy()))
    return digest.hexdigest()[:16]
