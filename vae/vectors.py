"""The mode `vectors`: attribute directions, and the card that says how far each of them may be trusted."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from editing.record import write_grid
from engine import Grid, UserError
from latents.roc_auc import roc_auc
from vae.attributes import BALANCE, AttributeVectors, fit_vectors, provenance_of, save_vectors
from vae.editor import Editor

RETAINED = 0.8  # below this share of what a judge can tell, an attribute counts as not drawn
ALPHAS = (-2.0, -1.0, 0.0, 1.0, 2.0)
Facts = dict[str, dict]


def run_vectors(editor: Editor, args: argparse.Namespace) -> None:
    """Fit directions on the training codes, score them on validation, write them and their card."""
    train, val = editor.training_codes("train"), editor.training_codes("val")
    fitted = fit_vectors(train, val, editor.meta, args.fit, provenance_of(editor.method), args.balance)
    save_vectors(fitted, editor.run_dir / f"vectors_{args.fit}.pt")
    kept = retention(editor, args.judge) if args.judge else {}
    facts = facts_of(fitted, kept)
    name = f"vectors_{args.fit}"
    path = write_grid(editor, args, card(editor, fitted, facts), name, vectors=facts, skipped=fitted.skipped)
    for name, reason in fitted.skipped.items():
        print(f"no vector for {name}: {reason}")
    for said in fitted.cells.values():
        if "dropped" in said:
            print(said)
    if kept:
        lost = [name for name in fitted.names if kept.get(name, 1.0) < RETAINED]
        print(f"not drawn by this model (less than {RETAINED:.0%} retained): {', '.join(lost) or 'none'}")
    else:
        print("retention was not measured: give --judge, a run of evaluation.train_classifier")
    print(f"{len(fitted.names)} {args.fit} vectors; card: {path}")


def facts_of(fitted: AttributeVectors, kept: dict[str, float]) -> Facts:
    """Everything that the card says, per name, in plain values. kept: retention, where measured."""
    leak, facts = leakage(fitted), {}
    for a, name in enumerate(fitted.names):
        others = sorted((b for b in range(len(fitted.names)) if b != a), key=lambda b: -abs(leak[a, b].item()))
        facts[name] = {
            "count": fitted.count[a].tolist(),
            "auc_direction": round(fitted.auc[a, 0].item(), 4),
            "auc_score": round(fitted.auc[a, 1].item(), 4),
            "alpha_range": [round(v, 3) for v in fitted.alpha_range[a].tolist()],
            "leaks": {fitted.names[b]: round(leak[a, b].item(), 3) for b in others[:5]},
        }
        if name in fitted.cells:
            facts[name]["cells"] = fitted.cells[name]
        if name in kept:
            facts[name] |= {"retention": round(kept[name], 3), "drawn": kept[name] >= RETAINED}
    return facts


def leakage(fitted: AttributeVectors) -> Tensor:
    """(A, A): how far one whole move along each direction (row) carries each score (column), in class distances."""
    distance = fitted.class_mean[:, 1] - fitted.class_mean[:, 0]
    return fitted.direction @ fitted.score.T / distance


def retention(editor: Editor, judge: Path) -> dict[str, float]:
    """What is left, in reconstructions of validation faces, of the judge's area above chance: 1 all, 0 nothing."""
    from evaluation.classifier import load

    net = load(judge, device=str(editor.device))
    faces = editor.take("val", range(len(editor.split("val"))))
    pictures = (faces.images, editor.reconstruct(faces))
    real, recon = (net.probabilities(net.logits(((x.cpu() + 1) * 127.5).round().byte())).cpu() for x in pictures)
    names, labels, found = editor.label_names(), editor.labels(faces), {}
    for i, name in enumerate(net.names):
        if name in names:
            before, after = (roc_auc(p[:, i], labels[:, names.index(name)]) for p in (real, recon))
            if before > 0.6:  # else the judge cannot tell it on real faces either
                found[name] = (after - 0.5) / (before - 0.5)
    if not found:
        raise UserError(f"--judge {judge}: it reads none of {', '.join(names)}")
    return found


def card(editor: Editor, fitted: AttributeVectors, facts: Facts) -> Grid:
    """The average face moved along every direction; beside it how many faces, how well it reads, what it drags."""
    z = fitted.origin + torch.tensor(ALPHAS)[None, :, None] * fitted.direction[:, None]  # (A, 5, Z)
    images = editor.images({"z": z.flatten(0, 1)}).unflatten(0, (len(fitted.names), len(ALPHAS)))
    rows = []
    for name, fact in facts.items():
        mark = "" if fact.get("drawn", True) else " NOT DRAWN"
        kept = f", kept {fact['retention']:.2f}" if "retention" in fact else ""
        worst, value = next(iter(fact["leaks"].items()), ("", 0.0))
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
        "--balance", nargs="*", default=list(BALANCE), help="confounders of balanced vectors, at most 4"
    )
    parser.add_argument("--judge", type=Path, help="a run of evaluation.train_classifier, for what is retained")
