"""Use a trained run: `python a2f/sample.py MODE --run-dir DIR ...`.

Modes of all families: draw, edit, strip, slider, recon, interpolate, export. Modes of this family: grid, toggle,
stages, sketch, samples.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from a2f.drawing import load_drawing
from a2f.editor import Editor, FaceEditor
from data.request import Request
from editing.cli import Mode, sample_main
from editing.export import save_all
from editing.modes import take_images
from editing.record import write_grid
from editing.subjects import SPLITS
from engine import Grid, UserError
from engine.files import atomic_dir
from evaluation.manifest import Row, write_export, write_manifest


def grid(editor: Editor, args: argparse.Namespace) -> None:
    """A grid: rows are requests (--attr, completed from the joint distribution), columns are noises."""
    base = editor.draw(range(args.seed, args.seed + args.rows), _request(editor, args))
    attr = editor.codes(base)["attr"]
    rows = [
        editor.images(editor.codes_for(range(args.seed, args.seed + args.n), row.expand(args.n, -1))) for row in attr
    ]
    texts = [", ".join(name for name, v in zip(editor.attributes, row, strict=True) if v > 0.5) for row in attr]
    captions = [_two_lines(text) for text in texts]
    write_grid(editor, args, Grid(torch.stack(rows), captions), "grid", requests=texts, n=args.n)


def toggle(editor: Editor, args: argparse.Namespace) -> None:
    """One generated face, or a photo: each attribute off and on, and the difference."""
    request = _request(editor, args)
    faces = editor.subjects([args.image]) if args.image else editor.draw([args.seed], request)
    blocks = []
    for name in editor.attributes:
        off, on = (editor.edit(faces, editor.parse(f"{name}={v}"))[0, 0] for v in (0, 1))
        blocks.append(torch.stack([off, on, (on - off) / 2]))
    names = ["off", "on", "change"]
    write_grid(editor, args, Grid(torch.stack(blocks), list(editor.attributes), names), "toggle", faces=faces.names)


def stages(editor: FaceEditor, args: argparse.Namespace) -> None:
    """n generated faces: rough sketch, sharp sketch, face, and the face with three other colour codes."""
    _need_face(editor, "stages")
    faces = editor.draw(range(args.seed, args.seed + args.n), _request(editor, args))
    code, method = editor.codes(faces), editor.method
    t = method.texture(editor.a(code["attr"]))
    z = editor.noise(range(args.seed, args.seed + args.n))[:, : method.chain.noise_dim].to(editor.device)
    rough = method.chain.dream(t, z).cpu()
    others = [editor.images(code | {"colour": code["colour"].roll(k, 0)}) for k in (1, 2, 3)]
    wide = lambda s: s.expand(-1, editor.meta["channels"], -1, -1)  # noqa: E731
    images = torch.stack([wide(rough), wide(code["sketch"]), faces.images, *others])
    names = ["rough sketch", "sharp sketch", "face", *["other colour code"] * 3]
    write_grid(editor, args, Grid(images, names), "stages", faces=faces.names)


def sketch(editor: FaceEditor, args: argparse.Namespace) -> None:
    """Faces from the user's drawings: the drawing as read and as used, then n faces with different colour codes.

    `--path direct` (the default) gives the drawing to stage 3: the face has its lines. `--path redraw` sends it through
    stages 1 and 2 first, which make it more similar to the training sketches and lose what they cannot draw.
    """
    _need_face(editor, "sketch")
    take_images(args.attr, args.images)
    if not args.images:
        raise UserError("sketch: expected at least one drawing, such as: sketch me.png --attr Male=0 Smiling=1")
    request, size = _request(editor, args), editor.meta["image_size"]
    drawn = torch.cat([load_drawing(path, size, sketch_mean(editor)) for path in args.images])
    rows, captions = [], []
    for k, path in enumerate(args.images):
        seeds = range(args.seed, args.seed + args.n)
        s = drawn[k : k + 1].expand(args.n, -1, -1, -1).contiguous()
        faces = editor.from_sketches(s, [f"{path}#{seed}" for seed in seeds], seeds, request)
        if args.path == "redraw":
            t = editor.method.texture(editor.a(editor.codes(faces)["attr"]))
            chain = editor.method.chain
            s = chain.sharpened(chain.redrawn(s.to(editor.device), t, mean=True), t).cpu()
            faces = editor.from_sketches(s, faces.names, seeds, request)
        wide = lambda x: x.expand(-1, editor.meta["channels"], -1, -1)  # noqa: E731
        rows.append(torch.cat([wide(drawn[k : k + 1]), wide(s[:1]), faces.images]))
        captions.append(Path(path).name)
    columns = ["as read", "as used", *[f"colour {i + 1}" for i in range(args.n)]]
    write_grid(editor, args, Grid(torch.stack(rows), captions, columns), "sketch", attr=str(request or ""),
               drawings=args.images, path_taken=args.path)  # fmt: skip


def samples(editor: Editor, args: argparse.Namespace) -> None:
    """Write a folder for evaluation/: one image for each of n faces of a split, with that face's attributes as request.

    --entry noise: sampled from noise (CGAN, A2F-noise). --entry sketch: from that face's sketch, with another colour
    code (A2F-sketch).
    """
    if args.out is None:
        raise UserError("samples: expected an output folder; give --out FOLDER")
    if args.entry == "sketch":
        _need_face(editor, "--entry sketch")
    faces = editor.split(args.split)
    n = min(args.n, len(faces))
    places = [i * len(faces) // n for i in range(n)]
    subjects, images = editor.take(args.split, places), []
    attr = editor.completed(subjects.batch)
    for start in range(0, n, editor.batch_size):
        part = subjects.select(range(start, min(start + editor.batch_size, n)))
        seeds = range(args.seed + start, args.seed + start + len(part))
        code = editor.codes_for(seeds, attr[start : start + len(part)])
        if args.entry == "sketch":
            code = code | {"sketch": editor.method.sketch_of({k: v.to(editor.device) for k, v in part.batch.items()})}
        images.append(editor.images(code))
    with atomic_dir(args.out) as folder:
        names = save_all(torch.cat(images), folder, "sample", n)
        rows = [Row(name, "sample", target=_target(editor, a), seed=args.seed + i)
                for i, (name, a) in enumerate(zip(names, attr, strict=True))]  # fmt: skip
        write_manifest(folder, rows)
        write_export(folder, editor.method.origin, editor.meta, "sample", guides=editor.guides(), entry=args.entry,
                     base="", **editor.facts())  # fmt: skip
    print(f"wrote {n} images into {args.out}")


def sketch_mean(editor: FaceEditor) -> float:
    """The mean of a sketch, in [0, 1], over at most 256 validation faces."""
    faces = editor.split("val")
    batch = faces.fixed(min(256, len(faces)), editor.device)
    return float((editor.method.sketch_of(batch).mean() + 1) / 2)


def _need_face(editor: Editor, what: str) -> None:
    if not isinstance(editor, FaceEditor):
        system = editor.method.cfg.system
        raise UserError(f"{what}: expected a run of system face, but {editor.run_dir} is a run of system {system}")


def _target(editor: Editor, row: Tensor) -> str:
    return ";".join(f"{name}={int(v > 0.5)}" for name, v in zip(editor.attributes, row, strict=True))


def _request(editor: Editor, args: argparse.Namespace) -> Request | None:
    return editor.parse(args.attr) if args.attr else None


def _two_lines(text: str) -> str:
    words = text.split(", ")
    half = (len(words) + 1) // 2
    return "\n".join(", ".join(part) for part in (words[:half], words[half:]) if part)


def _add_attr(parser: argparse.ArgumentParser, n: int, help_n: str) -> None:
    parser.add_argument("--attr", nargs="+", action="extend", help="requested attributes, such as Male=0 Smiling=1")
    parser.add_argument("--n", type=int, default=n, help=help_n)


def _add_grid(parser: argparse.ArgumentParser) -> None:
    _add_attr(parser, 8, "number of noises")
    parser.add_argument("--rows", type=int, default=8, help="number of requests")


def _add_toggle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--attr", nargs="+", action="extend", help="requested attributes, such as Male=0 Smiling=1")
    parser.add_argument("--image", help="test:N or a photo (face runs only); default: the generated face seed:SEED")


def _add_sketch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="*", help="image files of drawings: dark lines on light paper, or the reverse")
    _add_attr(parser, 6, "faces per drawing")
    parser.add_argument("--path", choices=["direct", "redraw"], default="direct", help="with or without stages 1 and 2")


def _add_samples(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n", type=int, default=2000, help="number of faces of the split")
    parser.add_argument("--split", choices=SPLITS, default="test", help="the split whose attributes are requested")
    parser.add_argument("--entry", choices=["noise", "sketch"], default="noise", help="the input of the generator")


MODES = {
    "grid": Mode(grid, "requests x noises", _add_grid),
    "toggle": Mode(toggle, "one face, each attribute off and on", _add_toggle),
    "stages": Mode(stages, "rough sketch, sharp sketch and face", lambda p: _add_attr(p, 8, "number of faces")),
    "sketch": Mode(sketch, "faces from your own drawings", _add_sketch),
    "samples": Mode(samples, "a folder of requested faces for evaluation/", _add_samples),
}


def main(argv: list[str] | None = None) -> None:
    sample_main(Editor, MODES, __doc__ or "", argv)


if __name__ == "__main__":
    main()
