"""Folders that evaluation/ reads: PNGs, manifest.csv and export.json; on drawn faces with the true answers."""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aae_cgan.edit import blend, class_order
from aae_cgan.photos import span
from aae_cgan.session import Session
from data.request import Request, parse_request
from engine import UserError
from evaluation.export import add_export, export_folder, rows_of, save_all, save_sources, target_texts, true_answers
from evaluation.manifest import Row


def run_export(args: argparse.Namespace) -> None:
    """Write what was asked for into --out."""
    session = Session(args)
    make = export_samples if args.what == "sample" else export_faces
    export_folder(session, lambda folder: make(session, folder), guides=guides_of(session))


def export_samples(session: Session, folder: Path) -> tuple[list[Row], dict]:
    """Draws of the prior, under all requests in turn (attributes: those of the test faces in turn)."""
    args, n = session.args, session.args.n or 1024
    z = torch.randn(n, session.method.cfg.model.latent_dim, generator=session.generator)
    if session.attributes:
        y = session.labels(session.split("test").fixed(n))[0].sign()
    else:
        y = torch.eye(len(session.names))[torch.arange(n) % len(session.names)]
    images = session.decode(z, y)
    names = save_all(images, folder, "sample", range(n))
    rows = [Row(name, "sample", target=whole_text(session, row), seed=args.seed) for name, row in zip(names, y)]
    return rows, {"base": ""}


def whole_text(session: Session, row: Tensor) -> str:
    """All of a request, as the manifest writes it."""
    if session.attributes:
        return ";".join(f"{name}={int(v > 0)}" for name, v in zip(session.names, row.tolist(), strict=True))
    return session.names[int(row.argmax())]


def export_faces(session: Session, folder: Path) -> tuple[list[Row], dict]:
    """Reconstructions, or edits as --attr asks (without it: to every target), of --n faces spread over a split."""
    args, meta = session.args, session.meta
    faces = session.split(args.split)
    batch = faces.fixed(args.n) if args.n and args.n < len(faces) else faces.take(np.arange(len(faces)))
    x, (y, _), table, index = batch["image"], session.labels(batch), session.table(batch), batch["index"]
    common = save_sources(session, folder, batch)
    z = session.encode(x)
    before = session.decode(z, y)
    if args.what == "reconstruction":
        return rows_of(save_all(before, folder, args.what, index.tolist()), args.what, common), {"base": "source"}
    rows: list[Row] = []
    asked = requests_of(session)
    for number, request in enumerate(asked):
        y_target = torch.cat([session.request_row(request, row[None]) for row in y])  # (N, K)
        answers = true_answers(session.method.cfg.data, meta, index.numpy(), request, table)
        truths = [""] * len(x) if answers is None else save_all(answers, folder, f"truth{number}", index.tolist())
        texts = target_texts(request, table, meta)
        for strength in strengths(args.strength):
            after = session.decode(z, torch.lerp(y, y_target, strength))
            edited = after if args.detail == "decode" else blend(x, before, after)
            names = save_all(edited, folder, f"edit{number}_{strength:g}", index.tolist())
            amount = strength * next((wish.value for wish in request if wish.form == "amount"), 1.0)
            truth = truths if strength == 1 else [""] * len(x)
            rows += rows_of(names, "edit", common, target=texts, truth=truth, strength=[amount] * len(x))
    facts = {"attr": [str(request) for request in asked], "detail": args.detail, "split": args.split}
    return rows, facts | {"base": "reconstruction" if args.detail == "decode" else "source"}


def requests_of(session: Session) -> list[Request]:
    """What --attr asks; without it each class in turn, or each attribute turned."""
    words = [" ".join(session.args.attr)] if session.args.attr else []
    if not words and session.attributes:
        words = [f"{name}=flip" for name in session.names]
    words = words or [session.names[i] for i in class_order(session.names)]
    return [parse_request(text, session.meta["classes"], session.meta["attributes"]) for text in words]


def strengths(text: str) -> list[float]:
    """`1` or `0:1.5:7`."""
    if ":" not in text:
        return [float(text)]
    ends, _, count = text.rpartition(":")
    if not count.isdigit() or ":" not in ends:
        raise UserError(f"--strength {text}: expected a number, or from:to:count as 0:1.5:7")
    return [round(v, 4) for v in torch.linspace(*span(ends), int(count)).tolist()]


def guides_of(session: Session) -> dict[str, str]:
    """The hash of the guide's weights, if there is one."""
    guide = session.method.guide
    return {} if guide is None else {f"{session.method.cfg.loss.guide} guide": guide.sha256()}


def add_aae_export(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    add_export(parser, ["edit", "reconstruction", "sample"])
    parser.add_argument("--attr", nargs="+", help="what to ask for: happy, happy=0.7, Smiling=flip; none: each target")
    parser.add_argument("--strength", default="1", help="of the edits: a number, or from:to:count as 0:1.5:7")
    parser.add_argument(
        "--detail", choices=["decode", "blend"], default="decode", help="keep the input's pixels or not"
    )
