"""What one does with a trained flow: `python flow/sample.py MODE --run-dir runs/flow/NAME ...`.

Every mode writes a picture or a table and, beside it, a JSON with its command, step, seed and the hash of the weights.
Where a face is asked for, give a file (your own photo) or `test:12`, a face of the run's data.
"""

import argparse

import torch

from engine import Grid
from engine.cli import Mode, sample_main
from evaluation.session import add_split
from evaluation.sheets import square
from flow.convert import add_import, run_import
from flow.density_modes import add_classify, add_report, add_score, run_classify, run_report, run_score
from flow.directions import Directions
from flow.edit import decode_photo, encode_photo
from flow.edit_modes import (
    add_edit,
    add_interpolate,
    add_transfer,
    label_choice,
    require_labels,
    run_edit,
    run_interpolate,
    run_transfer,
)
from flow.export import add_flow_export, run_export
from flow.model import flatten, tempered
from flow.session import Session
from flow.train import SHOWN, TEMPERATURES
from losses.quantise import to_pixels

GAINS = (-1.6, -0.8, 0.0, 0.8, 1.6)  # columns of the directions' card


def grid(args: argparse.Namespace) -> None:
    """Faces that were never seen."""
    session = Session(args)
    y = drawn_labels(session, args.n, args.label)
    v = session.decoded(session.flow.noise(args.n, session.generator) * args.temperature, y)
    images, finite = to_pixels(v, session.n_bits), v.flatten(1).isfinite().all(1)
    facts = {"n": args.n, "temperature": args.temperature, "label": args.label}
    session.write(square(images), "grid", not_finite=1 - finite.float().mean().item(), **facts)


def drawn_labels(session: Session, n: int, label: str | None) -> torch.Tensor | None:
    """y (n, K): the label asked for, else labels in the shares of the training set; None without labels."""
    labels = session.labels
    if label is not None:
        require_labels(session)
        (name,) = label_choice(session, [label])
        return labels.with_bit(labels.unknown(n), labels.names.index(name), 1.0)
    if not len(labels) or not labels.are_classes:
        return labels.unknown(n) if len(labels) else None
    drawn = torch.multinomial(labels.frequency.cpu(), n, True, generator=session.generator)
    return labels.encode(drawn.to(session.device))


def temperature(args: argparse.Namespace) -> None:
    """One noise a column, one temperature a row; --levels: at one level at a time, the others at 0."""
    session = Session(args)
    y = drawn_labels(session, SHOWN, args.label)
    eps = session.flow.unflatten(session.flow.noise(SHOWN, session.generator))
    if args.levels:
        count = len(eps)
        rows = [
            (f"level {i + 1}, T {t:g}", [t * (i == j) for j in range(count)])
            for i in range(count)
            for t in (0.5, 0.7, 1.0)
        ]
    else:
        rows = [(f"T {t:g}", [t] * len(eps)) for t in TEMPERATURES]
    images = [session.pictures(flatten(tempered(eps, each)), y) for _, each in rows]
    session.write(Grid(torch.stack(images), [name for name, _ in rows]), "temperature", levels=args.levels)


def recon(args: argparse.Namespace) -> None:
    """Input, decode(encode), the difference in whole grey levels times 255: black. Share of equal bytes."""
    session, worst, shown, same, total = Session(args), [], [], 0, 0
    for batch in session.split(args.split).once(64, session.device):
        x, y = batch["image"], session.labels.of(batch)
        photo = encode_photo(session.flow, x, session.n_bits, y)
        x_hat = decode_photo(session.flow, photo.code.eps, session.n_bits, y, photo.lost)
        error = ((x_hat + 1) * 127.5).round() - ((x + 1) * 127.5).round()  # grey levels
        same, total = same + int((error == 0).sum()), total + error.numel()
        triple = torch.stack([x, x_hat, (error.abs() * 255 / 127.5 - 1).clamp(max=1)], 1).cpu()
        shown = shown or list(triple[: args.n])
        worst = sorted([*worst, *zip(error.abs().flatten(1).sum(1).tolist(), triple, strict=True)], key=lambda p: -p[0])
        worst = worst[: args.n]
    images = torch.stack([*shown, *(triple for _, triple in worst)], 1)
    captions = ["first"] * len(shown) + [f"off by {int(e)}" for e, _ in worst]
    facts = {"split": args.split, "same_bytes": same / total}
    session.write(Grid(images, ["input", "decode(encode)", "difference x 255"], captions), "recon", **facts)
    print(f"{same} of {total} bytes come back")


def directions(args: argparse.Namespace) -> None:
    """Fit directions on the training codes; a card of what they do to a validation face; how well they are known."""
    session = Session(args)
    fitted = session.fit(args.kind, args.max)
    faces = session.split("val").fixed(1, session.device)
    y = session.labels.of(faces)
    photo = encode_photo(session.flow, faces["image"], session.n_bits, y)
    code = photo.code.flat().cpu()
    moved = torch.cat([code + gain * d for d in fitted.direction for gain in GAINS])
    images = session.pictures(moved, None if y is None else y.repeat(len(moved), 1))
    images = images.unflatten(0, (-1, len(GAINS)))
    facts = {name: direction_facts(session, fitted, i) for i, name in enumerate(fitted.names)}
    rows = [f"{n}\n{facts[n]['with']} with\nAUC {facts[n]['auc']:.2f}" for n in fitted.names]
    grid = Grid(images, rows, [f"gain {g:+g}" for g in GAINS])
    session.write(grid, f"directions_{args.kind}", directions=facts, skipped=fitted.skipped, max=args.max)
    for name, reason in fitted.skipped.items():
        print(f"no direction for {name}: {reason}")


def direction_facts(session: Session, fitted: Directions, i: int) -> dict:
    """Counts, the reader's AUC, and |d|^2 by level (finest first) beside the noise in it."""
    lengths = [level.square().sum().item() for level in session.flow.unflatten(fitted.direction[i : i + 1])]
    noise = [level.square().sum().item() for level in session.flow.unflatten(fitted.error[i : i + 1])]
    without, with_ = fitted.count[i].tolist()
    return {
        "without": without,
        "with": with_,
        "auc": round(fitted.auc[i].item(), 4),
        "square_by_level": [round(v, 3) for v in lengths],
        "noise_by_level": [round(v, 3) for v in noise],
    }


def _add_grid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n", type=int, default=64, help="faces")
    parser.add_argument("--temperature", type=float, default=0.7, help="standard deviation of the code")
    parser.add_argument("--label", help="of all of them; none: as in the training set")


def _add_temperature(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--levels", action="store_true", help="one level at a time")
    parser.add_argument("--label", help="of all of them; none: as in the training set")


def _add_recon(parser: argparse.ArgumentParser) -> None:
    add_split(parser)
    parser.add_argument("--n", type=int, default=8, help="faces of each kind")


def _add_directions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=["ols", "mean"], default="ols", help="how directions are fitted")
    parser.add_argument("--max", type=int, default=0, help="training faces; 0: all")


MODES = {
    "grid": Mode(grid, "faces from nothing", _add_grid),
    "temperature": Mode(temperature, "the same noise at rising temperatures", _add_temperature),
    "recon": Mode(recon, "pictures that come back byte for byte", _add_recon),
    "directions": Mode(directions, "attribute directions and their card", _add_directions),
    "edit": Mode(run_edit, "move a face along directions, also your own photo", add_edit),
    "transfer": Mode(run_transfer, "a face under another label", add_transfer),
    "classify": Mode(run_classify, "the density as a classifier", add_classify),
    "interpolate": Mode(run_interpolate, "a walk between faces", add_interpolate),
    "score": Mode(run_score, "how usual a picture is", add_score),
    "export": Mode(run_export, "folders of images that evaluation/ reads", add_flow_export),
    "report": Mode(run_report, "bits per dimension beside its yardsticks; exactness", add_report),
    "import": Mode(run_import, "a checkpoint of another project becomes the run --run-dir", add_import),
}


def main(argv: list[str] | None = None) -> None:
    sample_main(MODES, __doc__.splitlines()[0], argv)


if __name__ == "__main__":
    main()
