"""The modes that every family shares: edit, strip, slider, recon, draw, interpolate, export."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.request import Request
from editing.changes import describe_changes, format_changes
from editing.cli import Mode
from editing.editor import Editor, partway
from editing.export import add_export, run_export, target_texts
from editing.judge import Judge
from editing.paint import DETAIL_HELP, DETAILS, detail_of, paint, paint_photo, photo_suffix, save_photo
from editing.record import check_outputs, output_path, unique_paths, write_grid
from editing.sheets import animate, blocks, square
from editing.subjects import SPLITS, Code, Subjects, is_face_name
from engine import Grid, UserError
from engine.grids import to_uint8
from losses.image_metrics import psnr

VERB_OF = {"edit": "edit", "strip": "edit", "slider": "edit", "recon": "read", "draw": "draw", "interpolate": "mix"}


def edit(editor: Editor, args: argparse.Namespace) -> None:
    """Edit faces; write a grid, and each edited photo at its own size."""
    to, faces = _request_and_faces(editor, args)
    strength = one_strength(args)
    photos = [i for i, photo in enumerate(faces.photos) if photo is not None]
    details = _details(args, faces, "blend")
    grid_path = output_path(editor, args, "edit")
    names = [(faces.names[i], photo_suffix(faces.photos[i], details[i])) for i in photos]
    paths = unique_paths(grid_path.parent, grid_path.stem, names)
    check_outputs([grid_path, *paths], [faces.names[i] for i in photos])
    code, target = editor.codes(faces), editor.target(faces, to)
    changes = _report_changes(editor, faces, to, target)
    before, after = editor.images(code), editor.images(partway(code, target, strength))
    edited = paint(faces.images, before, after, details)
    name, request = (f"like {args.like}", None) if args.like else (str(to), to)
    grid = blocks([faces.images, before, edited], ["input", "reconstruction", name])
    facts = {"attr": name, "strength": strength, "detail": details, "faces": changes or faces.names}
    if args.judge:
        judge = Judge(args.judge, editor)
        facts |= {"judge": str(args.judge), "predictions": judge.captions(edited, request)}
        for face, prediction in zip(faces.names, facts["predictions"], strict=True):
            print(f"{face}: prediction of the judge: {prediction}")
    write_grid(editor, args, grid, "edit", **facts)
    for i, path in zip(photos, paths, strict=True):
        picture = paint_photo(faces.photos[i], before[i : i + 1], after[i : i + 1], details[i])
        save_photo(picture, faces.photos[i], path)
        print(f"wrote {path}")


def strip(editor: Editor, args: argparse.Namespace) -> None:
    """A grid with one row per face and one column per target; with --judge, its prediction is below each image."""
    faces = _faces(editor, args)
    requests = [editor.parse(args.attr)] if args.attr else editor.targets()
    strength, details = one_strength(args), _details(args, faces, "decode")
    before, columns = editor.reconstruct(faces), []
    for request in requests:
        columns.append(paint(faces.images, before, editor.edit(faces, request, [strength])[0], details))
    names = [str(r).removesuffix("=1") if r.classes else str(r) for r in requests]
    grid = Grid(torch.stack([faces.images, *columns], 1), faces.names, ["input", *names])
    facts = {"faces": faces.names, "targets": [str(r) for r in requests], "detail": details, "strength": strength}
    if args.judge:
        judge = Judge(args.judge, editor)
        captions = [judge.captions(faces.images)] + [
            judge.captions(c, r) for c, r in zip(columns, requests, strict=True)
        ]
        grid.tiles = [list(row) for row in zip(*captions, strict=True)]
        facts |= {"judge": str(args.judge), "predictions": grid.tiles} | _agreement(
            editor, faces, judge, columns, requests
        )
    write_grid(editor, args, grid, "strip", **facts)


def _agreement(
    editor: Editor, faces: Subjects, judge: Judge, columns: Sequence[Tensor], requests: Sequence[Request]
) -> dict:
    """Number of edits that the judge classifies as the target; faces that already have the target are left out."""
    if not all(request.classes for request in requests):
        return {}
    own, names, correct, counted = editor.predict_labels(faces), editor.label_names(), 0, 0
    for images, request in zip(columns, requests, strict=True):
        name = target_texts(request, own[:1], editor.meta)[0].split(";")[0]
        other = own[:, names.index(name)] != 1
        is_target = judge.probabilities(images, judge.classes).argmax(1) == judge.classes.index(name)
        correct, counted = correct + int((is_target & other).sum()), counted + int(other.sum())
    print(f"the judge classifies {correct} of {counted} edits as the target (chance: {1 / len(judge.classes):.2f})")
    return {"correct": correct, "edits": counted}


def slider(editor: Editor, args: argparse.Namespace) -> None:
    """Edits at rising strengths as a grid and an animation: one row per face, or, for one face, one row per target."""
    strengths = parse_strengths(args.strength)
    if args.attr or args.like:
        to, faces = _request_and_faces(editor, args)
        requests, rows = [to], faces.names
    else:
        faces = _faces(editor, args).select([0])
        requests = editor.targets()
        rows = [str(request).removesuffix("=1") for request in requests]
    before, details, parts = editor.reconstruct(faces), _details(args, faces, "decode"), []
    for to in requests:
        images = editor.edit(faces, to, strengths)  # (S, N, C, H, H)
        parts.append(torch.stack([paint(faces.images, before, step, details) for step in images]))
    images = torch.cat(parts, 1)  # (S, R, C, H, H)
    grid = Grid(images.transpose(0, 1), rows, [f"{s:.3g}" for s in strengths])
    facts = {"attr": [str(r) for r in requests] if not args.like else f"like {args.like}", "faces": faces.names}
    path = write_grid(editor, args, grid, "slider", strengths=strengths, detail=details, **facts)
    print(f"wrote {animate(images, path.with_suffix('.webp'))}")


def recon(editor: Editor, args: argparse.Namespace) -> None:
    """Inputs, reconstructions and four times the absolute error, of n faces of a split and of its n worst."""
    faces, n = editor.split(args.split), min(args.n, len(editor.split(args.split)))
    levels, equal, total = [], 0, 0
    for start in range(0, len(faces), 256):
        part = editor.take(args.split, range(start, min(start + 256, len(faces))))
        x_hat = editor.reconstruct(part)
        levels.append(psnr(part.images, x_hat))
        equal += int((to_uint8(x_hat) == to_uint8(part.images)).sum())
        total += x_hat.numel()
    level = torch.cat(levels)  # (N,) dB
    chosen = [*faces.spread_places(n).tolist(), *level.argsort()[:n].tolist()]
    chosen_faces = editor.take(args.split, chosen)
    x, x_hat = chosen_faces.images, editor.reconstruct(chosen_faces)
    images = torch.stack([x, x_hat, (2 * (x - x_hat).abs() - 1).clamp(max=1)])
    captions = [f"{level[i]:.1f} dB" for i in chosen]
    captions[n:] = [f"worst\n{caption}" for caption in captions[n:]]
    grid = Grid(images, ["input", "reconstruction", "error x 4"], captions)
    facts = {"split": args.split, "images": len(level), "psnr": round(level.mean().item(), 3)}
    write_grid(editor, args, grid, "recon", **facts, equal_bytes=equal / total)
    print(f"PSNR {level.mean():.2f} dB over {len(level)} {args.split} faces; {equal} of {total} bytes are equal")


def draw(editor: Editor, args: argparse.Namespace) -> None:
    """Generated faces seed:SEED, seed:SEED+1, ...; other modes accept these names as faces."""
    request = editor.parse(args.attr) if args.attr else None
    faces = editor.draw(range(args.seed, args.seed + args.n), request)
    write_grid(editor, args, square(faces.images), "draw", attr=str(request or ""), faces=faces.names)


def interpolate(editor: Editor, args: argparse.Namespace) -> None:
    """Interpolation between two faces, or a grid between four."""
    faces = editor.subjects(args.images, args.eyes, args.source)
    images = editor.mix(faces, args.n)
    path = write_grid(editor, args, Grid(images), "interpolate", faces=faces.names)
    print(f"wrote {animate(images.flatten(0, 1)[:, None], path.with_suffix('.webp'), back=len(images) == 1)}")


# Parsing the command line.


def parse_strengths(text: str) -> list[float]:
    """Parse `1.5`, or from:to:count as `-1:2:7` (with both ends).

    Raises:
        UserError: another form, or a count outside 2 .. 1000.
    """
    parts = text.split(":")
    try:
        if len(parts) == 1:
            return [float(text)]
        first, last, count = float(parts[0]), float(parts[1]), int(parts[2])
        if len(parts) != 3 or not 2 <= count <= 1000 or not np.isfinite([first, last]).all():
            raise ValueError
    except (ValueError, IndexError):
        raise UserError(
            f"--strength {text}: expected a number, or from:to:count with a count of 2 to 1000, as -1:2:7"
        ) from None
    return [round(v, 6) for v in torch.linspace(first, last, count).tolist()]


def one_strength(args: argparse.Namespace) -> float:
    """--strength of a mode with one strength."""
    strengths = parse_strengths(args.strength)
    if len(strengths) > 1:
        raise UserError(f"{args.mode} --strength {args.strength}: expected one number; use `slider` for several")
    return strengths[0]


def take_images(words: list[str] | None, images: list[str]) -> None:
    """Move file names that argparse put into `words` (`--attr Smiling=1 me.jpg`) to `images`."""
    for word in list(words or []):
        if is_face_name(word) or ("=" not in word and (Path(word).suffix or Path(word).is_dir() or "/" in word)):
            words.remove(word)
            images.append(word)


def _faces(editor: Editor, args: argparse.Namespace) -> Subjects:
    """The faces of the command line; default: --n faces of --split, or generated faces without an encoder."""
    take_images(args.attr, args.images)
    for value in vars(editor.options).values():
        if isinstance(value, tuple) and any(re.search(r"\.\w+$|:\d+$", word) for word in value):
            raise UserError(f"{' '.join(value)}: expected labels; put the names of faces before the options")
    names = args.images
    if not names and "read" in editor.unsupported:
        names = [f"seed:{args.seed + i}" for i in range(args.n)]
    return editor.subjects(names or editor.spread(args.split, args.n), args.eyes, args.source)


def _request_and_faces(editor: Editor, args: argparse.Namespace) -> tuple[Request | Subjects, Subjects]:
    take_images(args.attr, args.images)
    if bool(args.attr) == bool(args.like):
        raise UserError(
            f"{args.mode}: expected one of --attr (as --attr happy) and --like (a face whose expression is the target)"
        )
    request = editor.parse(args.attr) if args.attr else None
    faces = _faces(editor, args)
    return request if request is not None else editor.subjects([args.like]), faces


def _details(args: argparse.Namespace, faces: Subjects, otherwise: str) -> list[str]:
    """--detail of each face; default: `warp` for photos, `otherwise` for other faces."""
    return [detail_of(args.detail, photo, otherwise) for photo in faces.photos]


def _report_changes(editor: Editor, faces: Subjects, to: Request | Subjects, target: Code) -> list[dict]:
    """Print the labels of each face and whether it changes; returns them for the JSON file."""
    if not isinstance(to, Request) or any(item.form not in ("set", "amount", "flip") for item in to):
        return []
    changes = describe_changes(editor, faces, to, target)
    for line in format_changes(editor, to, changes):
        print(line)
    return changes


def add_faces(parser: argparse.ArgumentParser, n: int) -> None:
    """Add the options that choose faces: photos, folders of photos, faces by name, or n faces of a split."""
    parser.add_argument("images", nargs="*", help="photos, folders, test:N, seed:N; default: --n faces of --split")
    parser.add_argument("--split", choices=SPLITS, default="test", help="split of the faces")
    parser.add_argument("--n", type=int, default=n, help="number of faces")
    parser.add_argument("--eyes", help="eyes of a photo, x1,y1,x2,y2 in px, or whole; default: detect the face")
    parser.add_argument("--from", dest="source", help="current labels of the faces, as happy or Smiling=0")


def _add_request(parser: argparse.ArgumentParser, strength: str, detail: str) -> None:
    parser.add_argument("--attr", nargs="+", action="extend", help="happy, happy=0.7, Smiling=1|0|flip, Smiling=+1.5")
    parser.add_argument("--like", help="a face whose expression is the target (not in every family)")
    parser.add_argument("--strength", default=strength, help="1 = the full edit; from:to:count for several")
    parser.add_argument("--detail", choices=DETAILS, help=DETAIL_HELP.format(detail))
    parser.add_argument("--judge", type=Path, help="run directory of a judge; its predictions are added")


def _add_edit(parser: argparse.ArgumentParser) -> None:
    add_faces(parser, 12)
    _add_request(parser, "1", "blend")


def _add_strip(parser: argparse.ArgumentParser) -> None:
    add_faces(parser, 8)
    _add_request(parser, "1", "decode")


def _add_slider(parser: argparse.ArgumentParser) -> None:
    add_faces(parser, 4)
    _add_request(parser, "0:1.5:7", "decode")


def _add_recon(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=SPLITS, default="test", help="split of the faces")
    parser.add_argument("--n", type=int, default=8, help="number of faces of each kind")


def _add_draw(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--attr", nargs="+", action="extend", help="their labels, as happy or Smiling=1")
    parser.add_argument("--n", type=int, default=64, help="number of faces")


def _add_interpolate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="two or four faces: photos, test:N or seed:N")
    parser.add_argument("--n", type=int, default=9, help="images along a side")
    parser.add_argument("--eyes", help="whole; default: detect the faces")
    parser.add_argument("--from", dest="source", help="current labels of the faces, as happy or Smiling=0")


MODES = {
    "edit": Mode(edit, "edit faces or photos", _add_edit),
    "strip": Mode(strip, "every expression of each face, with the predictions of a judge", _add_strip),
    "slider": Mode(slider, "edits at rising strengths, as grid and animation", _add_slider),
    "recon": Mode(recon, "inputs and reconstructions, also the worst", _add_recon),
    "draw": Mode(draw, "generated faces", _add_draw),
    "interpolate": Mode(interpolate, "interpolation between two or four faces", _add_interpolate),
    "export": Mode(run_export, "images for evaluation/", add_export),
}


def shared_modes(editor: type[Editor]) -> dict[str, Mode]:
    """The shared modes that a family supports."""
    return {name: mode for name, mode in MODES.items() if VERB_OF.get(name) not in editor.unsupported}
