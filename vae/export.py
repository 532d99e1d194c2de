"""Folders that evaluation/ reads: PNGs, manifest.csv and export.json; on drawn faces with the true answers."""

import argparse
from pathlib import Path

from data.request import parse_request
from engine import UserError
from engine.files import sha256
from evaluation.export import add_export, export_folder, rows_of, save_all, save_sources, target_texts, true_answers
from evaluation.manifest import Row, weights_sha256
from evaluation.session import spread
from vae.edit import add_move, paint
from vae.editor import open_editor
from vae.prior import DENSITIES, draw_codes
from vae.session import Session
from vae.train import BetaVAE


def run_export(args: argparse.Namespace) -> None:
    """Write what was asked for into --out."""
    session = Session(args)
    make = export_samples if args.what == "sample" else export_faces
    export_folder(session, lambda folder: make(session, folder), guides=guides_of(session.method))


def export_samples(session: Session, folder: Path) -> tuple[list[Row], dict]:
    """Draws from the prior."""
    args = session.args
    images = session.decode(draw_codes(session, args.n or 1024, args.density))
    names = save_all(images, folder, "sample", list(range(len(images))))
    return [Row(name, "sample", seed=args.seed) for name in names], {"base": "", "density": args.density}


def export_faces(session: Session, folder: Path) -> tuple[list[Row], dict]:
    """Reconstructions or edits of --n faces spread over a split (0: all), with their sources."""
    args, meta = session.args, session.meta
    faces = session.split(args.split)
    batch = faces.take(spread(args.n, len(faces)))
    x, index = batch["image"], batch["index"].tolist()
    common = save_sources(session, folder, batch)
    mu = session.encode(x)
    before = session.decode(mu)
    if args.what == "reconstruction":
        return rows_of(save_all(before, folder, "reconstruction", index), "reconstruction", common), {"base": "source"}
    if not args.attr:
        raise UserError("export --what edit: say what to change, as --attr Smiling=flip")
    request = parse_request(args.attr, meta["classes"], meta["attributes"])
    labels = session.table(batch)
    editor = open_editor(session, args.kind, args.k, args.match, args.keep)
    after = session.decode(editor.move(mu, request, labels))
    # What an edit starts from, and how well the answer itself could be drawn: between them lies the gap to close.
    beside = rows_of(save_all(before, folder, "base", index), "reconstruction", common)
    answers = true_answers(session.method.cfg.data, meta, batch["index"].numpy(), request, labels)
    truths = [""] * len(x)
    if answers is not None:
        truths = save_all(answers, folder, "truth", index)
        drawn = save_all(session.reconstruct(answers), folder, "truth_base", index)
        beside += rows_of(drawn, "reconstruction", common, source=truths, source_label=[""] * len(x))
    strength = next((wish.value for wish in request if wish.form in ("amount", "step")), 1.0)
    names = save_all(paint(x, before, after, args.detail), folder, "edit", index)
    asked = {"target": target_texts(request, labels, meta), "truth": truths, "strength": [strength] * len(x)}
    facts = {"attr": str(request), "kind": args.kind, "detail": args.detail, "split": args.split}
    facts["base"] = "reconstruction" if args.detail == "decode" else "source"
    if editor.probe:
        facts["guides"] = guides_of(session.method) | {"probe": weights_sha256(editor.probe)}
    return rows_of(names, "edit", common, **asked) + beside, facts


def guides_of(method: BetaVAE) -> dict[str, str]:
    """Hashes of networks other than the VAE that shaped its weights."""
    w = method.cfg.loss
    if w.features == "vgg19":
        return {"vgg19": sha256(w.vgg19_weights) if Path(w.vgg19_weights).is_file() else w.vgg19_weights}
    if w.features == "own":
        return {"own features": weights_sha256(method.feature_net)}
    return {}


def add_vae_export(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    add_export(parser, ["sample", "reconstruction", "edit"])
    parser.add_argument("--density", choices=DENSITIES, default="normal", help="of the codes of samples")
    add_move(parser)
