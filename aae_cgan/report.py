"""What a run is worth, in numbers: `latent`, `curve`, `report`. The table of all methods is evaluation's."""

import argparse
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aae_cgan.edit import class_order
from aae_cgan.figures import diversity, edit_table, mmd, sharpness
from aae_cgan.schedule import boundaries
from aae_cgan.session import Session, add_judge
from engine import Grid, UserError
from engine.files import atomic_write
from evaluation.session import add_split

WORST = 8  # edits shown
TERMS = {  # the parts of the curve, and which keys of the log belong there
    "total loss": ("loss",),
    "terms of encoder and generator": ("G/",),
    "critics: real - fake": ("D/gap",),
    "critics: losses": ("D/image", "D/latent", "D/norm", "D/r1", "D/slope", "guide"),
}


def run_latent(args: argparse.Namespace) -> None:
    """Codes against N(0, I): moments, spectrum, MMD, the critic's gap, what a linear probe reads of the label."""
    session = Session(args)
    train, y_train = codes(session, "train", 4000)
    z, y = codes(session, args.split, 2000)
    draws = torch.randn(z.shape, generator=session.generator)
    spectrum = torch.linalg.eigvalsh(torch.cov(z.double().T)).flip(0)
    with torch.inference_mode():
        critic = session.method.d_latent
        gap = critic(draws.to(session.device)).mean() - critic(z.to(session.device)).mean()
    facts = {
        "faces": len(z),
        "mean_abs": float(z.mean(0).abs().mean()),
        "std": float(z.std(0).mean()),
        "spectrum": [float(v) for v in spectrum[[0, len(spectrum) // 2, -1]]],
        "mmd": mmd(z, draws),
        "mmd_of_two_draws": mmd(torch.randn(z.shape, generator=session.generator), draws),
        "critic_gap": float(gap),
        "probe": probe(train, y_train, z, y, session.attributes),
    }
    path = session.path("latent", ".json")
    session.note(path, **facts)
    for name, value in facts.items():
        print(f"{name:18} {value}")
    print(f"wrote {path}")


def codes(session: Session, split: str, n: int) -> tuple[Tensor, Tensor]:
    """Codes (N, Z) and labels (N, K) of at most n known faces of a split."""
    faces = session.split(split)
    batch = faces.fixed(min(n, len(faces)))
    y, known = session.labels(batch)
    return session.encode(batch["image"][known]), y[known]


def probe(train: Tensor, y_train: Tensor, z: Tensor, y: Tensor, attributes: bool) -> float:
    """Accuracy of a logistic regression from codes to labels (attributes: the mean over them)."""
    from sklearn.linear_model import LogisticRegression

    columns = zip(y_train.T, y.T, strict=True) if attributes else [(y_train.argmax(1), y.argmax(1))]
    scores = []
    for known, asked in columns:
        if len(known.unique()) < 2:
            continue
        model = LogisticRegression(C=0.1, max_iter=500).fit(train.numpy(), known.numpy())
        scores.append(model.score(z.numpy(), asked.numpy()))
    return float(np.mean(scores))


def run_curve(args: argparse.Namespace) -> None:
    """The log against batches; the phases are shaded."""
    from matplotlib.figure import Figure

    session = Session(args)
    path = session.dir / "log.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: is missing; the run has no log")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    figure = Figure(figsize=(9, 11), layout="constrained")
    for axis, (title, keys) in zip(figure.subplots(len(TERMS), 1, sharex=True), TERMS.items(), strict=True):
        for key in sorted({k for row in rows for k in row}):
            if any(key == k or (key.startswith(k) and k[-1] in "/p") for k in keys):
                points = [(row["step"], row[key]) for row in rows if key in row]
                axis.plot(*zip(*points, strict=True), label=key, linewidth=1)
        for i, (name, first, stop) in enumerate(boundaries(session.method.cfg)):
            axis.axvspan(first, stop, alpha=0.06 + 0.08 * (i % 2), color="grey", linewidth=0)
            axis.annotate(name, (first, 1), xycoords=("data", "axes fraction"), va="top", fontsize=7)
        axis.set_title(title, fontsize=9)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    axis.set_xlabel("batches")
    written = session.path("curve")
    with atomic_write(written) as file:
        figure.savefig(file, format="png", dpi=110)
    session.note(written)
    print(f"wrote {written}")


def run_report(args: argparse.Namespace) -> None:
    """Figures of one run on --n faces spread over a split; with --judge the confusion and the worst edits."""
    session = Session(args)
    if session.attributes:
        raise UserError("report: this run edits attributes; export it and let evaluation/ read the folder")
    faces = session.split(args.split)
    batch = faces.fixed(min(args.n, len(faces)))
    x, (y, _) = batch["image"], session.labels(batch)
    z, num = session.encode(x), len(session.names)
    x_hat = session.decode(z, y)
    target = torch.arange(num).repeat_interleave(len(x))
    edited = session.decode(z.repeat(num, 1), torch.eye(num)[target])  # (K N, C, H, H), target by target
    group = torch.arange(len(x)) % num
    draws = session.decode(torch.randn(z.shape, generator=session.generator), torch.eye(num)[group])
    facts: dict[str, Any] = {
        "faces": len(x),
        "l1": float((x_hat - x).abs().mean()),
        "psnr": float(10 * torch.log10(4 / (x_hat - x).square().flatten(1).mean(1)).mean()),
        "code_std": float(z.std(0).mean()),
        "sharpness_of_edits": sharpness(edited) / sharpness(x),
        "diversity_of_draws": diversity(draws, group) / diversity(x, y.argmax(1)),
        "diversity_of_rows": diversity(edited, target) / diversity(x, torch.zeros(len(x))),
    }
    if session.judge is not None:
        facts |= judged(session, x, y, x_hat, edited, target, draws, group)
    path = session.path("report", ".json")
    session.note(path, judge=str(args.judge or ""), **facts)
    for name, value in facts.items():
        print(f"{name:20} {round(value, 4) if isinstance(value, float) else value}")
    print(f"wrote {path}")


def judged(
    session: Session, x: Tensor, y: Tensor, x_hat: Tensor, edited: Tensor, target: Tensor, draws: Tensor, group: Tensor
) -> dict[str, Any]:
    """What the judge sees in edits, beside what it sees in real faces and reconstructions; a picture of the worst."""
    source, num = y.argmax(1), len(session.names)
    real, shown = session.verdicts(x), session.verdicts(edited)
    table, accuracy = edit_table(shown, source.repeat(num), target, num)
    at = torch.arange(len(target))
    gain = shown[at, target] - real.repeat(num, 1)[at, target]
    counted = source.repeat(num) != target
    worst = (shown[at, target] + ~counted).argsort()[:WORST]
    pairs = torch.stack([x.repeat(num, 1, 1, 1)[worst], edited[worst]])
    captions = [f"{session.names[source[i % len(x)]]} to {session.names[target[i]]}" for i in worst.tolist()]
    session.write(Grid(pairs, ["source", "edit"], captions), "report", judge=str(session.args.judge))
    recall = {name: float((real.argmax(1) == k)[source == k].float().mean()) for k, name in enumerate(session.names)}
    return {
        "judge_on_real": float((real.argmax(1) == source).float().mean()),
        "judge_on_reconstructions": float((session.verdicts(x_hat).argmax(1) == source).float().mean()),
        "judge_on_draws": float((session.verdicts(draws).argmax(1) == group).float().mean()),
        "edit_accuracy": float(accuracy.nanmean()),
        "edit_accuracy_by_target": {session.names[k]: float(accuracy[k]) for k in class_order(session.names)},
        "recall_on_real": recall,
        "target_gain": float(gain[counted].mean()),
        "confusion": [[round(v, 3) for v in row] for row in table.tolist()],
    }


def add_report(parser: argparse.ArgumentParser) -> None:
    """The options of `report`."""
    add_split(parser)
    parser.add_argument("--n", type=int, default=500, help="faces, spread over the split")
    add_judge(parser)
