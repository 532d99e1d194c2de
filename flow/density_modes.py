"""Modes of `sample.py` that use the density: classify, score, report."""

import argparse
import io
import json
import math
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from data.labels import label_names
from editing.modes import add_faces
from editing.record import output_path, write_record
from editing.subjects import SPLITS
from engine import UserError
from engine.files import atomic_text
from engine.grids import save_image, to_uint8
from evaluation.classifier_metrics import confusion
from evaluation.plots import confusion_picture
from flow.density import BATCH, encode_batches, image_bits_of, iterate_codes
from flow.density_baselines import density_baselines
from flow.directions import pooled
from flow.edit import decode_photo
from flow.editor import Editor
from flow.likelihood import bayes_accuracy, class_log_probs, fit_temperature
from flow.stability import level_drifts
from latents.directions import lda_scores
from latents.roc_auc import roc_auc
from losses.quantise import dequantise, to_levels

NUM_SAMPLES = 1024


def run_classify(editor: Editor, args: argparse.Namespace) -> None:
    """The density as a Bayes classifier: accuracy, confusion, calibrated likelihood of the labels."""
    if not len(editor.y_labels):
        raise UserError(f"classify: {editor.run_dir} was trained without labels (model.condition=none)")
    scores, target = class_scores(editor, args.split, args.n)
    accuracy = bayes_accuracy(scores, target).item()
    facts: dict = {"split": args.split, "images": len(scores), "accuracy": round(accuracy, 4)}
    path = output_path(editor, args, "classify", ".json")
    if editor.y_labels.are_classes:
        temperature = fit_temperature(*class_scores(editor, "val", args.n))
        known = target >= 0
        nll = torch.nn.functional.cross_entropy(scores[known].double() / temperature, target[known])
        counts = confusion(target, scores.argmax(1), len(editor.y_labels)).tolist()
        facts |= {"temperature": temperature, "nll": nll.item(), "confusion": counts}
        save_image(confusion_picture(counts, editor.y_labels.names, "", "label"), path.with_suffix(".png"))
    else:
        facts["accuracies"] = {
            name: bayes_accuracy(scores[:, [k]], target[:, [k]]).item() for k, name in enumerate(editor.y_labels.names)
        }
    write_record(editor, args, path, names=editor.y_labels.names, **facts)
    print(f"Bayes classifier: accuracy {accuracy:.3f} on {len(scores)} {args.split} faces; wrote {path}")


def class_scores(editor: Editor, split: str, n: int) -> tuple[Tensor, Tensor]:
    """`class_log_probs` and targets of the first n faces of a split (0 = all)."""
    scores, targets, done = [], [], 0
    for batch in editor.split(split).once(BATCH, editor.device):
        v = dequantise(to_levels(batch["image"], editor.n_bits), editor.n_bits, 0.5)
        scores.append(class_log_probs(editor.flow, editor.y_labels, v, editor.y_labels.of(batch)).cpu())
        targets.append(editor.y_labels.targets(batch).cpu())
        done += len(v)
        if n and done >= n:
            break
    count = n or done
    return torch.cat(scores)[:count], torch.cat(targets)[:count]


def run_score(editor: Editor, args: argparse.Namespace) -> None:
    """How typical each image is. Writes bits/dim and scores that correct it for simplicity.

    Raw bits/dim ranks plain images above faces ("Do Deep Generative Models Know What They Don't Know?",
    https://arxiv.org/abs/1810.09136). So bits/dim alone does not detect anomalies.
    """
    train = editor.split("train").fixed(min(512, len(editor.split("train"))))["image"]
    train_bits = image_bits_of(editor, train, best_label(editor, train))
    chosen = editor.subjects(args.images or editor.spread(args.split, args.n), args.eyes, args.source)
    columns = scores_of(editor, chosen.images, train_bits)
    path = output_path(editor, args, "score", ".csv")
    table = pd.DataFrame({"face": chosen.names} | {key: values.numpy() for key, values in columns.items()})
    atomic_text(path, table.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    facts = {}
    if args.against:
        files = sorted(
            p for p in Path(args.against).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
        )
        if not files:
            raise UserError(f"--against {args.against}: expected a folder with images, found none")
        other_faces = editor.subjects([str(f) for f in files], "whole")
        other_columns = scores_of(editor, other_faces.images, train_bits)
        label = torch.cat([torch.zeros(len(chosen.images)), torch.ones(len(other_faces.images))])
        facts = {f"auroc {k}": roc_auc(torch.cat([columns[k], other_columns[k]]), label) for k in columns}
        for key, value in facts.items():
            print(f"{key}: {value:.3f}")
    write_record(editor, args, path, faces=len(chosen.names), **facts)
    print(f"{columns['bits_per_dim'].mean():.3f} bits/dim over {len(chosen.names)} faces; wrote {path}")


def best_label(editor: Editor, x: Tensor) -> Tensor | None:
    """The most likely y (N, K) of faces x. Known labels are ignored, so files and faces of the data are comparable."""
    return editor.y_of(x, torch.full((len(x), len(label_names(editor.meta))), math.nan))


def scores_of(editor: Editor, x: Tensor, train_bits: Tensor) -> dict[str, Tensor]:
    """Columns (N,) of the score table. Each face is scored under its most likely label."""
    y = best_label(editor, x)
    bits = image_bits_of(editor, x, y)
    columns = {
        "bits_per_dim": bits,
        # Input complexity (https://arxiv.org/abs/1909.11480) and typicality (https://arxiv.org/abs/1906.02994).
        "minus_webp": bits - torch.tensor([webp_bits(k) for k in to_levels(x.cpu(), editor.n_bits)]),
        "typicality": (bits - train_bits.mean()).abs() / train_bits.std(),
    }
    norms: list[Tensor] = []
    for _, photo in encode_batches(editor, x, y):
        # |eps|^2 of d standard normals has mean d and variance 2 d.
        dims = [level[0].numel() for level in photo.code.eps]
        squares = [level.flatten(1).square().sum(1).cpu() for level in photo.code.eps]
        norms.append(torch.stack([(s - d) / math.sqrt(2 * d) for s, d in zip(squares, dims, strict=True)], 1))
    for number, column in enumerate(torch.cat(norms).unbind(1), 1):
        columns[f"norm_level_{number}"] = column
    return columns


def webp_bits(k: Tensor) -> float:
    """Bits/dim of one image's levels (C, H, H) in a lossless WebP file."""
    pixels = k.to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if k.shape[0] == 1 else pixels).save(file, "WEBP", lossless=True, quality=100)
    return 8 * file.tell() / k.numel()


def run_report(editor: Editor, args: argparse.Namespace) -> None:
    """Bits/dim with baselines, exactness of the round trip, finite samples, drift, and a label probe of codes."""
    images, levels = split_levels(editor, args.split, args.n)
    y = editor.y_labels.of(images)
    one = image_bits_of(editor, images["image"], y)
    found = {
        "split": args.split,
        "images": len(one),
        "bits_per_dim": one.mean().item(),
        "interval_95": 1.96 * one.std().item() / math.sqrt(len(one)),
        "median": one.median().item(),
    }
    if args.draws > 1:
        found[f"bits_per_dim_{args.draws}_draws"] = image_bits_of(editor, images["image"], y, args.draws).mean().item()
    train = (to_levels(batch["image"], editor.n_bits) for batch in editor.split("train").once(256))
    found["density_baselines"] = density_baselines(train, levels, editor.n_bits)
    found |= exactness(editor, images["image"], y) | finite_samples(editor, args.seed)
    v = dequantise(levels[:BATCH].to(editor.device), editor.n_bits, 0.5)
    drifts = level_drifts(editor.flow, v, None if y is None else y[:BATCH].to(editor.device))
    found["drift_by_level"] = [d.item() for d in drifts]
    if len(editor.y_labels) and editor.y_labels.are_classes:
        found["label_probe"] = label_probe(editor, args.split)
    path = output_path(editor, args, "report", ".json")
    write_record(editor, args, path, **found)
    print(json.dumps(found, indent=1))
    print(f"wrote {path}")


def split_levels(editor: Editor, split: str, n: int) -> tuple[dict[str, Tensor], Tensor]:
    """The first n faces of a split (0 = all) as one batch, and their grey levels."""
    faces = editor.split(split)
    n = min(n or len(faces), len(faces))
    batches, done = [], 0
    for batch in faces.once(256):
        batches.append(batch)
        done += len(batch["image"])
        if done >= n:
            break
    whole = {key: torch.cat([b[key] for b in batches])[:n] for key in batches[0]}
    return whole, to_levels(whole["image"], editor.n_bits)


def exactness(editor: Editor, x: Tensor, y: Tensor | None) -> dict[str, float]:
    """Share of bytes that decode(encode(x)) returns, and the largest error before rounding, in units of v."""
    same, worst = 0, 0.0
    for rows, photo in encode_batches(editor, x, y):
        v = dequantise(to_levels(x[rows], editor.n_bits), editor.n_bits, 0.5).to(editor.device)
        back = editor.flow.decode(photo.code.eps, photo.y)
        worst = max(worst, (back - v).abs().max().item())
        picture = decode_photo(editor.flow, photo.code.eps, editor.n_bits, photo.y, photo.lost)
        same += int((torch.from_numpy(to_uint8(picture)) == torch.from_numpy(to_uint8(x[rows]))).sum())
    return {"same_bytes": same / x.numel(), "largest_error": worst}


def finite_samples(editor: Editor, seed: int) -> dict[str, float]:
    """Of 1024 samples at temperature 1: the finite share and the largest value, in units of v (images: 1/2)."""
    finite, largest, generator = 0, 0.0, torch.Generator().manual_seed(seed)
    for _ in range(0, NUM_SAMPLES, BATCH):
        y = editor.y_labels.unknown(BATCH) if len(editor.y_labels) else None
        if y is not None and editor.y_labels.are_classes:
            drawn = torch.multinomial(editor.y_labels.frequency.cpu(), BATCH, True, generator=generator)
            y = editor.y_labels.encode(drawn.to(editor.device))
        v = editor.flow.draw(BATCH, 1.0, y, generator)
        good = v.flatten(1).isfinite().all(1)
        finite += int(good.sum())
        largest = max(largest, v.nan_to_num(posinf=math.inf, neginf=-math.inf).abs().max().item())
    return {"finite_samples": finite / NUM_SAMPLES, "largest_sample": largest}


def label_probe(editor: Editor, split: str) -> dict[str, float]:
    """Accuracy of a linear classifier (LDA) that predicts the label from codes computed with that label.

    If it is above chance, the code still has label information, which a label edit does not change.
    """
    sets = []
    for name in ("train", split):
        seen = [(pooled(p.code.eps).cpu(), b["label"].cpu()) for p, b in iterate_codes(editor, name)]
        codes, label = (torch.cat(part) for part in zip(*seen, strict=True))
        sets.append((codes[label >= 0], label[label >= 0]))
    (codes, label), (test, truth) = sets
    one_hot = torch.nn.functional.one_hot(label, len(editor.y_labels)).float()
    reader = lda_scores(codes, one_hot, 0.1)
    means = torch.stack([codes[label == k].mean(0) for k in range(len(editor.y_labels))])
    middle = ((means * reader).sum(1) + (codes @ reader.T).mean(0)) / 2
    right = ((test @ reader.T - middle).argmax(1) == truth).float().mean().item()
    return {"accuracy": right, "chance": (torch.bincount(truth).max() / len(truth)).item()}


def add_classify(parser: argparse.ArgumentParser) -> None:
    """The options of `classify`."""
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")
    parser.add_argument("--n", type=int, default=0, help="faces; 0: all")


def add_score(parser: argparse.ArgumentParser) -> None:
    """The options of `score`."""
    add_faces(parser, 64)
    parser.add_argument("--against", help="a folder of images; also prints the AUROC of telling them from the faces")


def add_report(parser: argparse.ArgumentParser) -> None:
    """The options of `report`."""
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")
    parser.add_argument("--n", type=int, default=0, help="faces; 0: all")
    parser.add_argument(
        "--draws", type=int, default=1, help="dequantisation samples per image; more give a tighter bound"
    )
