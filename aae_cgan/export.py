"""Folders that evaluation/ reads: PNGs, manifest.csv and export.json; on drawn faces with the true answers."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aae_cgan.edit import blend, class_order
from aae_cgan.photos import span
from aae_cgan.session import Session, add_split
from data import synthetic
from data.drawn_reader import DEFAULT_SIZES
from data.request import Request, parse_request
from engine import UserError
from engine.files import atomic_dir
from engine.grids import to_pil
from evaluation.manifest import Row, write_export, write_manifest

SPLITS = ("train", "val", "test")


def run_export(args: argparse.Namespace) -> None:
    """Write what was asked for into --out."""
    if args.out is None:
        raise UserError("export: give a folder with --out")
    session = Session(args)
    with atomic_dir(args.out) as folder:
        if args.what == "sample":
            rows, facts = export_samples(session, folder)
        else:
            rows, facts = export_faces(session, folder, args.what)
        write_manifest(folder, rows)
        write_export(folder, session.method.origin, session.meta, args.what, guides_of(session), **facts)
    print(f"wrote {len(rows)} images into {args.out}")


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


def export_faces(session: Session, folder: Path, what: str) -> tuple[list[Row], dict]:
    """Reconstructions, or edits as --attr asks (without it: to every target), of --n faces spread over a split."""
    args = session.args
    faces = session.split(args.split)
    batch = faces.fixed(args.n) if args.n and args.n < len(faces) else faces.take(np.arange(len(faces)))
    x, (y, _) = batch["image"], session.labels(batch)
    common = sources(session, folder, batch)
    z = session.encode(x)
    before = session.decode(z, y)
    index = batch["index"].tolist()
    if what == "reconstruction":
        names = save_all(before, folder, what, index)
        return [Row(name, what, **c) for name, c in zip(names, common, strict=True)], {"base": "source"}
    rows: list[Row] = []
    drawn = drawn_factors(session, args.split, batch["index"].numpy())
    asked = requests_of(session)
    for number, request in enumerate(asked):
        y_target = torch.cat([session.request_row(request, row[None]) for row in y])  # (N, K)
        texts = [target_text(session, request, row) for row in y_target]
        truths = true_pictures(session, drawn, request, y_target)
        truth_names = save_all(truths, folder, f"truth{number}", index) if truths is not None else [""] * len(x)
        for strength in strengths(args.strength):
            after = session.decode(z, torch.lerp(y, y_target, strength))
            edited = after if args.detail == "decode" else blend(x, before, after)
            names = save_all(edited, folder, f"edit{number}_{strength:g}", index)
            amount = strength * next((wish.value for wish in request if wish.form == "amount"), 1.0)
            for i, name in enumerate(names):
                truth = truth_names[i] if strength == 1 else ""
                rows.append(Row(name, "edit", target=texts[i], truth=truth, strength=amount, **common[i]))
    facts = {"attr": [str(request) for request in asked], "detail": args.detail, "split": args.split}
    return rows, facts | {"base": "reconstruction" if args.detail == "decode" else "source"}


def sources(session: Session, folder: Path, batch: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Save the source pictures; what their rows have in common."""
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


def requests_of(session: Session) -> list[Request]:
    """What --attr asks; without it each class in turn, or each attribute turned."""
    words = [" ".join(session.args.attr)] if session.args.attr else []
    if not words and session.attributes:
        words = [f"{name}=flip" for name in session.names]
    words = words or [session.names[i] for i in class_order(session.names)]
    return [parse_request(text, session.meta["classes"], session.meta["attributes"]) for text in words]


def target_text(session: Session, request: Request, row: Tensor) -> str:
    """What one face (its row of the request) was asked for, as the manifest writes it."""
    if session.attributes:
        return ";".join(f"{name}={int(row[session.names.index(name)] > 0)}" for name in request.names)
    wish = max(request, key=lambda move: move.value)
    return wish.name if wish.value else session.names[int(row.argmax())]


def strengths(text: str) -> list[float]:
    """`1` or `0:1.5:7`."""
    if ":" not in text:
        return [float(text)]
    ends, _, count = text.rpartition(":")
    if not count.isdigit() or ":" not in ends:
        raise UserError(f"--strength {text}: expected a number, or from:to:count as 0:1.5:7")
    return [round(v, 4) for v in torch.linspace(*span(ends), int(count)).tolist()]


def save_all(images: Tensor, folder: Path, kind: str, index: Any) -> list[str]:
    """One PNG an image, (N, C, H, H) in [-1, 1]; their names."""
    names = [f"{kind}_{i:06d}.png" for i in index]
    for name, image in zip(names, images, strict=True):
        to_pil(image).save(folder / name)
    return names


def drawn_factors(session: Session, split: str, index: np.ndarray) -> dict[str, np.ndarray] | None:
    """The factors of drawn faces by their rows in the pack; None for real ones."""
    cfg, part = session.method.cfg.data, SPLITS.index(split)
    if session.meta["dataset"] != "synthetic" or cfg.pair:
        return None
    sizes = [n or d for n, d in zip((cfg.num_train, cfg.num_val, cfg.num_test), DEFAULT_SIZES, strict=True)]
    number = index - sum(sizes[:part]) + synthetic.SPLIT_OFFSET[split] * cfg.per_identity
    return synthetic.factors(
        cfg.seed,
        number,
        per_identity=cfg.per_identity,
        prior=cfg.prior,
        independent=cfg.independent,
        classes=8 if "contempt" in cfg.classes else 7,
        intensity=tuple(cfg.intensity),
    )


def true_pictures(session: Session, drawn: dict | None, request: Request, y_target: Tensor) -> Tensor | None:
    """Drawn faces as they were asked for, (N, C, H, H) in [-1, 1]; None where nobody knows them (mixtures too)."""
    if drawn is None or (len(request) > 1 and not session.attributes):
        return None
    meta = session.meta
    try:
        for wish in request:
            if session.attributes:
                amount = (y_target[:, session.names.index(wish.name)] + 1) / 2
                drawn = synthetic.apply(drawn, wish.name, amount.clamp(0, 1).numpy())
            else:
                amount = wish.value if wish.form == "amount" else None
                drawn = synthetic.apply(drawn, wish.name if wish.value else "neutral", amount)
    except UserError as error:  # the hair colour of a bald head
        print(f"no true answers for {request}: {error}")
        return None
    return torch.from_numpy(synthetic.render(drawn, meta["image_size"], meta["channels"] == 1)).float() / 127.5 - 1


def guides_of(session: Session) -> dict[str, str]:
    """The hash of the guide's weights, if there is one."""
    guide = session.method.guide
    return {} if guide is None else {f"{session.method.cfg.loss.guide} guide": guide.sha256()}


def add_export(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    parser.add_argument("--what", choices=["edit", "reconstruction", "sample"], required=True)
    add_split(parser)
    parser.add_argument("--n", type=int, default=0, help="faces; 0: the whole split, or 1024 samples")
    parser.add_argument("--attr", nargs="+", help="what to ask for: happy, happy=0.7, Smiling=flip; none: each target")
    parser.add_argument("--strength", default="1", help="of the edits: a number, or from:to:count as 0:1.5:7")
    parser.add_argument(
        "--detail", choices=["decode", "blend"], default="decode", help="keep the input's pixels or not"
    )
