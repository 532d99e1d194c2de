"""Folders that evaluation/ reads: PNGs, manifest.csv and export.json; on drawn faces with the true answers."""

import argparse
from pathlib import Path

import torch

from data.request import parse_request
from engine import UserError
from evaluation.export import add_export, export_folder, rows_of, save_all, save_sources, target_texts, true_answers
from evaluation.manifest import Row
from evaluation.session import spread
from flow.edit import decode_photo
from flow.edit_modes import add_move, edited
from flow.session import Chosen, Session


def run_export(args: argparse.Namespace) -> None:
    """Write what was asked for into --out."""
    session = Session(args)
    make = export_samples if args.what == "sample" else export_faces
    export_folder(session, lambda folder: make(session, folder))


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
    names = save_all(session.pictures(eps, y), folder, "sample", range(n))
    rows = [Row(name, "sample", target=target, seed=args.seed) for name, target in zip(names, targets, strict=True)]
    return rows, {"base": "", "temperature": args.temperature}


def export_faces(session: Session, folder: Path) -> tuple[list[Row], dict]:
    """Reconstructions, edits or transfers of --n faces spread over a split (0: all), with their sources."""
    args, meta, what = session.args, session.meta, session.args.what
    faces = session.split(args.split)
    batch = faces.take(spread(args.n, len(faces)))
    index, table = batch["index"].tolist(), session.table(batch)
    common = save_sources(session, folder, batch)
    if what == "reconstruction":
        y = session.labels.of(batch)
        parts = [
            decode_photo(session.flow, p.code.eps, session.n_bits, p.y, p.lost).cpu()
            for _, p in session.coded(batch["image"], y)
        ]
        return rows_of(save_all(torch.cat(parts), folder, what, index), what, common), {"base": "source"}
    if not args.attr:
        raise UserError(f"export --what {what}: say what to change, as --attr happy")
    request = parse_request(args.attr, meta["classes"], meta["attributes"])
    args.kind = "transfer" if what == "transfer" else args.kind
    images, facts = edited(session, args, Chosen(batch["image"], table, [None] * len(table), []), request)
    names = save_all(images[0], folder, "edit", index)
    answers = true_answers(session.method.cfg.data, meta, batch["index"].numpy(), request, table)
    truths = [""] * len(names) if answers is None else save_all(answers, folder, "truth", index)
    strength = facts["gain"] if isinstance(facts["gain"], float) else 1.0
    asked = {"target": target_texts(request, table, meta), "truth": truths, "strength": [strength] * len(names)}
    facts |= {"attr": str(request), "split": args.split, "base": "source"}
    return rows_of(names, "edit", common, **asked), facts


def add_flow_export(parser: argparse.ArgumentParser) -> None:
    """The options of `export`; transfer is an edit with --kind transfer."""
    add_export(parser, ["sample", "reconstruction", "edit", "transfer"])
    parser.add_argument("--temperature", type=float, default=0.7, help="of samples")
    add_move(parser)
