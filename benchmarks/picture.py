"""The picture of the methods: rows are methods, columns the input and every expression, the ground truth below."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import DataConfig, build_faces
from data.drawn_reader import DrawnFaces
from data.labels import label_table
from data.request import parse_request
from editing.benchmark import BenchmarkFaces, class_targets
from editing.editor import Editor
from editing.export import ground_truth
from editing.judge import Judge
from engine import Grid, UserError


def first_faces(cfg: DataConfig, n: int) -> BenchmarkFaces:
    """The first test face of each of the first n persons of drawn faces; of other data the first n test faces."""
    faces = build_faces(cfg)
    drawn = DrawnFaces(cfg) if faces.meta["dataset"] == "synthetic" else None
    step = cfg.per_identity if drawn else 1
    places = [i * step for i in range(n) if i * step < len(faces.test)]
    return BenchmarkFaces(faces.test.take(np.array(places)), faces.meta, [f"test:{i}" for i in places], drawn)


def methods_grid(editors: Mapping[str, Editor], faces: BenchmarkFaces, judge: Path | None = None) -> Grid:
    """The first test faces under every method, with the judge's prediction below each tile.

    Args:
        editors: title of the row -> open run. A target that a run cannot do gives an empty tile with "not possible".
    """
    targets, x = class_targets(faces), faces.batch["image"].cpu()
    predict = caption_function(judge, editors)
    parts = {title: edited(editor, faces, targets) for title, editor in editors.items()}
    truth = truths(faces, targets)
    if truth is not None:
        parts["ground truth"] = truth
    images, rows, tiles = [], [], []
    for i in range(len(x)):
        for title, columns in parts.items():
            shown = [x[i], *(column[i] if column is not None else torch.full_like(x[i], 0.96) for column in columns)]
            images.append(torch.stack(shown))
            texts = predict(images[-1])
            rows.append(title)
            missing = [False, *(column is None for column in columns)]
            tiles.append(["not possible" if no else text for no, text in zip(missing, texts, strict=True)])
    return Grid(
        torch.stack(images), rows, ["input", *targets], tiles if judge or any(map(any_missing, parts.values())) else []
    )


def any_missing(columns: list[Tensor | None]) -> bool:
    """Whether a method cannot do one of the targets."""
    return any(column is None for column in columns)


def edited(editor: Editor, faces: BenchmarkFaces, targets: list[str]) -> list[Tensor | None]:
    """Edits (N, C, H, H) to each target; None where the run cannot do it."""
    subjects, found = editor.from_batch(faces.batch, faces.meta, faces.names), []
    for target in targets:
        try:
            found.append(editor.edit(subjects, editor.parse(target))[0])
        except UserError as error:
            print(f"{editor.run_dir} cannot do {target}: {error}")
            found.append(None)
    return found


def truths(faces: BenchmarkFaces, targets: list[str]) -> list[Tensor | None] | None:
    """The ground truth (N, C, H, H) of each target; None if it is not known."""
    if faces.drawn is None:
        return None
    meta, index, table = faces.meta, faces.batch["index"].numpy(), label_table(faces.batch, faces.meta)
    requests = [parse_request(target, meta["classes"], meta["attributes"]) for target in targets]
    return [ground_truth(faces.drawn, meta, index, request, table) for request in requests]


def caption_function(judge: Path | None, editors: Mapping[str, Editor]) -> Callable[[Tensor], list[str]]:
    """A function from images (K, C, H, H) to K captions, as `happy .97`; without a judge they are empty."""
    if judge is None:
        return lambda images: [""] * len(images)
    widest = max(editors.values(), key=lambda editor: len(editor.classes))
    return Judge(judge, widest).captions
