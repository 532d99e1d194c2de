"""Folders that evaluation/ reads: PNGs, manifest.csv and export.json; on drawn faces with the true answers."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import synthetic
from data.drawn_reader import DrawnFaces
from data.request import Move, Request, parse_request
from engine import UserError
from engine.files import atomic_dir
from engine.grids import to_pil
from evaluation.manifest import Row, write_export, write_manifest
from flow.directions import label_names
from flow.edit import decode_photo
from flow.edit_modes import add_move, edited
from flow.session import Chosen, Session, add_split, spread


def run_export(args: argparse.Namespace) -> None:
    """Write what was asked for into --out."""
    if args.out is None:
        raise UserError("export: give a folder with --out")
    session = Session(args)
    with atomic_dir(args.out) as folder:
        rows, facts = export_samples(session, folder) if args.what == "sample" else export_faces(session, folder)
        write_manifest(folder, rows)
        write_export(folder, session.method.origin, session.meta, args.what, {}, n_bits=session.n_bits, **facts)
    print(f"wrote {len(rows)} images into {args.out}")


def export_samples(session: Session, folder: Path) -> tuple[list[Row], dict]:
    """Draws at --temperature; with labels in the shares of the training set, their expression as target."""
    args, labels = session.args, session.labels
    n = args.n or 1024
    eps = session.flow.noise(n, session.generator).cpu() * args.temperature
    y, targets = None, [""] * n
    if len(labels):
        y = labels.unknown(n)
        if labels.are_classes:
            drawn = torch.multinomial(labels.frequency.cpu(), n, True, generator=session.generator)
            y, targets = labels.encode(drawn.to(session.device)), [labels.names[k] for k in drawn.tolist()]
    names = save_all(session.pictures(eps, y), folder, "sample", list(range(n)))
    rows = [Row(name, "sample", target=target, seed=args.seed) for name, target in zip(names, targets, strict=True)]
    return rows, {"base": "", "temperature": args.temperature}


def export_faces(session: Session, folder: Path) -> tuple[list[Row], dict]:
    """Reconstructions, edits or transfers of --n faces spread over a split (0: all), with their sources."""
    args, meta, what = session.args, session.meta, session.args.what
    faces = session.split(args.split)
    batch = faces.take(spread(args.n, len(faces)))
    index, table = batch["index"].tolist(), session.table(batch)
    label = batch["label"].tolist() if meta["classes"] else [-1] * len(index)
    common = [
        {
            "source": source,
            "source_index": f"{meta['dataset']}:{args.split}:{i}",
            "source_label": meta["classes"][k] if k >= 0 else "",
            "seed": args.seed,
        }
        for source, i, k in zip(save_all(batch["image"], folder, "source", index), index, label, strict=True)
    ]
    if what == "reconstruction":
        y = session.labels.of(batch)
        parts = [
            decode_photo(session.flow, p.code.eps, session.n_bits, p.y, p.lost).cpu()
            for _, p in session.coded(batch["image"], y)
        ]
        names = save_all(torch.cat(parts), folder, what, index)
        return [Row(name, what, **c) for name, c in zip(names, common, strict=True)], {"base": "source"}
    if not args.attr:
        raise UserError(f"export --what {what}: say what to change, as --attr happy")
    request = parse_request(args.attr, meta["classes"], meta["attributes"])
    args.kind = "transfer" if what == "transfer" else args.kind
    images, facts = edited(session, args, Chosen(batch["image"], table, [None] * len(table), []), request)
    names = save_all(images[0], folder, "edit", index)
    answers = true_answers(session, batch["index"].numpy(), request, table)
    truths = [""] * len(names) if answers is None else save_all(answers, folder, "truth", index)
    strength = facts["gain"] if isinstance(facts["gain"], float) else 1.0
    rows = [
        Row(name, "edit", target=target, truth=truth, strength=strength, **c)
        for name, target, truth, c in zip(names, target_texts(request, table, meta), truths, common, strict=True)
    ]
    return rows, facts | {"attr": str(request), "split": args.split, "base": "source"}


def save_all(images: Tensor, folder: Path, kind: str, index: list[int]) -> list[str]:
    """One PNG an image, (N, C, H, H) in [-1, 1]; their names."""
    names = [f"{kind}_{i:06d}.png" for i in index]
    for name, image in zip(names, images, strict=True):
        to_pil(image).save(folder / name)
    return names


def sides(wish: Move, table: Tensor, meta: dict) -> Tensor:
    """The amount each face is asked to have, (N,) in [0, 1]."""
    if wish.form == "flip":
        return 1 - table[:, label_names(meta).index(wish.name)]
    if wish.form == "step":
        return torch.full((len(table),), float(wish.value > 0))
    return torch.full((len(table),), float(wish.value))


def target_texts(request: Request, table: Tensor, meta: dict) -> list[str]:
    """What each face was asked for, as the manifest writes it."""
    parts = []
    for wish in request:
        if wish.is_class:
            parts.append([wish.name if wish.value else "neutral"] * len(table))
        else:
            parts.append([f"{wish.name}={int(side > 0.5)}" for side in sides(wish, table, meta).tolist()])
    return [";".join(texts) for texts in zip(*parts, strict=True)]


def true_answers(session: Session, index: np.ndarray, request: Request, table: Tensor) -> Tensor | None:
    """Drawn faces (their rows of the pack: index) with the request fulfilled, (N, C, H, H) in [-1, 1].

    None for real faces, for steps, and where the drawing refuses (the hair colour of a bald head).
    """
    meta, cfg = session.meta, session.method.cfg.data
    if meta["dataset"] != "synthetic" or cfg.pair or any(wish.form == "step" for wish in request):
        return None
    factors = DrawnFaces(cfg).factors_of(index)
    try:
        for wish in request:
            if wish.is_class and not wish.value:
                wish = replace(wish, name="neutral", value=1.0)
            if wish.is_class:
                factors = synthetic.apply(factors, wish.name, wish.value if wish.form == "amount" else None)
            else:
                factors = synthetic.apply(factors, wish.name, sides(wish, table, meta).numpy())
    except UserError as error:
        print(f"no true answers: {error}")
        return None
    drawn = synthetic.render(factors, meta["image_size"], meta["channels"] == 1)
    return torch.from_numpy(drawn).float() / 127.5 - 1


def add_export(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    text = "transfer: an edit with --kind transfer"
    parser.add_argument("--what", choices=["sample", "reconstruction", "edit", "transfer"], required=True, help=text)
    add_split(parser)
    parser.add_argument("--n", type=int, default=0, help="images; 0: the whole split, or 1024 samples")
    parser.add_argument("--temperature", type=float, default=0.7, help="of samples")
    add_move(parser)
