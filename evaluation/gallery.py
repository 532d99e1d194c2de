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
NOT_SHOWN = ("no edit", "ground truth")  # the source column shows the one, the last row the other


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
    # The order of the exports; a set would lose it.
    complete = sorted(tables, key=lambda table: -max(len(edits) for edits in table.values()))  # some lack targets
    targets = list(dict.fromkeys(target for table in complete for edits in table.values() for target in edits))
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
    return chosen, targets[:MAX_TARGETS]


@dataclass(frozen=True)
class Tile:
    """The image, the prediction of the judge, and whether it equals the target (None: there is no target)."""

    image: Tensor | None  # (C, H, W) in [-1, 1]; None: not there
    verdict: str = ""
    correct: bool | None = None


@dataclass(frozen=True)
class FaceRows:
    """One face under every method: rows of a name and one tile for the source and each target."""

    columns: list[str]
    rows: list[tuple[str, list[Tile]]]


def face_rows(entries: list[Entry]) -> list[FaceRows]:
    """The picture: rows are the methods and, if known, the ground truth; columns are the source and the targets."""
    chosen, targets = shared_faces(entries)
    shown = [entry for entry in entries if entry.name not in NOT_SHOWN]
    tables, found = {entry.name: edits_of(entry.eval_data) for entry in entries}, []
    for key in chosen:
        rows = [(e.name, edit_tiles(e.eval_data, tables[e.name][key], targets)) for e in shown if key in tables[e.name]]
        holder = max((e for e in entries if key in tables[e.name]), key=lambda e: len(tables[e.name][key]))
        truth = truth_tiles(holder.eval_data, tables[holder.name][key], targets)
        found.append(FaceRows(["source", *targets], rows + ([("ground truth", truth)] if truth else [])))
    return found


def edit_tiles(eval_data: EvalData, edits: dict[str, int], targets: list[str]) -> list[Tile]:
    """The source and its edits; a tile without image where there is no edit."""
    e, first = eval_data.export, next(iter(edits.values()))
    places = [(int(e.file[edits[target]]), target) if target in edits else (-1, target) for target in targets]
    return [tile(eval_data, int(e.source[first]), ""), *(tile(eval_data, *place) for place in places)]


def truth_tiles(eval_data: EvalData, edits: dict[str, int], targets: list[str]) -> list[Tile]:
    """The source and the ground truth of each target; empty if it is unknown."""
    e, first = eval_data.export, next(iter(edits.values()))
    places = [(int(e.truth[edits[target]]) if target in edits else -1, target) for target in targets]
    if all(place < 0 for place, _ in places):
        return []
    return [tile(eval_data, int(e.source[first]), ""), *(tile(eval_data, *place) for place in places)]


def tile(eval_data: EvalData, place: int, target: str) -> Tile:
    """The image of an export at an index, -1 = none, with the prediction of the judge for a target ("" = none)."""
    if place < 0:
        return Tile(None)
    return Tile(eval_data.export.images[place].float() / 127.5 - 1, *verdict(eval_data, place, target))


def verdict(eval_data: EvalData, place: int, target: str) -> tuple[str, bool | None]:
    """`happy .97`, the class that the judge predicts; or the probability of the target attribute, `Smiling .97`."""
    attributes = [part.partition("=")[::2] for part in target.split(";") if "=" in part]
    for predictions in eval_data.judges:
        p, k = predictions.probabilities("fake")[place], len(predictions.classes)
        if not attributes and k:
            best = int(p[:k].argmax())
            name = predictions.classes[best]
            return f"{name} {short(p[best])}", (name == target if target else None)
        if attributes and attributes[0][0] in predictions.attributes:
            name, value = attributes[0]
            share = float(p[k + predictions.attributes.index(name)])
            return f"{name} {short(share)}", (share > 0.5) == (value == "1")
    return "", None


def short(p: float | Tensor) -> str:
    """A probability with two digits: .97, 1.0."""
    text = f"{float(p):.2f}"
    return text[1:] if text.startswith("0") else text[:3]


def face_sheets(faces: list[FaceRows]) -> list[Image.Image]:
    """One grid per face, with the prediction of the judge below each tile."""
    sheets = []
    for face in faces:
        images = [t.image for _, tiles in face.rows for t in tiles if t.image is not None]
        channels, size = max(x.shape[0] for x in images), max(x.shape[-1] for x in images)
        blank = torch.full((channels, size, size), 250 / 127.5 - 1)
        rows = [
            torch.stack([blank if t.image is None else match_size(t.image[None], channels, size)[0] for t in tiles])
            for _, tiles in face.rows
        ]
        names = ["\n".join(textwrap.wrap(name, 16)) for name, _ in face.rows]
        texts = [[t.verdict for t in tiles] for _, tiles in face.rows]
        sheets.append(grid_image(Grid(torch.stack(rows), names, face.columns, texts)))
    return sheets


def match_size(x: Tensor, channels: int, size: int) -> Tensor:
    """Images (K, C, H, W) in [-1, 1] with another number of channels and another size (nearest neighbour)."""
    x = x.expand(-1, channels, -1, -1)
    return x if x.shape[-1] == size else torch.nn.functional.interpolate(x, (size, size), mode="nearest")


def worst_sheet(entry: Entry) -> Image.Image | None:
    """The eight edits with the lowest probability of the target: source, edit and, if known, the ground truth of each;
    None without edits."""
    metric = next((f for f in entry.result["metrics"] if f.key == "target accuracy"), None)
    if metric is None:
        return None
    e, worst = entry.eval_data.export, metric.detail["worst"]
    at = {row.file: i for i, row in enumerate(e.rows)}
    rows = [at[w["file"]] for w in worst if e.source[at[w["file"]]] >= 0]
    if not rows:
        return None
    columns = [f"{w['target']} {w['p']:.2f}\npredicted {w['predicted']}" for w in worst][: len(rows)]
    kinds = {"source": e.source[rows], "edit": e.file[rows]}
    kinds |= {"ground truth": e.truth[rows]} if (e.truth[rows] >= 0).all() else {}
    images = torch.stack([e.images[places] for places in kinds.values()]).float() / 127.5 - 1
    return grid_image(Grid(images, list(kinds), columns))


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
