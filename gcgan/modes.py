"""Grids of one run: the modes `sheet` and `cross`."""

import argparse

import torch
from torch import Tensor

from data.request import COLOURS, Request
from editing.editor import Editor
from editing.modes import add_faces
from editing.record import write_grid
from editing.subjects import Subjects
from engine import Grid, UserError, save_grid
from gcgan.editor import GCGANEditor, LandmarkEditor, StarGANEditor

PAGE = 4  # expressions on a page of `sheet`


def run_sheet(editor: Editor, args: argparse.Namespace) -> None:
    """Write a grid of each face with each expression, and pages of four columns. Captions: output of the critic.

    The critic is no independent judge, because it was part of the training. `strip --judge` uses a judge.
    """
    faces = editor.subjects(args.images or editor.spread(args.split, args.n), args.eyes, args.source)
    if args.noise_std:
        noise = torch.randn(faces.images.shape, generator=torch.Generator().manual_seed(args.seed))
        noisy = (faces.images + args.noise_std * noise).clamp(-1, 1)
        faces = Subjects(faces.batch | {"image": noisy}, faces.names, faces.photos, given=faces.given)
    requests = sheet_requests(editor)
    names = [str(r).split(";")[0].removesuffix("=1") for r in requests]
    columns = [editor.edit(faces, request)[0] for request in requests]
    tiles = [critic_captions(editor, faces.images, own_conditions(editor, faces))]
    for request, images in zip(requests, columns, strict=True):
        tiles.append(critic_captions(editor, images, conditions_of(editor, faces, request)))
    images, captions = torch.stack([faces.images, *columns], 1), ["input", *names]
    rows = [list(row) for row in zip(*tiles, strict=True)]
    grid = Grid(images, faces.names, captions, rows)
    facts = {"faces": faces.names, "targets": names, "noise_std": args.noise_std, "critic_captions": rows}
    path = write_grid(editor, args, grid, "sheet", **facts)
    for page, start in enumerate(range(1, len(captions), PAGE) if len(captions) > PAGE + 1 else (), 1):
        at = [0, *range(start, min(start + PAGE, len(captions)))]
        part = Grid(images[:, at], faces.names, [captions[i] for i in at], [[row[i] for i in at] for row in rows])
        print(f"wrote {save_grid(part, path.with_name(f'{path.stem}_page{page}.png'))}")


def sheet_requests(editor: Editor) -> list[Request]:
    """One request for each class, or one that flips each attribute; hair colours replace each other."""
    colours = {name: word for word, name in COLOURS.items() if name in editor.attributes}
    requests = [editor.parse(f"hair={word}") for word in colours.values()]
    return requests + [r for r in editor.targets() if r.names[0] not in colours]


def own_conditions(editor: Editor, faces: Subjects) -> Tensor:
    """The critic's condition for the faces as they are: c (N, cond_dim)."""
    if isinstance(editor, StarGANEditor):
        return editor.codes(faces)["c"]
    return editor.predict_labels(faces)[:, [editor.label_names().index(name) for name in editor.classes]]


def conditions_of(editor: Editor, faces: Subjects, request: Request) -> Tensor:
    """The critic's condition for the faces after an edit: c (N, cond_dim)."""
    if isinstance(editor, StarGANEditor):
        return editor.target(faces, request)["c"]
    return torch.eye(len(editor.classes))[editor.classes.index(request.names[0])].expand(len(faces), -1)


@torch.no_grad()
def critic_captions(editor: Editor, images: Tensor, c: Tensor) -> list[str]:
    """Captions of images (N, C, H, H) with conditions c (N, cond_dim): D's score, predicted class, its probability."""
    critic, device = editor.method.critic, editor.device
    x, c = images.to(device), c.to(device)
    h = critic.features(x, c)
    score = critic.score(h, c).mean((1, 2))
    if editor.method.scores_are_logits:
        score = score.sigmoid()
    texts = [f"D {value:.2f}" for value in score.tolist()]
    blocks = [block for block in editor.method.labels.blocks if not block.attributes]
    if critic.head is None or not blocks:
        return texts
    p, best = critic.logits(h)[:, blocks[0].columns].softmax(1).max(1)
    names = blocks[0].names
    return [f"{t} {names[k]} {v:.2f}" for t, k, v in zip(texts, best.tolist(), p.tolist(), strict=True)]


def run_cross(editor: Editor, args: argparse.Namespace) -> None:
    """Write a grid: persons in rows, references in columns, the person with the reference's expression in a cell."""
    editor = need_landmarks(editor, "cross")
    faces = editor.subjects(args.images or editor.spread(args.split, args.n), args.eyes)
    references = editor.subjects(args.references or editor.spread(args.split, args.n), args.eyes)
    columns = [editor.edit(faces, references.select([j]))[0] for j in range(len(references))]
    size, channels = editor.meta["image_size"], editor.meta["channels"]
    top = torch.cat([torch.ones(1, channels, size, size), references.images])[None]
    images = torch.cat([top, torch.stack([faces.images, *columns], 1)])
    captions = ["input", *references.names]
    write_grid(editor, args, Grid(images, ["reference", *faces.names], captions), "cross", faces=faces.names)


def need_landmarks(editor: Editor, mode: str) -> LandmarkEditor:
    """Check that the editor can take expressions from landmarks; return it."""
    if not isinstance(editor, LandmarkEditor):
        raise UserError(
            f"{mode}: needs a model that takes expressions from other faces; train `system: gcgan`, not stargan"
        )
    return editor


def need_gcgan(editor: Editor, mode: str) -> GCGANEditor:
    """Check that the editor moves a person's own landmarks; return it."""
    if not isinstance(editor, GCGANEditor):
        raise UserError(f"{mode}: needs a model that moves a person's own landmarks; train `system: gcgan`")
    return editor


def add_sheet(parser: argparse.ArgumentParser) -> None:
    """Options of `sheet`."""
    add_faces(parser, 8)
    parser.add_argument(
        "--noise-std",
        type=float,
        default=0.0,
        help="standard deviation of noise added to the inputs, which are in [-1, 1]",
    )


def add_cross(parser: argparse.ArgumentParser) -> None:
    """Options of `cross`."""
    add_faces(parser, 7)
    parser.add_argument("--references", nargs="+", help="faces whose expressions are taken; none: --n of --split")
