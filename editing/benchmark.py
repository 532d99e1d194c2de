"""One protocol for all methods: every run edits the same test faces to the same targets, decoded, at strength 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from torch import Tensor

from data import DataConfig, build_faces
from data.drawn_reader import DrawnFaces
from data.emotions import class_order
from data.labels import label_table
from data.request import parse_request
from editing.editor import Editor
from editing.export import export_edits, ground_truth, rows_of, save_all, target_texts
from engine.errors import UserError
from evaluation.manifest import write_export, write_manifest


@dataclass(frozen=True)
class BenchmarkFaces:
    """The test faces that every run edits."""

    batch: dict[str, Tensor]  # as `data/README.md` defines it
    meta: dict
    names: list[str]  # test:<index>
    drawn: DrawnFaces | None  # gives the ground truth of drawn faces; None for other data


def benchmark_faces(cfg: DataConfig, n: int) -> BenchmarkFaces:
    """n test faces of a data set (0 = all), evenly spaced, expressions in turn."""
    faces = build_faces(cfg)
    places = range(len(faces.test)) if not n or n >= len(faces.test) else faces.test.spread_places(n).tolist()
    batch = faces.test.take(list(places))
    drawn = DrawnFaces(cfg) if faces.meta["dataset"] == "synthetic" else None
    return BenchmarkFaces(batch, faces.meta, [f"test:{place}" for place in places], drawn)


MAX_TRUTHS = 70  # ground truths that a run with slow encoding reconstructs, for gap closed


def class_targets(faces: BenchmarkFaces) -> list[str]:
    """Every expression of the data, in their usual order."""
    return [faces.meta["classes"][k] for k in class_order(faces.meta["classes"])]


def export_benchmark(
    editor: Editor, out: Path, faces: BenchmarkFaces, targets: Sequence[str], max_truths: int = MAX_TRUTHS
) -> dict[str, str]:
    """Export the edits of one run, with reconstructions and, for drawn faces, the ground truth.

    Args:
        targets: requests as text, as `happy` or `Smiling=flip`.
        max_truths: ground truths that are reconstructed if encoding is slow.

    Returns:
        {target: reason} of the targets that the run cannot do. They are left out of the export; if it can do none,
        nothing is written.
    """
    subjects = editor.from_batch(faces.batch, faces.meta, faces.names)
    possible, cannot, trial = [], {}, subjects.select([0])
    for text in targets:
        try:
            request = editor.parse(text)
            editor.target(trial, request)
            possible.append(request)
        except UserError as error:
            cannot[text] = str(error)
    if possible:
        limit = max_truths if editor.slow_encode else 0
        export_edits(editor, out, subjects, possible, (1.0,), "decode", faces.drawn, limit)
    return cannot


def export_sources(faces: BenchmarkFaces, targets: Sequence[str], folder: Path) -> Path:
    """Export the faces as edits of themselves to each target, with the ground truth: the input of the baselines."""
    folder.mkdir(parents=True, exist_ok=True)
    meta, batch, n = faces.meta, faces.batch, len(faces.names)
    table, classes = label_table(batch, meta), meta["classes"]
    sources = save_all(batch["image"], folder, "source", n)
    labels = [classes[k] if k >= 0 else "" for k in batch["label"].tolist()]
    common = [
        {"source": file, "source_index": f"{meta['dataset']}:{name}", "source_label": label}
        for file, name, label in zip(sources, faces.names, labels, strict=True)
    ]
    rows = []
    for number, text in enumerate(targets):
        request, truths = parse_request(text, classes, meta["attributes"]), [""] * n
        if faces.drawn is not None:
            truth = ground_truth(faces.drawn, meta, batch["index"].numpy(), request, table)
            truths = [""] * n if truth is None else save_all(truth, folder, f"truth{number}", n)
        edits = save_all(batch["image"], folder, f"edit{number}", n)
        rows += rows_of(edits, "edit", common, target=target_texts(request, table, meta), truth=truths)
    write_manifest(folder, rows)
    write_export(folder, SimpleNamespace(run="sources", step=0, sha256=""), meta, "edit", base="source")
    return folder
