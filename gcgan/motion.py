"""Animations: `transition` goes through several expressions, `drive` follows the frames of another person."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from data.emotions import canonical
from editing.editor import Editor, partway
from editing.judge import Judge
from editing.paint import paint_photo
from editing.record import check_outputs, output_path, write_grid
from editing.sheets import animate
from editing.subjects import Code, Subjects
from engine import Grid, UserError, save_image
from engine.grids import to_pil
from gcgan.editor import GCGANEditor, StarGANEditor
from gcgan.modes import need_gcgan
from latents.paths import slerp

FLAT = 1e-6  # a probability that changes less is constant


# Transitions.


def run_transition(editor: Editor, args: argparse.Namespace) -> None:
    """Write one face with several expressions in turn: rows of frames, an animation, and smoothness metrics."""
    path = path_of(editor, args.path)
    if args.n < 3:
        raise UserError(f"transition --n {args.n}: expected at least 3 frames from one expression to the next")
    faces = editor.subjects([args.image], args.eyes, args.source)
    requests = [editor.parse(name.strip()) for name in args.to.split(",") if name.strip()]
    if not requests:
        raise UserError("transition --to: expected expressions joined by commas, as happy,sad")
    keys = [editor.codes(faces), *(editor.target(faces, request) for request in requests)]
    t = torch.linspace(0, 1, args.n)
    rows = [between(editor, a, b, t, path) for a, b in zip(keys, keys[1:], strict=False)]  # (n, C, H, H) each
    names = [str(request).removesuffix("=1") for request in requests]
    judge = Judge(args.judge, editor) if args.judge else None
    evenness = [evenness_of(editor, judge, row, request.names[0]) for row, request in zip(rows, requests, strict=True)]
    for name, (correlation, step) in zip(names, evenness, strict=True):
        print(f"to {name}: Spearman {correlation:.2f} of time and p({name}), largest step of p {step:.2f}")
    reader = str(args.judge) if args.judge else "the critic's class head, which was part of the training"
    print(f"p is predicted by {reader}")
    facts = {"faces": faces.names, "to": names, "way": path, "p_read_by": reader}
    facts |= {"spearman": [c for c, _ in evenness], "largest_step": [s for _, s in evenness]}
    grid = Grid(torch.stack(rows), [f"to {name}" for name in names], [f"{v:.2g}" for v in t.tolist()])
    written = write_grid(editor, args, grid, "transition", **facts)
    frames = torch.cat([rows[0][:1], *(row[1:] for row in rows)])  # a keyframe once
    print(f"wrote {animate(frames[:, None], written.with_suffix('.webp'))}")


def path_of(editor: Editor, path: str) -> str:
    """The interpolation path between keyframes. The default is the path of the system's edits.

    Raises:
        UserError: the system does not have this path.
    """
    ways = ("landmarks", "code") if isinstance(editor, GCGANEditor) else ("code",)
    ways = ("label",) if isinstance(editor, StarGANEditor) else ways
    if path and path not in ways:
        raise UserError(f"transition --path {path}: expected {' or '.join(ways)} for this system")
    return path or ways[0]


def between(editor: Editor, a: Code, b: Code, t: Tensor, path: str) -> Tensor:
    """Pictures (T, C, H, H) of one face between codes a and b (one row each) at times t (T,) in [0, 1].

    label, landmarks: linear from a to b. code: GC-GAN from E(a) to E(b) on the sphere, PaperGCGAN linear.
    """
    if path != "code" or not isinstance(editor, GCGANEditor):
        return torch.cat([editor.images(partway(a, b, value)) for value in t.tolist()])
    method, device = editor.method, editor.device
    z_a, z_b = (method.encoder(code["points"].to(device)) for code in (a, b))
    z = slerp(z_a, z_b, t.to(device)[:, None])[:, 0]  # (T, code_dim)
    return method.edit(a["x"].to(device).expand(len(t), -1, -1, -1), z.float()).cpu()


def evenness_of(editor: Editor, judge: Judge | None, images: Tensor, name: str) -> tuple[float, float]:
    """Spearman correlation of time and p(name) over frames (T, C, H, H), and the largest change of p in one step.

    p is predicted by the judge, or by the critic's class head. If p is constant, the correlation is 0.
    """
    from scipy.stats import spearmanr

    if judge is not None:
        p = judge.probabilities(images, [name])[:, 0]
    else:
        p = critic_probability(editor, images, name)
    flat = float(p.max() - p.min()) < FLAT
    correlation = 0.0 if flat else float(spearmanr(range(len(p)), p.numpy()).statistic)
    return correlation, float(p.diff().abs().max())


def critic_probability(editor: Editor, images: Tensor, name: str) -> Tensor:
    """p(name) (T,), predicted by the critic's class head for images (T, C, H, H)."""
    critic, labels = editor.method.critic, editor.method.labels
    if critic.head is None:
        raise UserError("transition: the critic of this run has no class head; give a judge with --judge")
    block = next(block for block in labels.blocks if name in block.names)
    logits = critic.logits(critic.features(images.to(editor.device)))[:, block.columns].cpu()
    return (logits.sigmoid() if block.attributes else logits.softmax(1))[:, block.names.index(name)]


# Driving.


def run_drive(editor: Editor, args: argparse.Namespace) -> None:
    """Write one face with the expressions of another person's frames. Pose, position and light do not change."""
    editor = need_gcgan(editor, "drive")
    face = editor.subjects([args.image], args.eyes)
    frames = editor.subjects(args.driving, "whole" if args.eyes == "whole" else None)
    z, seen = driver_codes(editor, frames)
    if len(seen) < len(frames):
        print(f"{len(frames) - len(seen)} of {len(frames)} frames have no landmarks and are left out")
        frames = frames.select(seen)
    code = editor.codes(face)
    z_neutral = neutral_code(editor, args.driver_neutral) if args.relative else None
    points = driven_points(editor, code["points"].to(editor.device), z, z_neutral)
    driven = {"x": code["x"].expand(len(z), -1, -1, -1), "points": points, "known": torch.ones(len(z), 1), "z": z}
    images = editor.images(driven)  # (T, C, H, H)
    path = output_path(editor, args, "drive")
    paths = [path.with_suffix("") / f"frame_{i:04d}.png" for i in range(len(images))]
    check_outputs(paths, [*face.names, *frames.names])
    write_frames(editor, face, images, paths)
    grid = Grid(torch.stack([frames.images, images]), ["driver", "driven"], frames.names)
    facts = {"faces": face.names, "driving": frames.names, "relative": args.relative}
    write_grid(editor, args, grid, "drive", **facts, driver_neutral=str(args.driver_neutral or ""))
    print(f"wrote {animate(torch.stack([frames.images, images], 1), path.with_suffix('.webp'), back=False)}")


def driven_points(editor: GCGANEditor, g: Tensor, z: Tensor, z_neutral: Tensor | None) -> Tensor:
    """Shapes (T, 68, 2) of one person with the drivers' expressions, on the CPU; only the chosen region changes.

    g (1, 68, 2): the person's own shape. z (T, code_dim): codes of the drivers. With z_neutral (1, code_dim), the
    driver's neutral face, the change of the retargeted shape is added to g: g + decode(z, g) - decode(z_neutral, g).
    """
    g = g.expand(len(z), -1, -1)
    if z_neutral is None:
        return editor.retargeted(z, g)
    retarget = editor.method.retarget
    moved = g + retarget(z, g) - retarget(z_neutral.expand(len(z), -1), g)
    return editor.keep_region(moved, g).cpu()


def driver_codes(editor: GCGANEditor, frames: Subjects) -> tuple[Tensor, list[int]]:
    """Codes (T, code_dim) of the frames that have landmarks, and the indices of these frames."""
    points, known = editor.find_landmarks(frames)
    if not known.any():
        raise UserError("drive: no landmarks were found in any frame; give files of landmarks with --landmarks FOLDER")
    seen = known.nonzero()[:, 0].tolist()
    return editor.method.code(points[seen].to(editor.device)), seen


def neutral_code(editor: GCGANEditor, neutral: str | None) -> Tensor:
    """Code (1, code_dim) of the driver's neutral face. Without this face: the mean code of neutral training faces."""
    if neutral:
        return editor.method.code(editor.landmarks_of(editor.subjects([neutral])).to(editor.device))
    places = [k for k, name in enumerate(editor.classes) if canonical(name) == "neutral"]
    if not places:
        raise UserError("drive --relative: this run has no neutral class; give the driver's neutral face with "
                        "--driver-neutral")  # fmt: skip
    print("the driver's neutral face is not given, so the mean neutral expression of the training faces stands for it")
    return editor.method.class_codes[places[0]][None]


def write_frames(editor: Editor, face: Subjects, images: Tensor, paths: list[Path]) -> None:
    """Write each frame (T, C, H, H) as a PNG. A photo keeps its size, and its pixels where the edit changes nothing."""
    photo, before = face.photos[0], editor.reconstruct(face)
    for image, path in zip(images, paths, strict=True):
        picture = to_pil(image) if photo is None else paint_photo(photo, before, image[None], "blend")
        save_image(picture, path)
    print(f"wrote {len(images)} frames into {paths[0].parent}")


def add_transition(parser: argparse.ArgumentParser) -> None:
    """Options of `transition`."""
    parser.add_argument("image", help="a photo, or a face of the data as test:12")
    parser.add_argument("--to", required=True, help="expressions joined by commas, as happy,sad")
    parser.add_argument("--path", choices=("landmarks", "code", "label"), help="way between them; default: as edits go")
    parser.add_argument("--n", type=int, default=9, help="frames from one expression to the next, both included")
    parser.add_argument("--judge", type=Path, help="run directory of a judge, which then reads p; default: the critic")
    parser.add_argument("--eyes", help="eyes of a photo, x1,y1,x2,y2 in px, or whole; default: detect the face")
    parser.add_argument("--from", dest="source", help="current label of the face, as happy or Smiling=0")


def add_drive(parser: argparse.ArgumentParser) -> None:
    """Options of `drive`."""
    parser.add_argument("image", help="a photo, or a face of the data as test:12")
    parser.add_argument("--driving", nargs="+", required=True, help="folder of frames in their order, or faces by name")
    parser.add_argument("--relative", action="store_true", help="add the driver's change from neutral to the own shape")
    parser.add_argument("--driver-neutral", help="the driver's neutral face, for --relative")
    parser.add_argument("--eyes", help="eyes of a photo, x1,y1,x2,y2 in px, or whole; default: detect the face")
