"""Image grids of a comparison: the same faces edited by every method, samples, and the worst edits."""

import textwrap
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from engine import Grid
from engine.grids import grid_image
from evaluation.eval_data import EvalData
from evaluation.folder import evenly_spaced

NUM_FACES, MAX_TARGETS = 8, 9


@dataclass
class Entry:
    """A method or a baseline in a comparison, with its results."""

    name: str
    result: dict  # of evaluation.run.evaluate
    command: str = ""  # that repeats the measurement
    is_baseline: bool = False
    run: str = ""  # run directory, "" = none

    @property
    def eval_data(self) -> EvalData:
        return self.result["eval_data"]


def source_key(eval_data: EvalData, row: int) -> str:
    """A key that is equal for the same source face in two exports: its pixels."""
    return eval_data.export.images[eval_data.export.source[row]].numpy().tobytes().hex()


def edits_of(eval_data: EvalData) -> dict[str, dict[str, int]]:
    """{source key: {target: row}} of the edits at full strength."""
    found: dict[str, dict[str, int]] = {}
    if eval_data.has("edit"):
        for i in eval_data.export.at_full_strength("edit").tolist():
            if eval_data.export.source[i] >= 0:
                found.setdefault(source_key(eval_data, i), {}).setdefault(eval_data.export.rows[i].target, i)
    return found


def shared_faces(entries: list[Entry]) -> tuple[list[str], list[str]]:
    """Source keys and targets to show: faces that all methods edited, if any; classes in turn."""
    tables = [edits_of(entry.eval_data) for entry in entries]
    tables = [table for table in tables if table]
    if not tables:
        return [], []
    common = set.intersection(*(set(table) for table in tables)) or set(tables[0])
    first, eval_data = tables[0], next(e.eval_data for e in entries if edits_of(e.eval_data))
    targets = sorted({target for table in tables for edits in table.values() for target in edits})[:MAX_TARGETS]
    groups: dict[str, list[str]] = {}
    for key, edits in first.items():
        if key in common:
            groups.setdefault(eval_data.export.rows[next(iter(edits.values()))].source_label, []).append(key)
    chosen: list[str] = []
    while len(chosen) < NUM_FACES and any(groups.values()):
        for label in sorted(groups):
            if groups[label] and len(chosen) < NUM_FACES:
                # Neighbours in a data set may be one person, so the position in the list advances.
                chosen.append(groups[label].pop(len(groups[label]) * len(chosen) // NUM_FACES))
    return chosen, targets


def face_sheets(entries: list[Entry]) -> list[Image.Image]:
    """One grid per face: source at the left, one column per target, one row per method, ground truth last if known."""
    chosen, targets = shared_faces(entries)
    tables, sheets = [edits_of(entry.eval_data) for entry in entries], []
    for key in chosen:
        rows, names, truth = [], [], None
        for entry, table in zip(entries, tables, strict=True):
            if key in table:
                rows.append(edit_row(entry.eval_data, table[key], targets))
                names.append("\n".join(textwrap.wrap(entry.name, 16)))
                truth = truth if truth is not None else truth_row(entry.eval_data, table[key], targets)
        if truth is not None:
            rows.append(truth)
            names.append("ground truth")
        channels, size = max(r.shape[1] for r in rows), max(r.shape[-1] for r in rows)
        sheets.append(
            grid_image(Grid(torch.stack([match_size(r, channels, size) for r in rows]), names, ["source", *targets]))
        )
    return sheets


def match_size(x: Tensor, channels: int, size: int) -> Tensor:
    """Images (K, C, H, W) in [-1, 1] with another number of channels and another size (nearest neighbour)."""
    x = x.expand(-1, channels, -1, -1)
    return x if x.shape[-1] == size else torch.nn.functional.interpolate(x, (size, size), mode="nearest")


def edit_row(eval_data: EvalData, edits: dict[str, int], targets: list[str]) -> Tensor:
    """Images (1 + T, C, H, W) in [-1, 1]: the source and its edits; white if there is no edit."""
    e = eval_data.export
    places = [
        int(e.source[next(iter(edits.values()))]),
        *(int(e.file[edits[t]]) if t in edits else -1 for t in targets),
    ]
    blank = torch.full_like(e.images[0], 250)
    return torch.stack([e.images[p] if p >= 0 else blank for p in places]).float() / 127.5 - 1


def truth_row(eval_data: EvalData, edits: dict[str, int], targets: list[str]) -> Tensor | None:
    """Images (1 + T, C, H, W) in [-1, 1]: the source and the ground truth of each target; None if unknown."""
    e = eval_data.export
    if not any(int(e.truth[i]) >= 0 for i in edits.values()):
        return None
    blank = torch.full_like(e.images[0], 250)
    places = [
        int(e.source[next(iter(edits.values()))]),
        *(int(e.truth[edits[t]]) if t in edits else -1 for t in targets),
    ]
    return torch.stack([e.images[p] if p >= 0 else blank for p in places]).float() / 127.5 - 1


def worst_sheet(entry: Entry) -> Image.Image | None:
    """The eight edits with the lowest probability of the target: sources above, edits below; None without edits."""
    metric = next((f for f in entry.result["metrics"] if f.key == "target accuracy"), None)
    if metric is None:
        return None
    e, worst = entry.eval_data.export, metric.detail["worst"]
    at = {row.file: i for i, row in enumerate(e.rows)}
    rows = [at[w["file"]] for w in worst if e.source[at[w["file"]]] >= 0]
    if not rows:
        return None
    columns = [f"{w['target']} {w['p']:.2f}\npredicted {w['predicted']}" for w in worst][: len(rows)]
    pair = torch.stack([e.images[e.source[rows]], e.images[e.file[rows]]]).float() / 127.5 - 1
    return grid_image(Grid(pair, ["source", "edit"], columns))


def sample_sheet(entry: Entry) -> Image.Image | None:
    """Twenty-four samples; None without samples."""
    if not entry.eval_data.has("sample"):
        return None
    rows = entry.eval_data.export.at_full_strength("sample")
    rows = rows[evenly_spaced(len(rows), 24)]
    rows = rows[: len(rows) // 8 * 8]
    if not len(rows):
        return None
    images = entry.eval_data.export.images[entry.eval_data.export.file[rows]].float() / 127.5 - 1
    return grid_image(Grid(images.unflatten(0, (-1, 8))))
