"""The mode `vectors`: fit attribute directions, and show their effect and their quality."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from editing.record import write_grid
from engine import Grid, UserError
from engine.checkpoint import save_fields
from latents.roc_auc import roc_auc
from losses.quantise import to_bytes
from vae.attributes import CONFOUNDERS, AttributeVectors, fit_vectors, provenance_of
from vae.editor import Editor

MIN_RETENTION = 0.8  # an attribute with less retention counts as lost in reconstructions
ALPHAS = (-2.0, -1.0, 0.0, 1.0, 2.0)
Facts = dict[str, dict]


def run_vectors(editor: Editor, args: argparse.Namespace) -> None:
    """Fit directions on training codes, evaluate them on validation codes, write them and a grid."""
    train, val = editor.training_codes("train"), editor.training_codes("val")
    fitted = fit_vectors(train, val, editor.meta, args.fit, provenance_of(editor.method), args.balance)
    save_fields(fitted, editor.run_dir / f"vectors_{args.fit}.pt")
    kept = retention(editor, args.judge) if args.judge else {}
    facts = vector_metrics(fitted, kept)
    name = f"vectors_{args.fit}"
    path = write_grid(editor, args, vectors_grid(editor, fitted, facts), name, vectors=facts, skipped=fitted.skipped)
    for name, reason in fitted.skipped.items():
        print(f"no vector for {name}: {reason}")
    for cells in fitted.cells.values():
        if "dropped" in cells:
            print(cells)
    if kept:
        lost = [name for name in fitted.names if kept.get(name, 1.0) < MIN_RETENTION]
        print(f"lost in reconstructions (retention below {MIN_RETENTION:.0%}): {', '.join(lost) or 'none'}")
    else:
        print("retention was not measured; give --judge, a run of evaluation.train_classifier")
    print(f"{len(fitted.names)} {args.fit} vectors; wrote {path}")


def vector_metrics(fitted: AttributeVectors, kept: dict[str, float]) -> Facts:
    """Metrics per name, in plain values. kept: retention, where measured."""
    leak, facts = leakage(fitted), {}
    for a, name in enumerate(fitted.names):
        others = sorted((b for b in range(len(fitted.names)) if b != a), key=lambda b: -abs(leak[a, b].item()))
        facts[name] = {
            "count": fitted.count[a].tolist(),
            "auc_direction": round(fitted.auc[a, 0].item(), 4),
            "auc_score": round(fitted.auc[a, 1].item(), 4),
            "alpha_range": [round(v, 3) for v in fitted.alpha_range[a].tolist()],
            "leakage": {fitted.names[b]: round(leak[a, b].item(), 3) for b in others[:5]},
        }
        if name in fitted.cells:
            facts[name]["cells"] = fitted.cells[name]
        if name in kept:
            facts[name] |= {"retention": round(kept[name], 3), "retained": kept[name] >= MIN_RETENTION}
    return facts


def leakage(fitted: AttributeVectors) -> Tensor:
    """(A, A): change of each score (column) by one step along each direction (row), in class distances."""
    distance = fitted.class_mean[:, 1] - fitted.class_mean[:, 0]
    return fitted.direction @ fitted.score.T / distance


def retention(editor: Editor, judge: Path) -> dict[str, float]:
    """Retention of each label: (AUC - 0.5) of the judge on reconstructed over original validation faces."""
    from evaluation.classifier import load

    net = load(judge, device=str(editor.device))
    faces = editor.take("val", range(len(editor.split("val"))))
    pictures = (faces.images, editor.reconstruct(faces))
    real, recon = (net.probabilities(net.logits(to_bytes(x.cpu()))).cpu() for x in pictures)
    names, labels, found = editor.label_names(), editor.labels(faces), {}
    for i, name in enumerate(net.names):
        if name in names:
            before, after = (roc_auc(p[:, i], labels[:, names.index(name)]) for p in (real, recon))
            if before > 0.6:  # else the judge cannot predict it on real faces either
                found[name] = (after - 0.5) / (before - 0.5)
    if not found:
        raise UserError(f"--judge {judge}: expected a judge of one of {', '.join(names)}")
    return found


def vectors_grid(editor: Editor, fitted: AttributeVectors, facts: Facts) -> Grid:
    """The mean code moved along every direction, with counts, AUC and the largest leakage in the row captions."""
    z = fitted.origin + torch.tensor(ALPHAS)[None, :, None] * fitted.direction[:, None]  # (A, 5, Z)
    images = editor.images({"z": z.flatten(0, 1)}).unflatten(0, (len(fitted.names), len(ALPHAS)))
    rows = []
    for name, fact in facts.items():
        mark = "" if fact.get("retained", True) else " LOST"
        kept = f", kept {fact['retention']:.2f}" if "retention" in fact else ""
        worst, value = next(iter(fact["leakage"].items()), ("", 0.0))
        low, high = fact["alpha_range"]
        rows.append(
            f"{name}{mark}\n{fact['count'][0]} / {fact['count'][1]} faces{kept}\n"
            f"AUC {fact['auc_direction']:.2f}, read {fact['auc_score']:.2f}\n"
            f"alpha {low:+.1f} to {high:+.1f}; {value:+.1f} {worst}"
        )
    return Grid(images, rows, [f"alpha {a:+.0f}" for a in ALPHAS])


def add_vectors(parser: argparse.ArgumentParser) -> None:
    """The options of `vectors`."""
    parser.add_argument("--fit", choices=["ols", "mean", "balanced"], default="ols", help="how directions are fitted")
    parser.add_argument(
        "--balance", nargs="*", default=list(CONFOUNDERS), help="confounders of balanced vectors, at most 4"
    )
    parser.add_argument("--judge", type=Path, help="a run of evaluation.train_classifier, for what is retained")
