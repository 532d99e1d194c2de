"""Metrics of one run: the modes `report`, `embed` and `curve`. `evaluation/` compares methods."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editing.editor import Editor
from editing.judge import Judge, edit_metrics
from editing.logs import plot_log
from editing.record import output_path, write_record, write_report
from editing.subjects import SPLITS, Subjects
from engine import UserError, save_grid
from gcgan.modes import need_gcgan
from gcgan.probes import knn_accuracy, same_person_nearest, shape_r2
from losses.image_metrics import psnr, sharpness

NOISES = (0.0, 0.02, 0.045)  # on landmarks, in eye distances; found landmarks of small pictures are at the last
CURVES = {  # panels of `curve`, and which keys of the log belong there
    "losses": ("Loss_D", "Loss_G", "D/loss", "loss"),
    "D(x) and D(G) (probabilities; with wgan scores)": ("D/real", "D/fake_before", "D/fake_after"),
    "how much higher real faces score: than fakes, than under a wrong label": ("D/gap", "D/gap_label"),
    "weighted terms of the generator": ("G/",),
    "landmarks": ("geometry/", "D/landmarks"),
}


def run_report(editor: Editor, args: argparse.Namespace) -> None:
    """Metrics of one run on --n faces spread over a split. With --judge: confusion and a grid of the worst edits."""
    if not editor.classes:
        raise UserError("report: works for expressions only, and this run has attributes; use `export` and evaluation/")
    part = editor.split(args.split)
    faces = editor.take(args.split, part.spread_places(min(args.n, len(part))).tolist())
    x, names = faces.images, editor.classes
    edited = [editor.edit(faces, editor.parse(name))[0] for name in names]  # one (N, C, H, H) for each target
    moved = torch.stack([(image - x).abs().mean() for image in edited])
    facts: dict[str, Any] = {
        "faces": len(x),
        "psnr_own_label": float(psnr(editor.reconstruct(faces), x).mean()),
        "psnr_cycle": float(torch.stack([psnr(back_again(editor, faces, e), x).mean() for e in edited]).mean()),
        "l1_of_edits": {name: float(value) for name, value in zip(names, moved, strict=True)},
        "sharpness_of_edits": float(sharpness(torch.cat(edited)).mean() / sharpness(x).mean()),
    }
    if args.judge:
        labels = editor.predict_labels(faces)[:, [editor.label_names().index(name) for name in names]]
        judge = Judge(args.judge, editor)
        found, grid = edit_metrics(judge, names, x, labels.argmax(1), torch.stack(edited))
        facts |= found
        print(f"wrote {save_grid(grid, output_path(editor, args, 'report').with_suffix('.png'))}")
    write_report(editor, args, "report", judge=str(args.judge or ""), **facts)


def back_again(editor: Editor, faces: Subjects, edited: Tensor) -> Tensor:
    """Edit the edited images (N, C, H, H), rounded to 8 bits, back to the original labels or landmarks."""
    code = editor.codes(faces)
    return editor.images(code | {"x": ((edited + 1) * 127.5).round() / 127.5 - 1})


def run_embed(editor: Editor, args: argparse.Namespace) -> None:
    """Write `gcgan.probes` of codes, and the 5-NN accuracy of raw landmarks, at several levels of landmark noise."""
    editor = need_gcgan(editor, "embed")
    faces = editor.subjects(editor.spread(args.split, args.n))
    points, label, person = (faces.batch[key] for key in ("landmarks", "label", "identity"))
    known = points.isfinite().all(2).all(1) & (label >= 0) & (person >= 0)
    points, label, person = points[known], label[known], person[known]
    clean, table = editor.method.standardise(points.to(editor.device)), {}
    generator = torch.Generator().manual_seed(args.seed)
    for noise in NOISES:
        drawn = torch.randn(clean.shape, generator=generator).to(clean)
        g = clean + noise / editor.method.shape_scale * drawn
        z, g = editor.method.encoder(g).cpu(), g.cpu()
        table[f"{noise:g}"] = {
            "5-NN accuracy": knn_accuracy(z, label, person),
            "5-NN accuracy of raw landmarks": knn_accuracy(g.flatten(1), label, person),
            "nearest of the class is the same person": same_person_nearest(z, label, person),
            "R2 of the person's mean shape": shape_r2(z, clean.cpu(), person),
        }
    path = output_path(editor, args, "embed", ".json")
    write_record(editor, args, path, faces=int(known.sum()), split=args.split, by_noise=table)
    for noise, figures in table.items():
        print(f"noise {noise} eye distances: " + ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    print(f"wrote {path}")


def run_curve(editor: Editor, args: argparse.Namespace) -> None:
    """Plot the log against steps."""
    plot_log(editor, args, CURVES, "steps (critic updates)")


def add_report(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")
    parser.add_argument("--n", type=int, default=300, help="faces, spread over the split")
    parser.add_argument("--judge", type=Path, help="a run of evaluation.train_classifier")


def add_embed(parser: argparse.ArgumentParser) -> None:
    """Options of `embed`."""
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")
    parser.add_argument("--n", type=int, default=600, help="faces, spread over the split")
