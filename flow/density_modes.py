"""Modes of `sample.py` that read the density: classify, score, report."""

import argparse
import csv
import io
import json
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from data.labels import label_names
from engine import UserError
from engine.files import atomic_text, atomic_write
from engine.grids import to_uint8
from evaluation.session import add_faces, add_split
from flow.alarms import level_drifts
from flow.directions import pooled
from flow.edit import decode_photo
from flow.edit_modes import require_labels
from flow.likelihood import bayes_accuracy, class_log_probs, fit_temperature
from flow.session import BATCH, Session
from flow.yardsticks import yardsticks
from latents.area import area
from latents.directions import lda_scores
from losses.quantise import dequantise, to_levels

SAMPLES = 1024


def run_classify(args: argparse.Namespace) -> None:
    """The Bayes classifier: accuracy, confusion, calibrated likelihood of the labels."""
    session = Session(args)
    require_labels(session)
    scores, target = scored(session, args.split, args.n)
    accuracy = bayes_accuracy(scores, target).item()
    facts: dict = {"split": args.split, "images": len(scores), "accuracy": round(accuracy, 4)}
    path = session.path("classify", ".json")
    if session.labels.are_classes:
        temperature = fit_temperature(*scored(session, "val", args.n))
        known = target >= 0
        nll = torch.nn.functional.cross_entropy(scores[known].double() / temperature, target[known])
        confusion = confusion_of(scores[known].argmax(1), target[known], len(session.labels))
        facts |= {"temperature": temperature, "nll": nll.item(), "confusion": confusion.tolist()}
        draw_confusion(confusion, session.labels.names, path.with_suffix(".png"))
    else:
        facts["accuracies"] = {
            name: bayes_accuracy(scores[:, [k]], target[:, [k]]).item() for k, name in enumerate(session.labels.names)
        }
    session.note(path, names=session.labels.names, **facts)
    print(f"Bayes classifier: {accuracy:.3f} right on {len(scores)} {args.split} faces; wrote {path}")


def scored(session: Session, split: str, n: int) -> tuple[Tensor, Tensor]:
    """`class_log_probs` and targets of the first n faces of a split (0 = all)."""
    scores, targets, done = [], [], 0
    for batch in session.split(split).once(BATCH, session.device):
        v = dequantise(to_levels(batch["image"], session.n_bits), session.n_bits, 0.5)
        scores.append(class_log_probs(session.flow, session.labels, v, session.labels.of(batch)).cpu())
        targets.append(session.labels.targets(batch).cpu())
        done += len(v)
        if n and done >= n:
            break
    count = n or done
    return torch.cat(scores)[:count], torch.cat(targets)[:count]


def confusion_of(guess: Tensor, target: Tensor, size: int) -> Tensor:
    """(K, K) counts, rows = the true class."""
    return torch.bincount(target * size + guess, minlength=size**2).view(size, size)


def draw_confusion(confusion: Tensor, names: list[str], path: Path) -> None:
    """Shares of each row as a picture."""
    from matplotlib.figure import Figure

    share = confusion / confusion.sum(1, keepdim=True).clamp_min(1)
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share.numpy(), vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(names)), names, rotation=60)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("named by the density")
    axes.set_ylabel("true")
    for r in range(len(names)):
        for c in range(len(names)):
            axes.text(c, r, f"{share[r, c]:.2f}", ha="center", va="center", fontsize=8)
    save_figure(figure, path)


def save_figure(figure: object, path: Path) -> None:
    """A matplotlib figure, whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def run_score(args: argparse.Namespace) -> None:
    """How usual each picture is: bits/dim, beside what its plainness explains. Raw bits/dim ranks plain pictures above
    faces (1810.09136), so it is no detector of anomalies by itself."""
    session = Session(args)
    train = session.split("train").fixed(min(512, len(session.split("train"))))["image"]
    usual = session.bits(train, best_label(session, train))
    chosen = session.faces_of(args.images, args.split, args.n, args.eyes)
    columns = scores_of(session, chosen.x, usual)
    path = session.path("score", ".csv")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["face", *columns])
    for i, name in enumerate(chosen.names):
        writer.writerow([name, *(f"{values[i].item():.4f}" for values in columns.values())])
    atomic_text(path, out.getvalue())
    facts = {}
    if args.against:
        files = sorted(
            p for p in Path(args.against).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
        )
        if not files:
            raise UserError(f"--against {args.against}: no pictures in it")
        others = session.faces_of([str(f) for f in files], "test", 0, "whole")
        theirs = scores_of(session, others.x, usual)
        label = torch.cat([torch.zeros(len(chosen.x)), torch.ones(len(others.x))])
        facts = {f"auroc {k}": area(torch.cat([columns[k], theirs[k]]), label) for k in columns}
        for key, value in facts.items():
            print(f"{key}: {value:.3f}")
    session.note(path, faces=len(chosen.names), **facts)
    print(f"{columns['bits_per_dim'].mean():.3f} bits/dim over {len(chosen.names)} faces; wrote {path}")


def best_label(session: Session, x: Tensor) -> Tensor | None:
    """y (N, K) of faces x as the density names it, whatever is known: a file has no true label, so no face has one."""
    return session.y_from(x, torch.full((len(x), len(label_names(session.meta))), math.nan))


def scores_of(session: Session, x: Tensor, usual: Tensor) -> dict[str, Tensor]:
    """Columns (N,) of the score table, each face under its best label."""
    y = best_label(session, x)
    bits = session.bits(x, y)
    columns = {
        "bits_per_dim": bits,
        "minus_webp": bits - torch.tensor([webp_bits(k) for k in to_levels(x.cpu(), session.n_bits)]),  # 1909.11480
        "typicality": (bits - usual.mean()).abs() / usual.std(),  # 1906.02994
    }
    norms: list[Tensor] = []
    for _, photo in session.coded(x, y):
        # |eps|^2 of d standard normals has mean d and variance 2 d.
        dims = [level[0].numel() for level in photo.code.eps]
        squares = [level.flatten(1).square().sum(1).cpu() for level in photo.code.eps]
        norms.append(torch.stack([(s - d) / math.sqrt(2 * d) for s, d in zip(squares, dims, strict=True)], 1))
    for number, column in enumerate(torch.cat(norms).unbind(1), 1):
        columns[f"norm_level_{number}"] = column
    return columns


def webp_bits(k: Tensor) -> float:
    """Bits/dim of one picture's levels (C, H, H) in a lossless WebP."""
    pixels = k.to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if k.shape[0] == 1 else pixels).save(file, "WEBP", lossless=True, quality=100)
    return 8 * file.tell() / k.numel()


def run_report(args: argparse.Namespace) -> None:
    """Bits/dim with its yardsticks, exactness, samples, drift, readers, and what the code still knows of its label."""
    session = Session(args)
    images, levels = split_levels(session, args.split, args.n)
    y = session.labels.of(images)
    one = session.bits(images["image"], y)
    found = {
        "split": args.split,
        "images": len(one),
        "bits_per_dim": one.mean().item(),
        "interval_95": 1.96 * one.std().item() / math.sqrt(len(one)),
        "median": one.median().item(),
    }
    if args.draws > 1:
        found[f"bits_per_dim_{args.draws}_draws"] = session.bits(images["image"], y, args.draws).mean().item()
    train = (to_levels(batch["image"], session.n_bits) for batch in session.split("train").once(256))
    found["yardsticks"] = yardsticks(train, levels, session.n_bits)
    found |= exactness(session, images["image"], y) | finite_samples(session)
    v = dequantise(levels[:BATCH].to(session.device), session.n_bits, 0.5)
    drifts = level_drifts(session.flow, v, None if y is None else y[:BATCH].to(session.device))
    found["drift_by_level"] = [d.item() for d in drifts]
    if len(session.labels) and session.labels.are_classes:
        found["leak"] = leak(session, args.split)
    path = session.path("report", ".json")
    session.note(path, **found)
    print(json.dumps(found, indent=1))
    print(f"wrote {path}")


def split_levels(session: Session, split: str, n: int) -> tuple[dict[str, Tensor], Tensor]:
    """The first n faces of a split (0 = all) as one batch, and their levels."""
    faces = session.split(split)
    n = min(n or len(faces), len(faces))
    batches, done = [], 0
    for batch in faces.once(256):
        batches.append(batch)
        done += len(batch["image"])
        if done >= n:
            break
    whole = {key: torch.cat([b[key] for b in batches])[:n] for key in batches[0]}
    return whole, to_levels(whole["image"], session.n_bits)


def exactness(session: Session, x: Tensor, y: Tensor | None) -> dict[str, float]:
    """Share of bytes that decode(encode) returns, and its largest error before rounding, in units of v."""
    same, worst = 0, 0.0
    for rows, photo in session.coded(x, y):
        v = dequantise(to_levels(x[rows], session.n_bits), session.n_bits, 0.5).to(session.device)
        back = session.flow.decode(photo.code.eps, photo.y)
        worst = max(worst, (back - v).abs().max().item())
        picture = decode_photo(session.flow, photo.code.eps, session.n_bits, photo.y, photo.lost)
        same += int((torch.from_numpy(to_uint8(picture)) == torch.from_numpy(to_uint8(x[rows]))).sum())
    return {"same_bytes": same / x.numel(), "largest_error": worst}


def finite_samples(session: Session) -> dict[str, float]:
    """Of 1024 samples at temperature 1: the finite share and the largest value, in units of v (pictures: 1/2)."""
    finite, largest = 0, 0.0
    for _ in range(0, SAMPLES, BATCH):
        y = session.labels.unknown(BATCH) if len(session.labels) else None
        if y is not None and session.labels.are_classes:
            drawn = torch.multinomial(session.labels.frequency.cpu(), BATCH, True, generator=session.generator)
            y = session.labels.encode(drawn.to(session.device))
        v = session.flow.draw(BATCH, 1.0, y, session.generator)
        good = v.flatten(1).isfinite().all(1)
        finite += int(good.sum())
        largest = max(largest, v.nan_to_num(posinf=math.inf, neginf=-math.inf).abs().max().item())
    return {"finite_samples": finite / SAMPLES, "largest_sample": largest}


def leak(session: Session, split: str) -> dict[str, float]:
    """How well a linear reader finds the label in codes taken under that label: above chance, a transfer leaves it
    behind. Accuracy of the largest of the classes' scores."""
    sets = []
    for name in ("train", split):
        seen = [(pooled(p.code.eps).cpu(), b["label"].cpu()) for p, b in session.stream(name)]
        codes, label = (torch.cat(part) for part in zip(*seen, strict=True))
        sets.append((codes[label >= 0], label[label >= 0]))
    (codes, label), (test, truth) = sets
    one_hot = torch.nn.functional.one_hot(label, len(session.labels)).float()
    reader = lda_scores(codes, one_hot, 0.1)
    means = torch.stack([codes[label == k].mean(0) for k in range(len(session.labels))])
    middle = ((means * reader).sum(1) + (codes @ reader.T).mean(0)) / 2
    right = ((test @ reader.T - middle).argmax(1) == truth).float().mean().item()
    return {"reader_accuracy": right, "chance": (torch.bincount(truth).max() / len(truth)).item()}


def add_classify(parser: argparse.ArgumentParser) -> None:
    """The options of `classify`."""
    add_split(parser)
    parser.add_argument("--n", type=int, default=0, help="faces; 0: all")


def add_score(parser: argparse.ArgumentParser) -> None:
    """The options of `score`."""
    add_faces(parser, 64)
    parser.add_argument("--against", help="a folder of pictures to tell the faces from")


def add_report(parser: argparse.ArgumentParser) -> None:
    """The options of `report`."""
    add_split(parser)
    parser.add_argument("--n", type=int, default=0, help="faces; 0: all")
    parser.add_argument("--draws", type=int, default=1, help="dequantisations of the tighter bound")
