"""Edits and intensities of given faces: files (pasted back at their own size) or faces of the run's data."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from aae_cgan.edit import blend, class_order
from aae_cgan.session import Session, Subject
from data.photo import change_mask, paste
from data.request import parse_request
from engine import Grid, UserError
from engine.grids import save_image, to_pil
from evaluation.session import add_eyes, add_faces, take_images
from evaluation.sheets import animate


def run_edit(args: argparse.Namespace) -> None:
    """Edit faces; write a grid and, for files, the whole photo."""
    session = Session(args)
    take_images(args.attr, args.images)
    faces = session.subjects(args.images or session.fixed(args.split, args.n), args.eyes, args.source)
    request = parse_request(args.attr, session.meta["classes"], session.meta["attributes"])
    x, y = torch.cat([f.x for f in faces]), torch.cat([f.y for f in faces])
    y_target = torch.cat([session.request_row(request, f.y) for f in faces])
    before, after = pictures(session, x, y, y_target, args.strength)
    edited = after if args.detail == "decode" else blend(x, before, after)
    grid = Grid(torch.stack([x, before, edited], 1), [f.name for f in faces], ["input", "own label", str(request)])
    facts = {"attr": str(request), "strength": args.strength, "detail": args.detail}
    path = session.write(grid, "edit", labels={f.name: f.label_from for f in faces}, **facts)
    for i, face in enumerate(faces):
        if face.photo is None:
            continue
        written = path.with_name(f"{path.stem}_{Path(face.name).stem}.png")
        mask = change_mask(before[i : i + 1], after[i : i + 1])
        picture = to_pil(after[i]) if args.detail == "decode" else paste(face.photo, after[i : i + 1], mask)
        save_image(picture, written)
        print(f"wrote {written}; its expression: {face.label_from}")


def pictures(session: Session, x: Tensor, y: Tensor, y_target: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """G(E(x), y) and G(E(x), (1 - t) y + t y_target), each (N, C, H, H)."""
    z = session.encode(x)
    return session.decode(z, y), session.decode(z, torch.lerp(y, y_target, strength))


def run_slider(args: argparse.Namespace) -> None:
    """One face, (1 - t) y_source + t y_target for rising t: a row a target, and an animation."""
    session = Session(args)
    images = [args.image] if args.image else []
    take_images(args.attr, images)
    if len(images) > 1:
        raise UserError(f"slider: takes one face and was given {', '.join(images)}; name one of them")
    face = session.subjects(images or ["test:0"], args.eyes, args.source)[0]
    start, rows = slider_rows(session, face, args)
    first, last = span(args.range)
    t = torch.linspace(first, last, args.steps)
    y = torch.lerp(start[None], torch.stack(list(rows.values())), t[:, None, None])  # (T, R, K)
    y = y.transpose(0, 1)  # (R, T, K)
    z = session.encode(face.x).expand(y.shape[0] * y.shape[1], -1)
    images = session.decode(z, y.flatten(0, 1)).unflatten(0, y.shape[:2])
    if args.detail == "blend":
        before = session.decode(z[:1], start[None])
        each = images.flatten(0, 1)
        images = blend(face.x.expand_as(each), before.expand_as(each), each).unflatten(0, y.shape[:2])
    grid = Grid(images, list(rows), [f"{v:.2f}" for v in t.tolist()])
    path = session.write(grid, "slider", face=face.name, label=face.label_from, detail=args.detail)
    moving = path.with_suffix(".gif" if args.gif else ".webp")
    print(f"wrote {animate(images.transpose(0, 1), moving)}")  # (T, R, C, H, W): all rows at one strength


def slider_rows(session: Session, face: Subject, args: argparse.Namespace) -> tuple[Tensor, dict[str, Tensor]]:
    """Where the slider starts (K,), and {caption: where t = 1 is (K,)}."""
    start = face.y[0]
    if args.all:
        if session.attributes:
            raise UserError("--all: this run edits attributes; name one with --attr")
        return start, {session.names[i]: torch.eye(len(session.names))[i] for i in class_order(session.names)}
    if not args.attr:
        raise UserError("slider: say where to, as --attr happy, --attr happy=0.5 surprise=0.5, or --all")
    request = parse_request(args.attr, session.meta["classes"], session.meta["attributes"])
    return start, {str(request): session.request_row(request, face.y)[0]}


def span(text: str) -> tuple[float, float]:
    """`0:1.5` -> two numbers."""
    try:
        first, last = (float(part) for part in text.split(":"))
    except ValueError:
        raise UserError(f"--range {text}: expected from:to, as 0:1.5") from None
    return first, last


def add_edit(parser: argparse.ArgumentParser) -> None:
    """The options of `edit`."""
    add_faces(parser, 8)
    parser.add_argument("--attr", nargs="+", required=True, help="happy, happy=0.7, Smiling=1, Eyeglasses=flip")
    add_source(parser)
    parser.add_argument("--strength", type=float, default=1.0, help="0 = the own label, 1 = as asked, up to 1.5")
    parser.add_argument("--detail", choices=["blend", "decode"], default="blend", help="keep the input's pixels or not")


def add_slider(parser: argparse.ArgumentParser) -> None:
    """The options of `slider`."""
    parser.add_argument("image", nargs="?", help="a photo, or test:N; none: test:0")
    parser.add_argument("--attr", nargs="+", help="where to: happy, or a mixture as happy=0.5 surprise=0.5")
    parser.add_argument("--all", action="store_true", help="a row for every expression")
    parser.add_argument("--steps", type=int, default=9, help="pictures of a row")
    parser.add_argument("--range", default="0:1.5", help="strengths; above 1 exaggerates")
    parser.add_argument("--gif", action="store_true", help="a GIF instead of a WebP")
    add_eyes(parser)
    add_source(parser)
    parser.add_argument(
        "--detail", choices=["blend", "decode"], default="decode", help="keep the input's pixels or not"
    )


def add_source(parser: argparse.ArgumentParser) -> None:
    """--from."""
    parser.add_argument("--from", dest="source", help="the expression (or attributes) that the face shows now")
