"""Densities and codes of many faces, in batches, for an open run."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.labels import label_table
from engine.checkpoint import save_fields
from flow.directions import Directions, Moments, directions_path, fit_directions, pooled
from flow.edit import CodedPhoto, encode_photo
from flow.likelihood import class_log_probs, image_bits
from losses.quantise import dequantise, to_levels

BATCH = 64  # images at once


def slices(n: int) -> Iterator[slice]:
    """The rows of each batch."""
    for start in range(0, n, BATCH):
        yield slice(start, start + BATCH)


def encode_batches(editor: Any, x: Tensor, y: Tensor | None) -> Iterator[tuple[slice, CodedPhoto]]:
    """Encode faces x (N, C, H, H) under y. Yields the rows and their codes, on the device."""
    for rows in slices(len(x)):
        y_rows = None if y is None else y[rows].to(editor.device)
        yield rows, encode_photo(editor.flow, x[rows].to(editor.device), editor.n_bits, y_rows)


def iterate_codes(editor: Any, split: str, limit: int = 0) -> Iterator[tuple[CodedPhoto, dict[str, Tensor]]]:
    """Encode a split under its own labels, batch by batch, at most `limit` faces (0 = all)."""
    done = 0
    for batch in editor.split(split).once(BATCH, editor.device):
        batch = {key: value[: limit - done] for key, value in batch.items()} if limit else batch
        yield encode_photo(editor.flow, batch["image"], editor.n_bits, editor.y_labels.of(batch)), batch
        done += len(batch["image"])
        if limit and done >= limit:
            return


def image_bits_of(
    editor: Any, x: Tensor, y: Tensor | None, draws: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Bits per dimension (N,) of faces x (N, C, H, H), on the CPU."""
    parts = []
    for rows in slices(len(x)):
        y_rows = None if y is None else y[rows].to(editor.device)
        part = image_bits(editor.flow, x[rows].to(editor.device), y_rows, editor.n_bits, draws, generator)
        parts.append(part.cpu())
    return torch.cat(parts)


def most_likely_labels(editor: Any, x: Tensor, y: Tensor | None) -> Tensor:
    """The label (N, K), one-hot or bits, that gives each face the highest density. y: the known bits."""
    parts = []
    for rows in slices(len(x)):
        v = dequantise(to_levels(x[rows].to(editor.device), editor.n_bits), editor.n_bits, 0.5)
        y_rows = None if y is None else y[rows].to(editor.device)
        parts.append(class_log_probs(editor.flow, editor.y_labels, v, y_rows).argmax(-1).cpu())
    named = torch.cat(parts)
    return F.one_hot(named, len(editor.y_labels)) if editor.y_labels.are_classes else named


def decode_codes(editor: Any, eps_flat: Tensor, y: Tensor | None) -> Tensor:
    """Codes (N, D), coarsest first -> v (N, C, H, H) before rounding. An exploded inverse still shows in v."""
    parts = []
    for rows in slices(len(eps_flat)):
        y_rows = None if y is None else y[rows].to(editor.device)
        parts.append(editor.flow.decode(editor.flow.unflatten(eps_flat[rows].to(editor.device)), y_rows).cpu())
    return torch.cat(parts)


def fit_run_directions(editor: Any, kind: str, limit: int = 0) -> Directions:
    """Fit directions in one pass over train and val. Writes `directions_<kind>.pt`."""
    meta = editor.meta
    moments = Moments(len(meta["attributes"]))
    train, val = [], []
    for photo, batch in iterate_codes(editor, "train", limit):
        table = label_table(batch, meta)
        moments.add(photo.code.flat().cpu(), table)
        train.append((pooled(photo.code.eps).cpu(), table))
    for photo, batch in iterate_codes(editor, "val"):
        val.append((pooled(photo.code.eps).cpu(), label_table(batch, meta)))
    both = [tuple(torch.cat(part) for part in zip(*codes_and_labels, strict=True)) for codes_and_labels in (train, val)]
    fitted = fit_directions(moments, *both, meta, kind, editor.provenance() | {"max": limit})
    save_fields(fitted, directions_path(editor.run_dir, kind))
    return fitted
