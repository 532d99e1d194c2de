"""Use a trained flow: `python flow/sample.py MODE --run-dir runs/flow/NAME ...`.

Every mode writes an image or a table, and beside it a JSON with command, step, seed and the hash of the weights. A face
is a file (your own photo), `test:12` (a face of the run's data) or `seed:7` (a generated face).
"""

import argparse

import torch

from editing.cli import Mode, sample_main
from editing.record import write_grid
from engine import Grid
from flow.density import decode_codes, fit_run_directions
from flow.density_modes import add_classify, add_report, add_score, run_classify, run_report, run_score
from flow.directions import Directions
from flow.editor import Editor
from flow.model import apply_temperature, flatten
from flow.train import NUM_SHOWN, TEMPERATURES
from losses.quantise import to_pixels

GAINS = (-1.6, -0.8, 0.0, 0.8, 1.6)  # columns of the grid of directions


def temperature(editor: Editor, args: argparse.Namespace) -> None:
    """One noise per column, one temperature per row. --by-level: one level at a time, the others at 0."""
    request = editor.parse(args.attr) if args.attr else None
    code = editor.draw(range(args.seed, args.seed + NUM_SHOWN), request).code
    eps = editor.flow.unflatten(code["eps"] / editor.options.temperature)
    if args.by_level:
        count = len(eps)
        rows = [
            (f"level {i + 1}, T {t:g}", [t * (i == j) for j in range(count)])
            for i in range(count)
            for t in (0.5, 0.7, 1.0)
        ]
    else:
        rows = [(f"T {t:g}", [t] * len(eps)) for t in TEMPERATURES]
    images = [
        to_pixels(decode_codes(editor, flatten(apply_temperature(eps, t)), code.get("y")), editor.n_bits)
        for _, t in rows
    ]
    write_grid(
        editor, args, Grid(torch.stack(images), [name for name, _ in rows]), "temperature", by_level=args.by_level
    )


def directions(editor: Editor, args: argparse.Namespace) -> None:
    """Fit directions on the training codes. Write a grid of their effect on a validation face, and their quality."""
    fitted = fit_run_directions(editor, args.fit, args.max)
    code = editor.codes(editor.take("val", editor.split("val").spread_places(1).tolist()))
    moved = torch.cat([code["eps"] + gain * d for d in fitted.direction for gain in GAINS])
    y = None if "y" not in code else code["y"].repeat(len(moved), 1)
    images = to_pixels(decode_codes(editor, moved, y), editor.n_bits).unflatten(0, (-1, len(GAINS)))
    facts = {name: direction_facts(editor, fitted, i) for i, name in enumerate(fitted.names)}
    rows = [f"{n}\n{facts[n]['with']} with\nAUC {facts[n]['auc']:.2f}" for n in fitted.names]
    grid = Grid(images, rows, [f"gain {g:+g}" for g in GAINS])
    name = f"directions_{args.fit}"
    write_grid(editor, args, grid, name, directions=facts, skipped=fitted.skipped, max=args.max)
    for name, reason in fitted.skipped.items():
        print(f"no direction for {name}: {reason}")


def direction_facts(editor: Editor, fitted: Directions, i: int) -> dict:
    """Counts, the reader's AUC, |d|^2 per level (finest first) and the noise in it."""
    lengths = [level.square().sum().item() for level in editor.flow.unflatten(fitted.direction[i : i + 1])]
    noise = [level.square().sum().item() for level in editor.flow.unflatten(fitted.error[i : i + 1])]
    without, with_ = fitted.count[i].tolist()
    return {
        "without": without,
        "with": with_,
        "auc": round(fitted.auc[i].item(), 4),
        "square_by_level": [round(v, 3) for v in lengths],
        "noise_by_level": [round(v, 3) for v in noise],
    }


def _add_temperature(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by-level", action="store_true", help="vary one level at a time")
    parser.add_argument("--attr", nargs="+", help="what they show, as happy")


def _add_directions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fit", choices=["ols", "mean"], default="ols", help="how directions are fitted")
    parser.add_argument("--max", type=int, default=0, help="training faces; 0: all")


MODES = {
    "temperature": Mode(temperature, "the same noise at several temperatures", _add_temperature),
    "directions": Mode(directions, "fit attribute directions, and show their effect", _add_directions),
    "classify": Mode(run_classify, "the density as a classifier", add_classify),
    "score": Mode(run_score, "how typical an image is", add_score),
    "report": Mode(run_report, "bits per dimension with baselines, exactness", add_report),
}


def main(argv: list[str] | None = None) -> None:
    sample_main(Editor, MODES, __doc__.splitlines()[0], argv)


if __name__ == "__main__":
    main()
