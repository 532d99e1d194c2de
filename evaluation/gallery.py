"""Pictures of a comparison: the same faces through every method, and each method's worst edits."""

import textwrap
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from engine import Grid
from engine.grids import grid_image
from evaluation.eval_data import EvalData

FACES, COLUMNS = 8, 9  # shown


@dataclass
class Entry:
    """One line of the comparison: a method or a baseline, and what was found."""

    name: str
    result: dict  # of evaluation.run.evaluate
    command: str = ""  # that repeats the figures
    is_baseline: bool = False
    run: str = ""  # run directory, where there is one

    @property
    def eval_data(self) -> EvalData:
        return self.result["case"]


def source_key(eval_data: EvalData, row: int) -> str:
    """What says that two exports edited the same face: its pixels, so that numbering need not agree."""
    return eval_data.export.images[eval_data.export.source[row]].numpy().tobytes().hex()


def edits_of(eval_data: EvalData) -> dict[str, dict[str, int]]:
    """{source: {target: row}} at full strength."""
    found: dict[str, dict[str, int]] = {}
    if eval_data.has("edit"):
        for i in eval_data.export.main("edit").tolist():
            if eval_data.export.source[i] >= 0:
                found.setdefault(source_key(eval_data, i), {}).setdefault(eval_data.export.rows[i].target, i)
    return found


def shared_faces(entries: list[Entry]) -> tuple[list[str], list[str]]:
    """Sources and targets that the pictures show: first those that all methods edited, spread over the labels."""
    tables = [edits_of(entry.eval_data) for entry in entries]
    tables = [table for table in tables if table]
    if not tables:
        return [], []
    common = set.intersection(*(set(table) for table in tables)) or set(tables[0])
    first, eval_data = tables[0], next(e.eval_data for e in entries if edits_of(e.eval_data))
    targets = sorted({target for table in tables for edits in table.values() for target in edits})[:COLUMNS]
    groups: dict[str, list[str]] = {}
    for key, edits in first.items():
        if key in common:
            groups.setdefault(eval_data.export.rows[next(iter(edits.values()))].source_label, []).append(key)
    chosen: list[str] = []
    while len(chosen) < FACES and any(groups.values()):
        for label in sorted(groups):
            if groups[label] and len(chosen) < FACES:
                # Neighbours in a set may be one person: move on through the list.
                chosen.append(groups[label].pop(len(groups[label]) * len(chosen) // FACES))
    return chosen, targets


def face_sheets(entries: list[Entry]) -> list[Image.Image]:
    """One sheet a face: the real source at the left, a column a target, a row a method; the truth last if known."""
    chosen, targets = shared_faces(entries)
    tables, sheets = [edits_of(entry.eval_data) for entry in entries], []
    for key in chosen:
        rows, names, truth = [], [], None
        for entry, table in zip(entries, tables, strict=True):
            if key in table:
                rows.append(strip(entry.eval_data, table[key], targets))
                names.append("\n".join(textwrap.wrap(entry.name, 16)))
                truth = truth if truth is not None else truth_strip(entry.eval_data, table[key], targets)
        if truth is not None:
            rows.append(truth)
            names.append("ground truth")
        channels, size = max(r.shape[1] for r in rows), max(r.shape[-1] for r in rows)
        sheets.append(
            grid_image(Grid(torch.stack([like(r, channels, size) for r in rows]), names, ["source", *targets]))
        )
    return sheets


def like(x: Tensor, channels: int, size: int) -> Tensor:
    """(K, C, H, W) in [-1, 1] with so many channels, pixels repeated where another method's pictures are larger."""
    x = x.expand(-1, channels, -1, -1)
    return x if x.shape[-1] == size else torch.nn.functional.interpolate(x, (size, size), mode="nearest")


def strip(eval_data: EvalData, edits: dict[str, int], targets: list[str]) -> Tensor:
    """(1 + T, C, H, W) in [-1, 1]: the source and its edits; white where there is none."""
    e = eval_data.export
    places = [
        int(e.source[next(iter(edits.values()))]),
        *(int(e.file[edits[t]]) if t in edits else -1 for t in targets),
    ]
    blank = torch.full_like(e.images[0], 250)
    return torch.stack([e.images[p] if p >= 0 else blank for p in places]).float() / 127.5 - 1


def truth_strip(eval_data: EvalData, edits: dict[str, int], targets: list[str]) -> Tensor | None:
    """The same of the right answers; None where there are none."""
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
    """The eight edits that show least of what was asked for: source above, edit below."""
    metric = next((f for f in entry.result["figures"] if f.key == "target accuracy"), None)
    if metric is None:
        return None
    e, worst = entry.eval_data.export, metric.detail["worst"]
    at = {row.file: i for i, row in enumerate(e.rows)}
    rows = [at[w["file"]] for w in worst if e.source[at[w["file"]]] >= 0]
    if not rows:
        return None
    columns = [f"{w['target']} {w['p']:.2f} told {w['told']}" for w in worst][: len(rows)]
    pair = torch.stack([e.images[e.source[rows]], e.images[e.file[rows]]]).float() / 127.5 - 1
    return grid_image(Grid(pair, ["source", "edit"], columns))


def sample_sheet(entry: Entry) -> Image.Image | None:
    """Twenty-four samples, or nothing."""
    if not entry.eval_data.has("sample"):
        return None
    rows = entry.eval_data.subsample(entry.eval_data.export.main("sample"), 24)
    rows = rows[: len(rows) // 8 * 8]
    if not len(rows):
        return None
    images = entry.eval_data.export.images[entry.eval_data.export.file[rows]].float() / 127.5 - 1
    return grid_image(Grid(images.unflatten(0, (-1, 8))))
