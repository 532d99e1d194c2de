"""Folders that evaluation/ reads: PNGs, manifest.csv and export.json; on drawn faces with the true answers."""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import synthetic
from data.drawn_reader import DrawnFaces
from data.request import Move, Request, parse_request
from engine import UserError
from engine.files import atomic_dir, sha256
from engine.grids import to_pil
from evaluation.manifest import Row, write_export, write_manifest
from vae.attributes import label_names, label_table
from vae.edit import add_move, paint
from vae.editor import open_editor
from vae.prior import DENSITIES, draw_codes
from vae.session import Session, add_split, spread
from vae.train import BetaVAE


def run_export(args: argparse.Namespace) -> None:
    """Write what was asked for into --out."""
    if args.out is None:
        raise UserError("export: give a folder with --out")
    session = Session(args)
    with atomic_dir(args.out) as folder:
        guides = guides_of(session.method)
        if args.what == "sample":
            rows, facts = export_samples(session, folder)
        else:
            rows, facts = export_faces(session, folder, args.what)
            guides |= facts.pop("guides")
        write_manifest(folder, rows)
        write_export(folder, session.method.origin, session.meta, args.what, guides, **facts)
    print(f"wrote {len(rows)} images into {args.out}")


def export_samples(session: Session, folder: Path) -> tuple[list[Row], dict]:
    """Draws from the prior."""
    args = session.args
    images = session.decode(draw_codes(session, args.n or 1024, args.density))
    names = save_all(images, folder, "sample", list(range(len(images))))
    return [Row(name, "sample", seed=args.seed) for name in names], {"base": "", "density": args.density}


def export_faces(session: Session, folder: Path, what: str) -> tuple[list[Row], dict]:
    """Reconstructions or edits of --n faces spread over a split (0: all), with their sources."""
    args, meta = session.args, session.meta
    faces = session.split(args.split)
    batch = faces.take(spread(args.n, len(faces)))
    x, index = batch["image"], batch["index"].tolist()
    mu = session.encode(x)
    before = session.decode(mu)
    label = batch["label"].tolist() if meta["classes"] else [-1] * len(x)
    common = [
        {
            "source": source,
            "source_index": f"{meta['dataset']}:{args.split}:{i}",
            "source_label": meta["classes"][k] if k >= 0 else "",
            "seed": args.seed,
        }
        for source, i, k in zip(save_all(x, folder, "source", index), index, label, strict=True)
    ]
    if what == "reconstruction":
        names = save_all(before, folder, "reconstruction", index)
        return [Row(name, what, **c) for name, c in zip(names, common, strict=True)], {"base": "source", "guides": {}}
    if not args.attr:
        raise UserError("export --what edit: say what to change, as --attr Smiling=flip")
    request = parse_request(args.attr, meta["classes"], meta["attributes"])
    labels = label_table(batch, meta)
    editor = open_editor(session, args.kind, args.k, args.match, args.keep)
    after = session.decode(editor.move(mu, request, labels))
    names = save_all(paint(x, before, after, args.detail), folder, "edit", index)
    targets = target_texts(request, labels, meta)
    # What an edit starts from, and how well the answer itself could be drawn: between them lies the gap to close.
    beside = [
        Row(n, "reconstruction", **c) for n, c in zip(save_all(before, folder, "base", index), common, strict=True)
    ]
    truths = [""] * len(x)
    answers = true_answers(session, batch["index"].numpy(), request, labels)
    if answers is not None:
        truths = save_all(answers, folder, "truth", index)
        drawn = save_all(session.reconstruct(answers), folder, "truth_base", index)
        beside += [
            Row(n, "reconstruction", **c | {"source": truth, "source_label": ""})
            for n, truth, c in zip(drawn, truths, common, strict=True)
        ]
    strength = next((wish.value for wish in request if wish.form in ("amount", "step")), 1.0)
    rows = [
        Row(name, "edit", target=target, truth=truth, strength=strength, **c)
        for name, target, truth, c in zip(names, targets, truths, common, strict=True)
    ]
    facts = {"attr": str(request), "kind": args.kind, "detail": args.detail, "split": args.split}
    facts["guides"] = {"probe": editor.probe.sha256()} if editor.probe else {}
    return rows + beside, facts | {"base": "reconstruction" if args.detail == "decode" else "source"}


def save_all(images: Tensor, folder: Path, kind: str, index: list[int]) -> list[str]:
    """One PNG an image, (N, C, H, H) in [-1, 1]; their names."""
    names = [f"{kind}_{i:06d}.png" for i in index]
    for name, image in zip(names, images, strict=True):
        to_pil(image).save(folder / name)
    return names


def sides(wish: Move, labels: Tensor, meta: dict) -> Tensor:
    """The amount each face is asked to have, (N,) in [0, 1]."""
    if wish.form == "flip":
        return 1 - labels[:, label_names(meta).index(wish.name)]
    if wish.form == "step":
        return torch.full((len(labels),), float(wish.value > 0))
    return torch.full((len(labels),), float(wish.value))


def target_texts(request: Request, labels: Tensor, meta: dict) -> list[str]:
    """What each face was asked for, as the manifest writes it."""
    parts = []
    for wish in request:
        if wish.is_class:
            parts.append([wish.name if wish.value else "neutral"] * len(labels))
        else:
            parts.append([f"{wish.name}={int(side > 0.5)}" for side in sides(wish, labels, meta).tolist()])
    return [";".join(texts) for texts in zip(*parts, strict=True)]


def drawn_factors(session: Session, index: np.ndarray) -> dict[str, np.ndarray]:
    """The factors of drawn faces by their rows in the pack, a batch's `index`."""
    return DrawnFaces(session.method.cfg.data).factors_of(index)


def true_answers(session: Session, index: np.ndarray, request: Request, labels: Tensor) -> Tensor | None:
    """Drawn faces with the request fulfilled, (N, C, H, H) in [-1, 1]; None for real ones, steps, and where the
    drawing refuses (the hair colour of a bald head)."""
    meta = session.meta
    if meta["dataset"] != "synthetic" or any(wish.form == "step" for wish in request):
        return None
    factors = drawn_factors(session, index)
    try:
        for wish in request:
            if wish.is_class:
                amount = wish.value if wish.form == "amount" else None
                factors = synthetic.apply(factors, wish.name if wish.value else "neutral", amount)
            else:
                factors = synthetic.apply(factors, wish.name, sides(wish, labels, meta).numpy())
    except UserError as error:
        print(f"no true answers: {error}")
        return None
    drawn = synthetic.render(factors, meta["image_size"], meta["channels"] == 1)
    return torch.from_numpy(drawn).float() / 127.5 - 1


def guides_of(method: BetaVAE) -> dict[str, str]:
    """Hashes of networks other than the VAE that shaped its weights."""
    w = method.cfg.loss
    if w.features == "vgg19":
        return {"vgg19": sha256(w.vgg19_weights) if Path(w.vgg19_weights).is_file() else w.vgg19_weights}
    if w.features == "own":
        digest = hashlib.sha256()
        for value in method.feature_net.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        return {"own features": digest.hexdigest()}
    return {}


def add_export(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    parser.add_argument("--what", choices=["sample", "reconstruction", "edit"], required=True)
    add_split(parser)
    parser.add_argument("--n", type=int, default=0, help="images; 0: the whole split, or 1024 samples")
    parser.add_argument("--density", choices=DENSITIES, default="normal", help="of the codes of samples")
    add_move(parser)
