"""Use a trained generator: `python interface_gan/sample.py MODE --run-dir runs/interface_gan/NAME ...`.

Start with `boundary --guide RUN`: it scores 20,000 codes and fits the boundaries, which all edits need. A face is a
file (your own photo), `test:12` (a face of the run's data set) or `seed:7` (a generated face).
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from data.request import AttributeEdit, Request
from editing.cli import Mode, sample_main
from editing.record import output_path, write_grid, write_record
from engine import Grid, UserError
from engine.checkpoint import save_fields
from engine.files import atomic_text
from evaluation import classifier
from interface_gan.boundary import boundaries_path, describe, fit_boundaries
from interface_gan.codes import draw_z, images_of, map_z
from interface_gan.editor import REFERENCE_FACES, Editor
from interface_gan.project import distance, percentile
from interface_gan.real_report import real_flips
from interface_gan.report import edit_metrics
from interface_gan.score import Scores, read_images, read_scores, score_codes
from latents.boundaries import ESTIMATORS
from losses import image_metrics

STEPS = "-3:3:7"  # the steps of `walk`, in standard deviations of the reading


def score(editor: Editor, args: argparse.Namespace) -> Scores:
    """Score --num codes with a guide. An interrupted command continues."""
    guide = classifier.load(args.guide, role="guide", device=args.device)
    scores = score_codes(
        editor.generator, editor.method.origin.sha256, guide, editor.split("train"), args.num, args.seed,
        editor.run_dir / "scores",
    )  # fmt: skip
    print(f"{len(scores.logits)} codes scored by {args.guide}")
    return scores


def boundary(editor: Editor, args: argparse.Namespace) -> None:
    """Fit and save boundaries, and print their quality."""
    scores, dim = score(editor, args), editor.method.cfg.model.latent_dim
    z = draw_z(args.num, dim, args.seed)
    codes = {"z": z, "w": map_z(editor.generator, z)}
    for space in args.space:
        for estimator in args.fit:
            found = fit_boundaries(codes[space], scores, space, estimator, args.extremes)
            path = boundaries_path(editor.run_dir, space, estimator)
            save_fields(found, path)
            text = describe(found)
            atomic_text(path.with_suffix(".txt"), text + "\n")
            print(f"\n{space}, {estimator}: {path}\n{text}")


def walk(editor: Editor, args: argparse.Namespace) -> None:
    """Move generated faces along one attribute: a row per face, a column per step, with the guide's probability below.

    --compare: three rows per face: the paper's normal, its projection orthogonal to the kept normals, the least step.
    """
    (move,) = editor.parse(args.attr[0] if "=" in args.attr[0] else f"{args.attr[0]}={STEPS}")
    if move.form not in ("range", "step", "absolute"):
        raise UserError(f"walk --attr {move}: expected steps, such as {move.name}={STEPS}")
    faces = editor.draw(range(args.seed, args.seed + args.n))
    kinds = [("", editor.options.move, editor.options.keep)]
    if args.compare:
        kinds = [("normal", "paper", ("none",)), ("projected", "paper", ("auto",)), ("least step", "least", ("auto",))]
    rows, names = [], []
    options = editor.options
    for text, kind, keep in kinds:
        editor.options = type(options)(kind, keep, options.estimator, options.layers)
        images = [walked(editor, faces, AttributeEdit(move.name, "step", value, is_class=move.is_class), args.space)
                  for value in move.values()]  # fmt: skip
        rows.append(torch.stack(images, 1))  # (N, K, C, H, H)
        names.append([f"{name}\n{text}".strip() for name in faces.names])
    editor.options = options
    table = torch.stack(rows, 1).flatten(0, 1)  # (N x kinds, K, C, H, H)
    captions = [f"{value:+.2g} sigma" for value in move.values()]
    grid = Grid(table, [name for group in zip(*names, strict=True) for name in group], captions)
    grid.tiles = seen(editor, table, move.name)
    write_grid(editor, args, grid, "walk", attr=str(move), space=args.space, faces=faces.names)


def walked(editor: Editor, faces: object, move: AttributeEdit, space: str) -> Tensor:
    """Images of generated faces after one step, in w or in z."""
    if space == "w":
        return editor.edit(faces, Request((move,)))[0]
    dim = editor.method.cfg.model.latent_dim
    z = torch.cat([draw_z(1, dim, int(name.removeprefix("seed:"))) for name in faces.names])
    step = editor.plan(z, faces, Request((move,)), "z").step
    return editor.images({"ws": editor.generator.broadcast(map_z(editor.generator, z + step))})


def seen(editor: Editor, table: Tensor, name: str) -> list[list[str]]:
    """The guide's probability of a name for images (R, K, C, H, H), as texts."""
    guide = editor.guide()
    p = guide.probabilities(read_images(guide, table.flatten(0, 1)))[:, guide.names.index(name)]
    return [[f"{v:.2f}" for v in row] for row in p.view(table.shape[:2]).tolist()]


def extremes(editor: Editor, args: argparse.Namespace) -> None:
    """The sampled faces with the lowest scores, scores near 0, and the highest scores. It reveals a wrong guide."""
    held = editor.boundaries("w")
    scores = read_scores(editor.run_dir / "scores", held.provenance)
    if args.attr[0] not in scores.names:
        raise UserError(f"--attr {args.attr[0]}: expected one of {', '.join(scores.names)}")
    column = scores.logits[:, scores.names.index(args.attr[0])]
    order = column.argsort()
    rows = torch.cat([order[: args.n], column.abs().argsort()[: args.n], order.flip(0)[: args.n]])
    z = draw_z(len(column), editor.method.cfg.model.latent_dim, scores.seed)[rows]
    images = images_of(editor.generator, editor.generator.broadcast(map_z(editor.generator, z)))
    tiles = [[f"{v:.1f}" for v in part] for part in column[rows].view(3, -1).tolist()]
    grid = Grid(images.unflatten(0, (3, -1)), ["lowest", "at 0", "highest"], [], tiles)
    write_grid(editor, args, grid, "extremes", attr=args.attr[0])


def project(editor: Editor, args: argparse.Namespace) -> None:
    """Faces and their inversions. It prints the percentile of the residual among those of validation faces."""
    reference_faces = editor.take("val", editor.split("val").spread_places(REFERENCE_FACES).tolist())
    faces = editor.subjects(args.images or editor.spread("test", args.n), args.eyes)
    maps = editor.method.discriminator.features
    residual = [
        distance(editor.reconstruct(some).to(editor.device), some.images.to(editor.device), maps).cpu()
        for some in (reference_faces, faces)
    ]
    place = percentile(residual[1], residual[0])
    psnr = image_metrics.psnr(faces.images, editor.reconstruct(faces))
    typical = editor.stats.typicality(editor.codes(faces)["ws"])
    tiles = [[""] * len(faces), [f"{p:.1f} dB" for p in psnr.tolist()]]
    for name, p, t in zip(faces.names, place.tolist(), typical.tolist(), strict=True):
        verdict = "unlike the training faces: check --eyes" if p > 95 else "typical"
        print(
            f"{name}: residual at percentile {p:.0f} of {REFERENCE_FACES} validation faces ({verdict}); "
            f"typicality {t:.1f}"
        )
    print(f"mean PSNR {psnr.mean():.2f} dB")
    grid = Grid(torch.stack([faces.images, editor.reconstruct(faces)]), ["input", "inversion"], faces.names, tiles)
    write_grid(
        editor, args, grid, "project", psnr=psnr.tolist(), percentile=place.tolist(), typicality=typical.tolist()
    )


def report(editor: Editor, args: argparse.Namespace) -> None:
    """Write a judge's metrics of generated faces and their edits: a table and a JSON file."""
    judge = classifier.load(args.judge, role="judge", device=args.device)
    found, text = edit_metrics(editor, judge, args.attr, args.n)
    path = output_path(editor, args, "report", ".json")
    atomic_text(path, json.dumps(found, indent=1))
    write_record(editor, args, path.with_name(f"{path.stem}_command.json"), judge=str(args.judge))
    print(f"{text}\nwrote {path}")


def report_real(editor: Editor, args: argparse.Namespace) -> None:
    """Write a judge's metrics of edits of inverted test faces, in W and W+: a table and a JSON file."""
    judge = classifier.load(args.judge, role="judge", device=args.device)
    found, text = real_flips(editor, judge, args.attr, args.n)
    path = output_path(editor, args, "report_real", ".json")
    atomic_text(path, json.dumps(found, indent=1))
    print(f"{text}\nwrote {path}")


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--guide", type=Path, required=True, help="a run of evaluation.train_classifier, role guide")
    parser.add_argument("--num", type=int, default=20_000, help="number of codes")


def _add_boundary(parser: argparse.ArgumentParser) -> None:
    _add_score(parser)
    parser.add_argument("--space", nargs="+", choices=["w", "z"], default=["w"], help="spaces of the boundaries")
    parser.add_argument("--fit", nargs="+", choices=ESTIMATORS, default=["ridge_rank"], help="estimators")
    parser.add_argument("--extremes", type=float, default=0.02, help="codes per side for svc: a share, or a number")


def _add_walk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--attr", nargs="+", required=True, help=f"a name, or steps such as Smiling={STEPS}")
    parser.add_argument("--n", type=int, default=6, help="number of faces, from seed:SEED")
    parser.add_argument("--space", choices=["w", "z"], default="w", help="the space of the steps")
    parser.add_argument("--compare", action="store_true", help="also show the paper's two moves")


def _add_extremes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--attr", nargs=1, required=True, help="a name that the guide has")
    parser.add_argument("--n", type=int, default=8, help="faces per row")


def _add_project(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="*", help="photos, folders, test:N; default: --n test faces")
    parser.add_argument("--n", type=int, default=8, help="number of faces")
    parser.add_argument("--eyes", help="x1,y1,x2,y2 of a photo in px, or whole; default: find the face")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--judge", type=Path, required=True, help="a run of evaluation.train_classifier, role judge")
    parser.add_argument("--attr", nargs="+", default=[], help="names; default: all that have a boundary")
    parser.add_argument("--n", type=int, default=200, help="number of faces")


MODES = {
    "score": Mode(score, "a guide's logits for sampled codes", _add_score),
    "boundary": Mode(boundary, "score, fit boundaries, and print their quality", _add_boundary),
    "walk": Mode(walk, "generated faces along one attribute", _add_walk),
    "extremes": Mode(extremes, "sampled faces with the lowest and highest scores", _add_extremes),
    "project": Mode(project, "inversions of faces and photos", _add_project),
    "report": Mode(report, "a judge's metrics of edits of generated faces", _add_report),
    "report-real": Mode(report_real, "a judge's metrics of edits of inverted test faces", _add_report),
}


def main(argv: list[str] | None = None) -> None:
    sample_main(Editor, MODES, __doc__.splitlines()[0], argv)


if __name__ == "__main__":
    main()
