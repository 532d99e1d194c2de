"""Measure exports of one method: a table, `metrics.json`, and `predictions.csv` with the logits of every image.

python -m evaluation.run --fake DIR [DIR ...] [--real RUN|YAML|PACK|DIR] --judge RUN [RUN ...] --out metrics.json
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
from evaluation.features import CHUNK, Inception, predict_all
from evaluation.folder import Export, read_folders
from evaluation.metric import Metric, replace_nan, table
from evaluation.real import Real, open_real

PARTS = (expression, attributes, identity, counterfactual, pictures, diversity, distribution, geometry, intensity)
MAX_IMAGES = 10_000


def main(argv: list[str] | None = None) -> None:
    """The command line: see the docstring of this module."""
    args = arguments(argv)
    with exit_on_user_error():
        if args.out.suffix != ".json" or args.out.name in ("export.json", "test_metrics.json", "meta.json"):
            raise UserError(f"--out {args.out}: expected the name of a new .json file, as metrics.json")
        result = evaluate(
            args.fake,
            args.judge,
            args.real,
            args.max_images,
            args.features,
            args.inception_weights,
            args.batch_size,
            args.device,
        )
        result["command"] = shlex.join(["python", "-m", "evaluation.run", *(sys.argv[1:] if argv is None else argv)])
        eval_data, metrics = result.pop("eval_data"), result.pop("metrics")
        result["metrics"] = [f.to_dict() for f in metrics]
        atomic_text(args.out, json.dumps(replace_nan(result), indent=1))
        predictions = args.out.parent / (
            "predictions.csv" if args.out.name == "metrics.json" else f"{args.out.stem}_predictions.csv"
        )
        atomic_text(predictions, predictions_csv(eval_data))
        print(report(result, metrics, args.out, predictions))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fake", nargs="+", type=Path, required=True, help="exports of one method (folders with a manifest.csv)"
    )
    parser.add_argument(
        "--real", help="real faces: run, YAML file or folder of images; default: the data of the first judge"
    )
    parser.add_argument(
        "--judge", nargs="+", type=Path, required=True, help="run directories of evaluation.train_classifier"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="a .json file; predictions.csv is written into the same folder"
    )
    parser.add_argument("--max-images", type=int, default=MAX_IMAGES, help="maximum number of images; 0: all")
    parser.add_argument(
        "--features",
        choices=["faces", "inception"],
        default="faces",
        help="feature network of FID and KID: the first judge, or Inception-v3",
    )
    parser.add_argument("--inception-weights", type=Path, help="file of the Inception weights of torch-fidelity")
    parser.add_argument(
        "--batch-size", type=int, default=256, help="images per forward pass; does not change the metrics"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args(argv)


def evaluate(
    fake: list[Path],
    judges: list[Path],
    real: str | None = None,
    max_images: int = MAX_IMAGES,
    features: str = "faces",
    inception_weights: Path | None = None,
    batch_size: int = 256,
    device: str = "auto",
) -> dict:
    """All metrics that the exports, judges and real faces allow.

    Args:
        fake: exports of one method. judges: run directories. real: see `evaluation.real.open_real`.
        max_images: maximum number of rows and of real faces; 0 = all.
        features: "faces" (the first judge) or "inception".

    Returns:
        A dict with "metrics" (list of Metric), "eval_data", "tradeoff", "judges", "alarms", "warnings", "notes", and
        names and numbers of the images.

    Raises:
        UserError: an export or image is not valid; a guide is given as judge; a judge was used to make the images.
    """
    start = time.perf_counter()
    export = read_folders(fake, max_images)
    nets = open_judges(judges, export, device)
    faces = open_real(real, nets[0].cfg.data, max_images)
    # `EvalData.features` uses the same network.
    feature_net = next((net for net in nets if "identity" not in net.heads), nets[0])
    eval_data = EvalData(
        export, faces, [predict(net, export, faces, batch_size, train=net is feature_net) for net in nets]
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
        "metrics": metrics,
        "eval_data": eval_data,
        "tradeoff": intensity.tradeoff(eval_data),
        "folders": [str(f) for f in fake],
        "judges": [judge_info(j) for j in eval_data.judges],
        "real": faces.name,
        "n_real": len(faces.images),
        "alarms": eval_data.alarms,
        "warnings": sorted({w for f in metrics for w in f.warnings}),
        "notes": eval_data.notes,
        "n": len(export.rows),
        "image_size": export.images.shape[-1],
        "seconds": round(time.perf_counter() - start, 1),
    }


def open_judges(runs: list[Path], export: Export, device: str) -> list[classifier.Classifier]:
    """Load the judges.

    Raises:
        UserError: a run is a guide, or its weights were used to make the images.
    """
    nets = []
    for run in runs:
        net = classifier.load(run, role="judge", device=device)
        if net.origin.sha256 in export.weights:
            raise UserError(
                f"{run}: these are the weights of {export.weights[net.origin.sha256]}; "
                "a judge must not measure images that it helped to make: train another judge with another seed"
            )
        nets.append(net)
    return nets


def predict(net: classifier.Classifier, export: Export, faces: Real, batch_size: int, train: bool) -> Predictions:
    """Predictions of one judge for all images; those for real faces are cached.

    train: also predict the training faces. Only the feature network needs them.
    """
    cache = DataConfig().cache_folder() / "predictions"
    test_metrics = classifier.read_test_metrics(net.origin.run)
    # Only a large export is cached, so that an interrupted call can continue.
    fake_cache = cache if len(export.images) > CHUNK else None
    fake = predict_all(net, export.images, fake_cache, "images", batch_size)
    real = predict_all(net, faces.images, cache, "real faces", batch_size)
    train_faces = predict_all(net, faces.train, cache, "training faces", batch_size) if train else {}
    return Predictions(net, fake, real, train_faces, test_metrics)


def size_notes(eval_data: EvalData) -> list[str]:
    """Notes on images that were resized or converted to grey, and on judges without test metrics."""
    notes, size, channels = [], eval_data.export.images.shape[-1], eval_data.export.images.shape[1]
    for predictions in eval_data.judges:
        judge_size, judge_channels = predictions.judge.meta["image_size"], predictions.judge.meta["channels"]
        if size != judge_size or channels != judge_channels:
            colour = "grey" if judge_channels == 1 else "colour"
            notes.append(f"images of {size} px were converted to {judge_size} px {colour} for {predictions.name}")
        if not predictions.test_metrics:
            notes.append(
                f"{predictions.name} has no test metrics (unfinished training): its probabilities are not calibrated"
            )
    if eval_data.real.images.shape[-1] != size:
        notes.append(f"real faces of {eval_data.real.images.shape[-1]} px were resized to {size} px to compare pixels")
    return notes


def judge_info(predictions: Predictions) -> dict:
    """Name, weights and test metrics of a judge."""
    origin, test = predictions.judge.origin, predictions.test_metrics.get("test", {})
    scalars = {head: {k: v for k, v in test[head].items() if not isinstance(v, list)} for head in test}
    facts = {"name": predictions.name, "run": origin.run, "step": origin.step, "sha256": origin.sha256}
    return facts | {
        "heads": list(predictions.judge.heads),
        "dataset": predictions.judge.meta["dataset"],
        "test": scalars,
    }


def predictions_csv(eval_data: EvalData) -> str:
    """A CSV table with one line per row of the manifests and per source, and the logits of all judges.

    Of a second judge, a name that the first one has too gets the prefix `<judge>:`.
    """
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
    """The text for the terminal."""
    lines = [table(metrics), ""]
    for judge in result["judges"]:
        scores = ", ".join(
            f"{head} {k} {v:.3f}"
            for head, f in judge["test"].items()
            for k, v in f.items()
            if isinstance(v, float) and k in ("accuracy", "macro", "nme", "rate")
        )
        lines.append(f"judge {judge['name']} on real test faces ({judge['dataset']}): {scores or 'not measured'}")
    lines += [f"note: {note}" for note in result["notes"]] + [f"warning: {w}" for w in result["warnings"]]
    lines += [f"ALARM: {alarm}" for alarm in result["alarms"]]
    return "\n".join(
        [
            *lines,
            f"{result['n']} images, {result['n_real']} real faces ({result['real']}); wrote {out} and {predictions}",
        ]
    )


if __name__ == "__main__":
    main()
