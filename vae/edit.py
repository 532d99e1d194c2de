"""The mode `edit`: faces of the data or own photos, moved (vae/editor.py) and painted where they change."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from data.photo import AlignedFace, change_mask, paste
from data.request import parse_request
from engine import Grid
from engine.grids import save_image, to_pil
from evaluation.session import add_faces, take_images
from evaluation.sheets import animate, blocks, strip_of
from vae.editor import KINDS, MATCH, NEIGHBOURS, open_editor
from vae.session import Session


def paint(x: Tensor, before: Tensor, after: Tensor, detail: str) -> Tensor:
    """The edited picture: `decode`, the decoded moved code `after`; `blend`, that where it differs from the decoded
    code `before`, and the input's own pixels elsewhere. Adding the difference instead would leave a ghost of the old
    mouth. All (N, C, H, H) in [-1, 1]."""
    if detail == "decode":
        return after
    mask = change_mask(before, after)  # (N, 1, H, H)
    return torch.where(mask > 0, x + mask * (after - x), x)


def run_edit(args: argparse.Namespace) -> None:
    """Edit files or faces of the data; write a grid and, for files, the whole photo."""
    session = Session(args)
    for words in (args.attr, args.keep, args.match):
        take_images(words, args.images)
    request = parse_request(args.attr, session.meta["classes"], session.meta["attributes"])
    editor = open_editor(session, args.kind, args.k, args.match, args.keep)
    x, labels, photos, names = faces_to_edit(session, args)
    mu = session.encode(x)
    z = editor.move(mu, request, labels)
    facts = {"attr": str(request), "kind": args.kind, "detail": args.detail, "keep": args.keep, "faces": names}
    before = session.decode(mu)
    if args.strip:
        shares = strip_of(args.strip)
        steps = [paint(x, before, session.decode(mu + share * (z - mu)), args.detail) for share in shares]
        images = torch.stack(steps, 1)  # (N, K, C, H, H)
        path = session.write(Grid(images, [], [f"{share:+.2g}" for share in shares]), "edit", **facts)
        animate(torch.stack(steps), path.with_suffix(".gif" if args.gif else ".webp"))
        return
    after = session.decode(z)
    edited = paint(x, before, after, args.detail)
    path = session.write(blocks([x, before, edited], ["input", "reconstruction", str(request)]), "edit", **facts)
    for i, (name, photo) in enumerate(zip(names, photos, strict=True)):
        if photo is not None:
            write_photo(photo, name, path, before[i : i + 1], after[i : i + 1], args.detail)


def write_photo(photo: AlignedFace, name: str, beside: Path, before: Tensor, after: Tensor, detail: str) -> None:
    """The edit in the photo at its own resolution (blend), or the decoded face alone."""
    path = beside.with_name(f"{beside.stem}_{Path(name).stem}.png")
    picture = to_pil(after[0]) if detail == "decode" else paste(photo, after, change_mask(before, after))
    save_image(picture, path)
    print(f"wrote {path}")


def faces_to_edit(
    session: Session, args: argparse.Namespace
) -> tuple[Tensor, Tensor, list[AlignedFace | None], list[str]]:
    """Images (N, C, H, H), labels (N, L) with NaN = unknown, aligned photos (None for faces of the data), names."""
    names = session.choose(args.images, args.split, args.n)
    images, labels, photos = zip(*(session.face(name, args.eyes) for name in names), strict=True)
    return torch.cat(images), torch.cat(labels), list(photos), names


def add_edit(parser: argparse.ArgumentParser) -> None:
    """The options of `edit`."""
    add_faces(parser, 12)
    parser.add_argument("--strip", help="from:to:number, shares of the whole move, as -1:2:7")
    parser.add_argument("--gif", action="store_true", help="with --strip: GIF instead of WebP")
    add_move(parser)


def add_move(parser: argparse.ArgumentParser) -> None:
    """The options of every edit, shared with `export`."""
    asked = "Smiling=1|0|flip|0.7|+1.5, happy"
    parser.add_argument("--attr", nargs="+", action="extend", required=parser.prog.endswith("edit"), help=asked)
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default=KINDS[0],
        help="move: from each face's likes (transport, pairs, knn), or one for all",
    )
    parser.add_argument("--k", type=int, default=NEIGHBOURS, help="neighbours on either side; 2 k faces make a crowd")
    parser.add_argument("--match", nargs="*", default=list(MATCH), help="attributes on which they agree")
    parser.add_argument("--keep", nargs="*", default=[], help="attributes whose directions are left out of the move")
    parser.add_argument("--detail", choices=["blend", "decode"], default="blend", help="keep the input's pixels or not")
