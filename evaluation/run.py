"""Judge a folder of images: a table with baselines, `metrics.json`, and what the judge said of every file.

python -m evaluation.run --fake DIR [DIR …] [--real RUN|YAML|PACK|DIR] --judge RUN [RUN …] --out metrics.json [--quick]
"""

import argparse
import csv
import io
import json
import shlex
import sys
import time
from pathlib import Path

import torch

from data import DataConfig
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text
from evaluation import (
    attributes,
    classifier,
    counterfactual,
    distribution,
    diversity,
    expression,
    geometry,
    identity,
    intensity,
    pictures,
)
from evaluation.eval_data import EvalData, Predictions
from evaluation.features import CHUNK, Inception, read_all
from evaluation.folder import Export, read_folders
from evaluation.metric import Metric, plain, table
from evaluation.real import Real, open_real

PARTS = (expression, attributes, identity, counterfactual, pictures, diversity, distribution, geometry, intensity)
QUICK, MAX_IMAGES = 2_000, 10_000  # images


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    args = arguments(argv)
    with exit_on_user_error():
        if args.out.suffix != ".json" or args.out.name in ("export.json", "test_metrics.json", "meta.json"):
            raise UserError(f"--out {args.out}: expected a new .json file, as metrics.json")
        result = evaluate(
            args.fake,
            args.judge,
            args.real,
            QUICK if args.quick else args.most,
            args.features,
            args.inception_weights,
            args.batch_size,
            args.device,
        )
        result["command"] = shlex.join(["python", "-m", "evaluation.run", *(sys.argv[1:] if argv is None else argv)])
        eval_data, metrics = result.pop("case"), result.pop("figures")
        result["figures"] = [f.plain() for f in metrics]
        atomic_text(args.out, json.dumps(plain(result), indent=1))
        predictions = args.out.parent / (
            "predictions.csv" if args.out.name == "metrics.json" else f"{args.out.stem}_predictions.csv"
        )
        atomic_text(predictions, predictions_csv(eval_data))
        print(report(result, metrics, args.out, predictions))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """See the module's first lines; `--help` says the rest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fake", nargs="+", type=Path, required=True, help="folders with a manifest.csv, one method's")
    parser.add_argument(
        "--real",
        help="real faces: a run or YAML file (its data block), a pack, a folder of images; "
        "default: what the first judge was trained on",
    )
    parser.add_argument("--judge", nargs="+", type=Path, required=True, help="runs of evaluation.train_classifier")
    parser.add_argument("--out", type=Path, required=True, help="a .json file; predictions.csv is written beside it")
    parser.add_argument("--quick", action="store_true", help=f"look at {QUICK} images")
    parser.add_argument("--most", type=int, default=MAX_IMAGES, help="look at so many images (0: all)")
    parser.add_argument(
        "--features", choices=["faces", "inception"], default="faces", help="network behind FID and KID"
    )
    parser.add_argument("--inception-weights", type=Path, help="file of torch-fidelity's weights")
    parser.add_argument("--batch-size", type=int, default=256, help="images at a time; changes no figure")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args(argv)


def evaluate(
    fake: list[Path],
    judges: list[Path],
    real: str | None = None,
    most: int = MAX_IMAGES,
    features: str = "faces",
    inception_weights: Path | None = None,
    batch_size: int = 256,
    device: str = "auto",
) -> dict:
    """All figures that folder, judges and real faces allow.

    Returns:
        A dict with "figures" (a list of Figure), "case", "tradeoff", "judges", "alarms", "warnings", "notes", facts.

    Raises:
        UserError: a folder or picture is not as expected, a guide is given as judge, a judge helped to make the images.
    """
    begun = time.perf_counter()
    export = read_folders(fake, most)
    nets = open_judges(judges, export, device)
    faces = open_real(real, nets[0].cfg.data, most)
    feature_net = next(
        (net for net in nets if "identity" not in net.heads), nets[0]
    )  # Case.features takes the same one
    eval_data = EvalData(
        export, faces, [read(net, export, faces, batch_size, train=net is feature_net) for net in nets]
    )
    eval_data.notes += export.notes + size_notes(eval_data)
    if features == "inception":
        net = Inception(inception_weights)
        eval_data.inception = (
            "Inception",
            *(net.features(x).double() for x in (export.images, faces.images, faces.train)),
        )
    metrics: list[Metric] = []
    for part in PARTS:
        metrics += part.metrics(eval_data)
    return {
        "figures": metrics,
        "case": eval_data,
        "tradeoff": intensity.tradeoff(eval_data),
        "folders": [str(f) for f in fake],
        "judges": [facts_of(j) for j in eval_data.judges],
        "real": faces.name,
        "n_real": len(faces.images),
        "alarms": eval_data.alarms,
        "warnings": sorted({w for f in metrics for w in f.warnings}),
        "notes": eval_data.notes,
        "n": len(export.rows),
        "image_size": export.images.shape[-1],
        "seconds": round(time.perf_counter() - begun, 1),
    }


def open_judges(runs: list[Path], export: Export, device: str) -> list[classifier.Classifier]:
    """Load the judges; refuse those that may not judge these images."""
    nets = []
    for run in runs:
        net = classifier.load(run, role="judge", device=device)
        if net.origin.sha256 in export.weights:
            raise UserError(
                f"{run}: has the very weights that export.json names as {export.weights[net.origin.sha256]}; "
                "a judge must not have taught: train another one with its own seed"
            )
        nets.append(net)
    return nets


def read(net: classifier.Classifier, export: Export, faces: Real, batch_size: int, train: bool) -> Predictions:
    """What one judge says of all pictures. Readings of real faces are kept in the cache.

    train: whether the training faces are read too; only the judge whose features measure distances needs them.
    """
    cache = DataConfig().cache_folder() / "judged"
    test_metrics = classifier.read_grade(net.origin.run)
    # Small exports are not worth keeping; a long pass that is interrupted goes on where it was.
    kept = cache if len(export.images) > CHUNK else None
    fake = read_all(net, export.images, kept, "images", batch_size)
    real = read_all(net, faces.images, cache, "real faces", batch_size)
    others = read_all(net, faces.train, cache, "training faces", batch_size) if train else {}
    return Predictions(net, fake, real, others, test_metrics)


def size_notes(eval_data: EvalData) -> list[str]:
    """What had to be resized or greyed."""
    notes, size, channels = [], eval_data.export.images.shape[-1], eval_data.export.images.shape[1]
    for predictions in eval_data.judges:
        want, colours = predictions.judge.meta["image_size"], predictions.judge.meta["channels"]
        if size != want or channels != colours:
            seen = "grey" if colours == 1 else "colour"
            notes.append(
                f"{predictions.name} reads {want} px {seen}: pictures of {size} px were resized (antialiased) for it"
            )
        if not predictions.test_metrics:
            notes.append(
                f"{predictions.name} was never graded: its training did not come to its end, probabilities are raw"
            )
    if eval_data.real.images.shape[-1] != size:
        notes.append(
            f"real faces of {eval_data.real.images.shape[-1]} px were resized (antialiased) to {size} px "
            "to compare pixels"
        )
    return notes


def facts_of(predictions: Predictions) -> dict:
    """Who judged, with the accuracy that its own test faces give it."""
    origin, test = predictions.judge.origin, predictions.test_metrics.get("test", {})
    short = {head: {k: v for k, v in test[head].items() if not isinstance(v, list)} for head in test}
    facts = {"name": predictions.name, "run": origin.run, "step": origin.step, "sha256": origin.sha256}
    return facts | {
        "heads": list(predictions.judge.heads),
        "taught on": predictions.judge.meta["dataset"],
        "test": short,
    }


def predictions_csv(eval_data: EvalData) -> str:
    """A line per row of the manifests, and per source, with the judges' logits (a second judge's named by its run)."""
    out, names, columns = io.StringIO(), ["file", "kind", "source", "target", "strength", "seed"], []
    for predictions in eval_data.judges:
        for i, name in enumerate(predictions.judge.names):
            names.append(name if name not in names else f"{predictions.name}:{name}")
            columns.append(predictions.fake["logits"][:, i])
    values = torch.stack(columns, 1).tolist() if columns else [[] for _ in eval_data.export.images]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    sources = dict.fromkeys(row.source for row in eval_data.export.rows if row.source)
    at = {
        row.source: int(place)
        for row, place in zip(eval_data.export.rows, eval_data.export.source, strict=True)
        if row.source
    }
    for row, place in zip(eval_data.export.rows, eval_data.export.file.tolist(), strict=True):
        writer.writerow(
            [row.file, row.kind, row.source, row.target, row.strength, row.seed, *(f"{v:.5f}" for v in values[place])]
        )
    for source in sources:
        writer.writerow([source, "source", "", "", "", "", *(f"{v:.5f}" for v in values[at[source]])])
    return out.getvalue()


def report(result: dict, metrics: list[Metric], out: Path, predictions: Path) -> str:
    """What the terminal shows."""
    lines = [table(metrics), ""]
    for judge in result["judges"]:
        own = ", ".join(
            f"{head} {k} {v:.3f}"
            for head, f in judge["test"].items()
            for k, v in f.items()
            if isinstance(v, float) and k in ("accuracy", "macro", "nme", "rate")
        )
        lines.append(f"judge {judge['name']} on its own real test faces ({judge['taught on']}): {own or 'not graded'}")
    lines += [f"note: {note}" for note in result["notes"]] + [f"warning: {w}" for w in result["warnings"]]
    lines += [f"ALARM: {alarm}" for alarm in result["alarms"]]
    return "\n".join(
        [*lines, f"{result['n']} images against {result['n_real']} of {result['real']}; wrote {out} and {predictions}"]
    )


if __name__ == "__main__":
    main()
