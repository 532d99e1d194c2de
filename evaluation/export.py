"""Folders that the judge reads, written alike by every family: PNGs, manifest.csv and export.json.

On drawn faces the true answers lie beside the edits.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import synthetic
from data.config import DataConfig
from data.drawn_reader import DrawnFaces
from data.labels import label_names
from data.request import Move, Request
from engine import UserError
from engine.files import atomic_dir
from engine.grids import to_pil
from evaluation.manifest import Row, write_export, write_manifest
from evaluation.session import Session, add_split


def export_folder(session: Session, make: Callable[[Path], tuple[list[Row], dict]], **facts: Any) -> None:
    """Write --out, whole or not at all: what `make(folder)` puts there, its rows, and its facts with `facts`."""
    args = session.args
    if args.out is None:
        raise UserError("export: give a folder with --out")
    with atomic_dir(args.out) as folder:
        rows, found = make(folder)
        write_manifest(folder, rows)
        write_export(folder, session.method.origin, session.meta, args.what, **session.facts | facts | found)
    print(f"wrote {len(rows)} images into {args.out}")


def save_all(images: Tensor, folder: Path, kind: str, index: Iterable[int]) -> list[str]:
    """One PNG an image, (N, C, H, H) in [-1, 1]; their names."""
    names = [f"{kind}_{i:06d}.png" for i in index]
    for name, image in zip(names, images, strict=True):
        to_pil(image).save(folder / name)
    return names


def save_sources(session: Session, folder: Path, batch: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Save the faces of a batch; what a manifest's rows about each have in common."""
    meta, args, index = session.meta, session.args, batch["index"].tolist()
    label = batch["label"].tolist() if meta["classes"] else [-1] * len(index)
    return [
        {
            "source": name,
            "source_index": f"{meta['dataset']}:{args.split}:{i}",
            "source_label": meta["classes"][k] if k >= 0 else "",
            "seed": args.seed,
        }
        for name, i, k in zip(save_all(batch["image"], folder, "source", index), index, label, strict=True)
    ]


def rows_of(names: list[str], kind: str, common: list[dict[str, Any]], **each: list[Any]) -> list[Row]:
    """A row for each of `names`; `each`: lists of values of single rows."""
    return [
        Row(name, kind, **about | {key: values[i] for key, values in each.items()})
        for i, (name, about) in enumerate(zip(names, common, strict=True))
    ]


def sides(wish: Move, table: Tensor, meta: dict) -> Tensor:
    """The amount of an attribute that each face, labels (N, L), is asked to have: (N,) in [0, 1]."""
    if wish.form == "flip":
        return 1 - table[:, label_names(meta).index(wish.name)]
    return torch.full((len(table),), float(wish.value > 0) if wish.form == "step" else float(wish.value))


def target_texts(request: Request, table: Tensor, meta: dict) -> list[str]:
    """What each face was asked for, as the manifest writes it; of a mixture of expressions the strongest."""
    shown = [wish for wish in request if wish.is_class]
    parts = []
    if shown:
        strongest = max(shown, key=lambda wish: wish.value)
        rest = "neutral" if "neutral" in meta["classes"] else ""
        parts.append([strongest.name if strongest.value else rest] * len(table))
    for wish in request:
        if not wish.is_class:
            parts.append([f"{wish.name}={int(side > 0.5)}" for side in sides(wish, table, meta).tolist()])
    return [";".join(texts) for texts in zip(*parts, strict=True)]


def true_answers(cfg: DataConfig, meta: dict, index: np.ndarray, request: Request, table: Tensor) -> Tensor | None:
    """Drawn faces (pack rows `index` (N,), labels (N, L)) with the request fulfilled: (N, C, H, H) in [-1, 1].

    None where nobody knows the answer: real faces, steps, mixtures of expressions, and where the drawing refuses (the
    hair colour of a bald head).
    """
    mixture = sum(wish.is_class for wish in request) > 1
    if meta["dataset"] != "synthetic" or mixture or any(wish.form == "step" for wish in request):
        return None
    try:
        factors = asked_factors(DrawnFaces(cfg).factors_of(index), request, table, meta)
    except UserError as error:
        print(f"no true answers: {error}")
        return None
    drawn = synthetic.render(factors, meta["image_size"], meta["channels"] == 1)
    return torch.from_numpy(drawn).float() / 127.5 - 1


def asked_factors(drawn: dict[str, np.ndarray], request: Request, table: Tensor, meta: dict) -> dict[str, np.ndarray]:
    """Factors of drawn faces with a request applied, one wish after the other."""
    for wish in request:
        if wish.is_class:
            amount = wish.value if wish.form == "amount" and wish.value else None
            drawn = synthetic.apply(drawn, wish.name if wish.value else "neutral", amount)
        else:
            drawn = synthetic.apply(drawn, wish.name, sides(wish, table, meta).numpy())
    return drawn


def add_export(parser: argparse.ArgumentParser, what: Iterable[str]) -> None:
    """The options of every `export`."""
    parser.add_argument("--what", choices=list(what), required=True)
    add_split(parser)
    parser.add_argument("--n", type=int, default=0, help="faces; 0: the whole split, or 1024 samples")
