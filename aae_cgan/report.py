"""Metrics of one run: the modes `latent`, `curve` and `report`. `evaluation/` compares methods."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aae_cgan.editor import Editor
from aae_cgan.figures import code_std, diversity, mmd
from aae_cgan.schedule import boundaries
from data.labels import conditions
from editing.judge import Judge, edit_metrics
from editing.logs import plot_log
from editing.record import output_path, write_report
from editing.subjects import SPLITS
from engine import UserError, save_grid
from losses.image_metrics import psnr, sharpness

TERMS = {  # panels of the plot, and their log keys
    "total loss": ("loss",),
    "terms of encoder and generator": ("G/",),
    "critics: real - fake": ("D/gap_image", "D/gap_label", "D/gap_latent"),
    "critics: losses": ("D/image", "D/latent", "D/norm", "D/r1", "D/gp_grad_norm", "guide"),
}


def run_latent(editor: Editor, args: argparse.Namespace) -> None:
    """Codes against N(0, I): moments, spectrum, MMD, the critic's score gap, and label accuracy of a linear probe."""
    train, y_train = codes(editor, "train", 4000)
    z, y = codes(editor, args.split, 2000)
    generator = torch.Generator().manual_seed(args.seed)
    draws = torch.randn(z.shape, generator=generator)
    spectrum = torch.linalg.eigvalsh(torch.cov(z.double().T)).flip(0)
    critic = editor.method.d_latent
    gap = critic(draws.to(editor.device)).mean() - critic(z.to(editor.device)).mean()
    facts = {
        "faces": len(z),
        "mean_abs": float(z.mean(0).abs().mean()),
        "std": float(code_std(z)),
        "spectrum": [float(v) for v in spectrum[[0, len(spectrum) // 2, -1]]],
        "mmd": mmd(z, draws),
        "mmd_two_prior_samples": mmd(torch.randn(z.shape, generator=generator), draws),
        "critic_gap": float(gap),
        "probe": probe(train, y_train, z, y, bool(editor.attributes)),
    }
    write_report(editor, args, "latent", **facts)


def codes(editor: Editor, split: str, n: int) -> tuple[Tensor, Tensor]:
    """Codes (N, Z) and labels (N, K) of at most n known faces of a split."""
    part = editor.split(split)
    faces = editor.take(split, part.spread_places(min(n, len(part))).tolist())
    _, known = conditions(faces.batch, len(editor.method.names), bool(editor.attributes))
    code = editor.codes(faces)
    return code["z"][known], code["y"][known]


def probe(train: Tensor, y_train: Tensor, z: Tensor, y: Tensor, attributes: bool) -> float:
    """Accuracy of a logistic regression from codes to labels (attributes: the mean over them)."""
    from sklearn.linear_model import LogisticRegression

    columns = zip(y_train.T, y.T, strict=True) if attributes else [(y_train.argmax(1), y.argmax(1))]
    scores = []
    for known, target in columns:
        if len(known.unique()) < 2:
            continue
        model = LogisticRegression(C=0.1, max_iter=500).fit(train.numpy(), known.numpy())
        scores.append(model.score(z.numpy(), target.numpy()))
    return float(np.mean(scores))


def run_curve(editor: Editor, args: argparse.Namespace) -> None:
    """Plot the log against steps, with the phases shaded."""

    def shade(axis: Any) -> None:
        for i, (name, first, stop) in enumerate(boundaries(editor.method.cfg)):
            axis.axvspan(first, stop, alpha=0.06 + 0.08 * (i % 2), color="grey", linewidth=0)
            axis.annotate(name, (first, 1), xycoords=("data", "axes fraction"), va="top", fontsize=7)

    plot_log(editor, args, TERMS, "batches", shade)


def run_report(editor: Editor, args: argparse.Namespace) -> None:
    """Metrics of one run on --n faces spread over a split. With --judge: confusion and a grid of the worst edits."""
    if editor.attributes:
        raise UserError("report: works for expressions only, and this run has attributes; use `export` and evaluation/")
    part = editor.split(args.split)
    faces = editor.take(args.split, part.spread_places(min(args.n, len(part))).tolist())
    x, (z, y), num = faces.images, editor.codes(faces).values(), len(editor.classes)
    decode = lambda z, y: editor.images({"z": z, "y": y})  # noqa: E731
    x_hat = decode(z, y)
    target = torch.arange(num).repeat_interleave(len(x))
    edited = decode(z.repeat(num, 1), torch.eye(num)[target])  # (K N, C, H, H), target by target
    group = torch.arange(len(x)) % num
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(args.seed))
    draws = decode(noise, torch.eye(num)[group])
    facts: dict[str, Any] = {
        "faces": len(x),
        "l1": float((x_hat - x).abs().mean()),
        "psnr": float(psnr(x, x_hat).mean()),
        "code_std": float(code_std(z)),
        "sharpness_of_edits": float(sharpness(edited).mean() / sharpness(x).mean()),
        "diversity_of_draws": diversity(draws, group) / diversity(x, y.argmax(1)),
        "diversity_of_rows": diversity(edited, target) / diversity(x, torch.zeros(len(x))),
    }
    if args.judge:
        judge, source = Judge(args.judge, editor), y.argmax(1)
        accuracy = lambda images, k: float((judge.probabilities(images, editor.classes).argmax(1) == k).float().mean())  # noqa: E731
        found, grid = edit_metrics(judge, editor.classes, x, source, edited.unflatten(0, (num, len(x))))
        facts |= found | {"judge_on_reconstructions": accuracy(x_hat, source), "judge_on_draws": accuracy(draws, group)}
        print(f"wrote {save_grid(grid, output_path(editor, args, 'report').with_suffix('.png'))}")
    write_report(editor, args, "report", judge=str(args.judge or ""), **facts)


def add_report(parser: argparse.ArgumentParser) -> None:
    """The options of `report`."""
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")
    parser.add_argument("--n", type=int, default=500, help="faces, spread over the split")
    parser.add_argument("--judge", type=Path, help="a run of evaluation.train_classifier")
