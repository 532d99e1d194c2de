"""The modes that every family shares: edit, strip, slider, recon, draw, interpolate, export."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.request import Request
from editing.changes import describe_changes, sentences
from editing.cli import Mode
from editing.editor import Editor, partway
from editing.export import add_export, run_export, target_texts
from editing.paint import DETAILS, paint, paint_photo, photo_suffix, save_photo
from editing.record import check_outputs, output_path, unique_paths, write_grid
from editing.sheets import animate, blocks, square
from editing.subjects import SPLITS, Code, Subjects, is_face_name
from editing.verdicts import Judge
from engine import Grid, UserError
from engine.grids import to_uint8

VERB_OF = {"edit": "edit", "strip": "edit", "slider": "edit", "recon": "read", "draw": "draw", "interpolate": "mix"}


def edit(editor: Editor, args: argparse.Namespace) -> None:
    """Edit faces; write a grid and, for each own photo, the whole photo."""
    to, faces = _request_and_faces(editor, args)
    strength = one_strength(args)
    photos = [i for i, photo in enumerate(faces.photos) if photo is not None]
    grid_path = output_path(editor, args, "edit")
    names = [(faces.names[i], photo_suffix(faces.photos[i], args.detail)) for i in photos]
    paths = unique_paths(grid_path.parent, grid_path.stem, names)
    check_outputs([grid_path, *paths], [faces.names[i] for i in photos])
    code, target = editor.codes(faces), editor.target(faces, to)
    changes = _say_changes(editor, faces, to, target)
    before, after = editor.images(code), editor.images(partway(code, target, strength))
    edited = paint(faces.images, before, after, args.detail)
    name, request = (f"like {args.like}", None) if args.like else (str(to), to)
    grid = blocks([faces.images, before, edited], ["input", "reconstruction", name])
    facts = {"attr": name, "strength": strength, "detail": args.detail, "faces": changes or faces.names}
    if args.judge:
        judge = Judge(args.judge, editor)
        facts |= {"judge": str(args.judge), "verdicts": judge.tiles(edited, request)}
        for face, verdict in zip(faces.names, facts["verdicts"], strict=True):
            print(f"{face}: the judge reads {verdict}")
    write_grid(editor, args, grid, "edit", **facts)
    for i, path in zip(photos, paths, strict=True):
        picture = paint_photo(faces.photos[i], before[i : i + 1], after[i : i + 1], args.detail)
        save_photo(picture, faces.photos[i], path)
        print(f"wrote {path}")


def strip(editor: Editor, args: argparse.Namespace) -> None:
    """One row a face, one column a target; with a judge, what it reads stands below each tile."""
    faces = _faces(editor, args)
    requests = [editor.parse(args.attr)] if args.attr else editor.targets()
    strength = one_strength(args)
    before, columns = editor.reconstruct(faces), []
    for request in requests:
        columns.append(paint(faces.images, before, editor.edit(faces, request, [strength])[0], args.detail))
    names = [str(r).removesuffix("=1") if r.classes else str(r) for r in requests]
    grid = Grid(torch.stack([faces.images, *columns], 1), faces.names, ["input", *names])
    facts = {"faces": faces.names, "targets": [str(r) for r in requests], "detail": args.detail, "strength": strength}
    if args.judge:
        judge = Judge(args.judge, editor)
        tiles = [judge.tiles(faces.images)] + [judge.tiles(c, r) for c, r in zip(columns, requests, strict=True)]
        grid.tiles = [list(row) for row in zip(*tiles, strict=True)]
        facts |= {"judge": str(args.judge), "verdicts": grid.tiles} | _agreement(
            editor, faces, judge, columns, requests
        )
    write_grid(editor, args, grid, "strip", **facts)


def _agreement(
    editor: Editor, faces: Subjects, judge: Judge, columns: Sequence[Tensor], requests: Sequence[Request]
) -> dict:
    """How many edits the judge classifies as the target; faces that show the target already are left out."""
    if not all(request.classes for request in requests):
        return {}
    own, names, right, counted = editor.predict_labels(faces), editor.label_names(), 0, 0
    for images, request in zip(columns, requests, strict=True):
        name = target_texts(request, own[:1], editor.meta)[0].split(";")[0]
        other = own[:, names.index(name)] != 1
        verdict = judge.probabilities(images, judge.classes).argmax(1) == judge.classes.index(name)
        right, counted = right + int((verdict & other).sum()), counted + int(other.sum())
    print(f"the judge classifies {right} of {counted} edits as the target (chance {1 / len(judge.classes):.2f})")
    return {"right": right, "edits": counted}


def slider(editor: Editor, args: argparse.Namespace) -> None:
    """An edit at rising strengths, as a strip and an animation: one row a face, or of one face one row a target."""
    strengths = parse_strengths(args.strength)
    if args.attr or args.like:
        to, faces = _request_and_faces(editor, args)
        requests, rows = [to], faces.names
    else:
        faces = _faces(editor, args).select([0])
        requests = editor.targets()
        rows = [str(request).removesuffix("=1") for request in requests]
    before, parts = editor.reconstruct(faces), []
    for to in requests:
        images = editor.edit(faces, to, strengths)  # (S, N, C, H, H)
        parts.append(torch.stack([paint(faces.images, before, step, args.detail) for step in images]))
    images = torch.cat(parts, 1)  # (S, R, C, H, H)
    grid = Grid(images.transpose(0, 1), rows, [f"{s:+.2g}" for s in strengths])
    facts = {"attr": [str(r) for r in requests] if not args.like else f"like {args.like}", "faces": faces.names}
    path = write_grid(editor, args, grid, "slider", strengths=strengths, detail=args.detail, **facts)
    print(f"wrote {animate(images, path.with_suffix('.webp'))}")


def recon(editor: Editor, args: argparse.Namespace) -> None:
    """Inputs, reconstructions, four times the absolute error: n faces spread over a split, and its n worst."""
    faces, n = editor.split(args.split), min(args.n, len(editor.split(args.split)))
    errors, equal, total = [], 0, 0
    for start in range(0, len(faces), 256):
        part = editor.take(args.split, range(start, min(start + 256, len(faces))))
        x_hat = editor.reconstruct(part)
        errors.append((x_hat - part.images).square().flatten(1).mean(1))
        equal += int((to_uint8(x_hat) == to_uint8(part.images)).sum())
        total += x_hat.numel()
    psnr = 10 * torch.log10(4 / torch.cat(errors).clamp_min(1e-10))  # dB, pixels in [-1, 1]
    chosen = [*faces.spread_places(n).tolist(), *psnr.argsort()[:n].tolist()]
    shown = editor.take(args.split, chosen)
    x, x_hat = shown.images, editor.reconstruct(shown)
    images = torch.stack([x, x_hat, (2 * (x - x_hat).abs() - 1).clamp(max=1)])
    captions = [f"{psnr[i]:.1f} dB" for i in chosen]
    captions[n:] = [f"worst\n{caption}" for caption in captions[n:]]
    grid = Grid(images, ["input", "reconstruction", "error x 4"], captions)
    facts = {"split": args.split, "images": len(psnr), "psnr": round(psnr.mean().item(), 3)}
    write_grid(editor, args, grid, "recon", **facts, equal_bytes=equal / total)
    print(f"PSNR {psnr.mean():.2f} dB over {len(psnr)} {args.split} faces; {equal} of {total} bytes are equal")


def draw(editor: Editor, args: argparse.Namespace) -> None:
    """Generated faces seed:SEED, seed:SEED+1, ...; any other mode edits them by these names."""
    request = editor.parse(args.attr) if args.attr else None
    faces = editor.draw(range(args.seed, args.seed + args.n), request)
    write_grid(editor, args, square(faces.images), "draw", attr=str(request or ""), faces=faces.names)


def interpolate(editor: Editor, args: argparse.Namespace) -> None:
    """A walk between two faces, or a sheet between four."""
    faces = editor.subjects(args.images, args.eyes, args.source)
    images = editor.mix(faces, args.n)
    path = write_grid(editor, args, Grid(images), "interpolate", faces=faces.names)
    print(f"wrote {animate(images.flatten(0, 1)[:, None], path.with_suffix('.webp'), back=len(images) == 1)}")


# Words of the command line.


def parse_strengths(text: str) -> list[float]:
    """`1.5`, or from:to:count as `-1:2:7`, both ends included; 0 is exactly 0.

    Raises:
        UserError: neither of these.
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
            f"--strength {text}: expected a number, or from:to:count with 2 to 1000 pictures, as -1:2:7"
        ) from None
    return [round(v, 6) for v in torch.linspace(first, last, count).tolist()]


def one_strength(args: argparse.Namespace) -> float:
    """--strength of a mode that shows one."""
    strengths = parse_strengths(args.strength)
    if len(strengths) > 1:
        raise UserError(f"{args.mode} --strength {args.strength}: takes one strength; `slider` shows several")
    return strengths[0]


def take_images(words: list[str] | None, images: list[str]) -> None:
    """Options that take several words swallow the files after them (`--attr Smiling=1 me.jpg`): give them back."""
    for word in list(words or []):
        if is_face_name(word) or ("=" not in word and (Path(word).suffix or Path(word).is_dir() or "/" in word)):
            words.remove(word)
            images.append(word)


def _faces(editor: Editor, args: argparse.Namespace) -> Subjects:
    """The faces that the command names, or --n of --split (generated ones where the family reads no photos)."""
    take_images(args.attr, args.images)
    for value in vars(editor.options).values():
        if isinstance(value, tuple) and any(re.search(r"\.\w+$|:\d+$", word) for word in value):
            raise UserError(f"{' '.join(value)}: is not a list of labels; name faces before the options")
    names = args.images
    if not names and "read" in editor.unsupported:
        names = [f"seed:{args.seed + i}" for i in range(args.n)]
    return editor.subjects(names or editor.spread(args.split, args.n), args.eyes, args.source)


def _request_and_faces(editor: Editor, args: argparse.Namespace) -> tuple[Request | Subjects, Subjects]:
    take_images(args.attr, args.images)
    if bool(args.attr) == bool(args.like):
        raise UserError(
            f"{args.mode}: say what to change, as --attr happy, or --like PHOTO for another face's expression"
        )
    request = editor.parse(args.attr) if args.attr else None
    faces = _faces(editor, args)
    return request if request is not None else editor.subjects([args.like]), faces


def _say_changes(editor: Editor, faces: Subjects, to: Request | Subjects, target: Code) -> list[dict]:
    """Print what was read in each face and whether it moves; returns the same for the JSON."""
    if not isinstance(to, Request) or any(item.form not in ("set", "amount", "flip") for item in to):
        return []
    changes = describe_changes(editor, faces, to, target)
    for line in sentences(editor, to, changes):
        print(line)
    return changes


def add_faces(parser: argparse.ArgumentParser, n: int) -> None:
    """Which faces: photos, folders of photos, faces by name, or n of a split."""
    parser.add_argument("images", nargs="*", help="photos, folders, test:N, seed:N; none: --n faces of --split")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")
    parser.add_argument("--n", type=int, default=n, help="how many of them")
    parser.add_argument("--eyes", help="x1,y1,x2,y2 of a photo in px, or whole; none: look for the face")
    parser.add_argument("--from", dest="source", help="what the faces show now, as happy or Smiling=0")


def _add_request(parser: argparse.ArgumentParser, strength: str, detail: str) -> None:
    parser.add_argument("--attr", nargs="+", action="extend", help="happy, happy=0.7, Smiling=1|0|flip, Smiling=+1.5")
    parser.add_argument("--like", help="a photo or face whose expression is taken (families that can)")
    parser.add_argument("--strength", default=strength, help="1 = as asked; from:to:count for several")
    parser.add_argument("--detail", choices=DETAILS, default=detail, help="keep the input's pixels or not")
    parser.add_argument("--judge", type=Path, help="a run of evaluation.train_classifier that reads the pictures")


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
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")
    parser.add_argument("--n", type=int, default=8, help="faces of each kind")


def _add_draw(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--attr", nargs="+", action="extend", help="what they show, as happy or Smiling=1")
    parser.add_argument("--n", type=int, default=64, help="faces")


def _add_interpolate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="two or four: photos, test:N or seed:N")
    parser.add_argument("--n", type=int, default=9, help="pictures along a side")
    parser.add_argument("--eyes", help="whole, or none: look for the faces")
    parser.add_argument("--from", dest="source", help="what the faces show now, as happy or Smiling=0")


MODES = {
    "edit": Mode(edit, "change faces, also your own photos", _add_edit),
    "strip": Mode(strip, "every expression of each face, and what a judge reads", _add_strip),
    "slider": Mode(slider, "an edit at rising strengths, as strip and animation", _add_slider),
    "recon": Mode(recon, "inputs and reconstructions, the worst among them", _add_recon),
    "draw": Mode(draw, "generated faces", _add_draw),
    "interpolate": Mode(interpolate, "a walk between two faces, a sheet between four", _add_interpolate),
    "export": Mode(run_export, "folders of images that evaluation/ reads", add_export),
}


def shared_modes(editor: type[Editor]) -> dict[str, Mode]:
    """The shared modes that a family supports."""
    return {name: mode for name, mode in MODES.items() if VERB_OF.get(name) not in editor.unsupported}
