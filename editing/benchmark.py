"""One protocol for all families: the same faces, the same targets, decoded pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from data import DataConfig, build_faces
from data.drawn_reader import DrawnFaces
from data.request import Request
from editing.editor import Editor
from editing.export import export_edits
from evaluation.manifest import Row


@dataclass(frozen=True)
class BenchmarkFaces:
    """Test faces that every run edits. `drawn` knows the ground truth of drawn faces; None for others."""

    batch: dict[str, Tensor]
    meta: dict
    names: list[str]
    drawn: DrawnFaces | None


def benchmark_faces(cfg: DataConfig, n: int) -> BenchmarkFaces:
    """n test faces of a data set (0 = all): spread over it, expressions in turn; none is chosen by hand."""
    faces = build_faces(cfg)
    places = range(len(faces.test)) if not n or n >= len(faces.test) else faces.test.spread_places(n).tolist()
    batch = faces.test.take(list(places))
    drawn = DrawnFaces(cfg) if faces.meta["dataset"] == "synthetic" else None
    return BenchmarkFaces(batch, faces.meta, [f"test:{place}" for place in places], drawn)


def export_benchmark(editor: Editor, out: Path, faces: BenchmarkFaces, requests: Sequence[Request]) -> list[Row]:
    """The edits of one run, decoded, at strength 1, with reconstructions and (drawn faces) the ground truth."""
    subjects = editor.from_batch(faces.batch, faces.meta, faces.names)
    return export_edits(editor, out, subjects, requests, (1.0,), "decode", faces.drawn)
