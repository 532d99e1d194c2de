"""Exports for `evaluation/`: PNG files, manifest.csv and export.json, in the same form for every family.

An export of drawn faces also has the ground truth.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import synthetic
from data.drawn_reader import DrawnFaces
from data.labels import label_names, requested_labels
from data.request import Request
from editing.editor import Editor
from editing.paint import DETAILS, paint
from editing.subjects import SPLITS, Subjects
from engine import UserError
from engine.files import atomic_dir
from engine.grids import to_pil
from evaluation.manifest import Row, write_export, write_manifest

KINDS = ("edit", "reconstruction", "sample")


def run_export(editor: Editor, args: argparse.Namespace) -> None:
    """Write the images of --what into --out."""
    from editing.modes import parse_strengths

    if args.out is None:
        raise UserError("export: --out is missing; give a folder")
    if args.what == "sample":
        rows = export_samples(editor, args.out, range(args.seed, args.seed + (args.n or 1024)))
    else:
        drawn = "read" in editor.unsupported
        names = [f"seed:{args.seed + i}" for i in range(args.n)] if drawn else editor.spread(args.split, args.n)
        faces = editor.subjects(names)
        if args.what == "reconstruction":
            rows = export_reconstructions(editor, args.out, faces)
        else:
            requests = [editor.parse(args.attr)] if args.attr else editor.targets()
            truth = DrawnFaces(editor.method.cfg.data) if editor.meta["dataset"] == "synthetic" and not drawn else None
            rows = export_edits(editor, args.out, faces, requests, parse_strengths(args.strength), args.detail, truth)
    print(f"wrote {len(rows)} images into {args.out}")


def export_edits(
    editor: Editor,
    out: Path,
    faces: Subjects,
    requests: Sequence[Request],
    strengths: Sequence[float] = (1.0,),
    detail: str = "decode",
    drawn: DrawnFaces | None = None,
    max_truths: int = 0,
) -> list[Row]:
    """Export edits of faces to each request, their sources and reconstructions, and the ground truth if it is known.

    Args:
        detail: see `editing.paint.paint`.
        drawn: reader of the drawn faces; `faces.batch["index"]` are its indices; None for other faces.
        max_truths: reconstruct at most this many ground truths, of the first faces for each request; 0 = all.
    """
    most = max(1, max_truths // len(requests)) if max_truths else len(faces)
    before, table, meta = editor.reconstruct(faces), editor.labels(faces), editor.meta
    with atomic_dir(out) as folder:
        common = save_sources(editor, folder, faces)
        rows = rows_of(save_all(before, folder, "base", len(faces)), "reconstruction", common)
        for number, request in enumerate(requests):
            truths = [""] * len(faces)
            truth, answered = true_answers(faces, meta, request, table, drawn)
            if answered:
                files = save_all(truth, folder, f"truth{number}", len(answered), answered)
                of_known = _with_images(editor, faces.select(answered), truth, request, table[answered])
                first = answered[:most]
                recon = editor.reconstruct(of_known.select(range(len(first))))
                names = save_all(recon, folder, f"truth_base{number}", len(first), first)
                about = [common[i] for i in first]
                rows += rows_of(names, "reconstruction", about, source=files[:most], source_label=[""] * len(first))
                for i, file in zip(answered, files, strict=True):
                    truths[i] = file
            texts = target_texts(request, table, meta)
            for strength, after in zip(strengths, editor.edit(faces, request, strengths), strict=True):
                edited = paint(faces.images, before, after, detail)
                names = save_all(edited, folder, f"edit{number}_{strength:g}", len(faces))
                amount = strength * next((item.value for item in request if item.form in ("amount", "step")), 1.0)
                known = truths if strength == 1 else [""] * len(faces)
                columns = {"target": texts, "truth": known, "strength": [amount] * len(faces)}
                rows += rows_of(names, "edit", common, **columns)
        base = "reconstruction" if detail == "decode" else "source"
        facts = {"attr": [str(request) for request in requests], "detail": detail, "base": base}
        _finish(editor, folder, rows, "edit", **facts)
    return rows


def export_reconstructions(editor: Editor, out: Path, faces: Subjects) -> list[Row]:
    """Export reconstructions of faces, and their sources."""
    with atomic_dir(out) as folder:
        names = save_all(editor.reconstruct(faces), folder, "reconstruction", len(faces))
        rows = rows_of(names, "reconstruction", save_sources(editor, folder, faces))
        _finish(editor, folder, rows, "reconstruction", base="source")
    return rows


def export_samples(editor: Editor, out: Path, seeds: Sequence[int]) -> list[Row]:
    """Export generated faces. Classes that the run is conditioned on are used in turn, equally often."""
    targets = [r for r in editor.targets() if set(r.names) <= set(editor.conditioned_on) and r.classes]
    groups = {i: list(seeds)[i :: len(targets)] for i in range(len(targets))} if targets else {-1: list(seeds)}
    with atomic_dir(out) as folder:
        rows = []
        for i, chosen in groups.items():
            for start in range(0, len(chosen), editor.batch_size):
                part = chosen[start : start + editor.batch_size]
                images = editor.draw(part, targets[i] if i >= 0 else None).images
                names = save_all(images, folder, "sample", len(part), part)
                text = targets[i].names[0] if i >= 0 else ""
                rows += [Row(name, "sample", target=text, seed=seed) for name, seed in zip(names, part, strict=True)]
        _finish(editor, folder, rows, "sample", base="")
    return rows


def _finish(editor: Editor, folder: Path, rows: list[Row], what: str, **facts: Any) -> None:
    write_manifest(folder, rows)
    write_export(folder, editor.method.origin, editor.meta, what, guides=editor.guides(), **editor.facts() | facts)


def _with_images(editor: Editor, faces: Subjects, images: Tensor, request: Request, table: Tensor) -> Subjects:
    """The ground truth (N, C, H, H) in [-1, 1] as faces of the editor, with the requested labels."""
    requested = requested_labels(request, table, editor.meta)
    changed, split = editor.from_images(images, faces.names), len(editor.meta["attributes"])
    if split:
        changed.batch["attr"] = requested[:, :split]
    if editor.meta["classes"]:
        y = requested[:, split:]
        changed.batch["label"] = torch.where(y.isnan().any(1), -1, y.nan_to_num().argmax(1))
    return changed


def save_all(images: Tensor, folder: Path, kind: str, n: int, numbers: Iterable[int] | None = None) -> list[str]:
    """Write images (N, C, H, H) in [-1, 1] as PNG files; their names."""
    names = [f"{kind}_{i:06d}.png" for i in (range(n) if numbers is None else numbers)]
    for name, image in zip(names, images, strict=True):
        to_pil(image).save(folder / name)
    return names


def save_sources(editor: Editor, folder: Path, faces: Subjects) -> list[dict[str, Any]]:
    """Write the source images; the common columns of the rows of each source."""
    names, classes = save_all(faces.images, folder, "source", len(faces)), editor.meta["classes"]
    label = faces.batch["label"].tolist() if classes else [-1] * len(faces)
    dataset = editor.meta["dataset"]
    return [
        {"source": file, "source_index": f"{dataset}:{name}", "source_label": classes[k] if k >= 0 else ""}
        for file, name, k in zip(names, faces.names, label, strict=True)
    ]


def rows_of(names: list[str], kind: str, common: list[dict[str, Any]], **each: list[Any]) -> list[Row]:
    """One row for each name. common: columns per row. each: further columns as lists."""
    return [
        Row(name, kind, **about | {key: values[i] for key, values in each.items()})
        for i, (name, about) in enumerate(zip(names, common, strict=True))
    ]


def target_texts(request: Request, table: Tensor, meta: dict) -> list[str]:
    """The target of each face in the form of the manifest; of a mixture of expressions the strongest one."""
    classes, parts = request.classes, []
    if classes:
        strongest = max(classes, key=lambda item: item.value)
        rest = "neutral" if "neutral" in meta["classes"] else ""
        parts.append([strongest.name if strongest.value else rest] * len(table))
    for item in request.attributes:
        if item.form == "step":
            sides = [int(item.value > 0)] * len(table)
        else:
            requested = requested_labels(Request((item,)), table, meta)[:, label_names(meta).index(item.name)]
            sides = (requested > 0.5).int().tolist()
        parts.append([f"{item.name}={side}" for side in sides])
    return [";".join(texts) for texts in zip(*parts, strict=True)]


def true_answers(
    faces: Subjects, meta: dict, request: Request, table: Tensor, drawn: DrawnFaces | None
) -> tuple[Tensor, list[int]]:
    """The ground truth (n, C, H, H) in [-1, 1] of those faces where it is known, and which these are.

    Drawn faces: all, drawn again with the request. Photo pairs (`data.pair`): the other photo of the person, where it
    shows the requested expression.

    Args:
        table: labels (N, L). drawn: reader of the drawn faces; `faces.batch["index"]` are its indices.
    """
    if drawn is not None:
        truth = ground_truth(drawn, meta, faces.batch["index"].numpy(), request, table)
        return (faces.images[:0], []) if truth is None else (truth, list(range(len(faces))))
    item = next(iter(request))
    if "pair_label" not in faces.batch or len(request) > 1 or not item.is_class or item.form != "set":
        return faces.images[:0], []
    known = (faces.batch["pair_label"] == meta["classes"].index(item.name)).nonzero()[:, 0].tolist()
    return faces.batch["pair_image"][known], known


def ground_truth(drawn: DrawnFaces, meta: dict, index: np.ndarray, request: Request, table: Tensor) -> Tensor | None:
    """The drawn faces after the request, (N, C, H, H) in [-1, 1]; None if there is no unique answer.

    There is none for steps (Smiling=+1), mixtures of expressions, and impossible edits (hair colour of a bald head).

    Args:
        index: rows (N,) of the pack. table: labels (N, L).
    """
    if len(request.classes) > 1 or any(item.form == "step" for item in request):
        return None
    try:
        factors = requested_factors(drawn.factors_of(index), request, table, meta)
    except UserError as error:
        print(f"no ground truth: {error}")
        return None
    images = synthetic.render(factors, meta["image_size"], meta["channels"] == 1)
    return torch.from_numpy(images).float() / 127.5 - 1


def requested_factors(
    factors: dict[str, np.ndarray], request: Request, table: Tensor, meta: dict
) -> dict[str, np.ndarray]:
    """Factors of drawn faces after the items of a request, in order."""
    for item in request:
        if item.is_class:
            amount = item.value if item.form == "amount" and item.value else None
            factors = synthetic.apply(factors, item.name if item.value else "neutral", amount)
        else:
            requested = requested_labels(Request((item,)), table, meta)[:, label_names(meta).index(item.name)]
            factors = synthetic.apply(factors, item.name, requested.numpy())
    return factors


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the options of `export`."""
    parser.add_argument("--what", choices=KINDS, required=True)
    parser.add_argument("--attr", nargs="+", action="extend", help="happy, Smiling=flip; default: each target in turn")
    parser.add_argument("--split", choices=SPLITS, default="test", help="split of the faces")
    parser.add_argument("--n", type=int, default=0, help="number of faces; 0: the whole split, or 1024 samples")
    parser.add_argument("--strength", default="1", help="a number, or from:to:count, as 0:1.5:7")
    parser.add_argument(
        "--detail",
        choices=DETAILS,
        default="decode",
        help="warp, blend: keep the input outside the edit; decode: output of the model",
    )
