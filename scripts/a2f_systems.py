"""Compare the systems of a2f: the same requests and the same judge, with real faces and two baselines.

python scripts/a2f_systems.py --cgan RUN --face RUN [--also NAME=RUN ...] --judge RUN [--n 2000] [--seed 0] --out DIR

Requests are the attributes of test faces, evenly spread over the test set. The script writes an export per system,
`systems.json`, the table `systems.md`, and the grid `systems.png`.

Baselines: retrieval is a training face with the requested attributes. mean-request is the mean of all such training
faces (mode collapse): it has a high accuracy and a bad face-FID, so accuracy alone does not rank systems.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from a2f.editor import Editor
from benchmarks.attribute_samples import BASELINES, export_baseline, export_system, requested
from engine import Grid, UserError, save_grid
from engine.errors import exit_on_user_error
from engine.files import atomic_text
from evaluation.folder import read_folders
from evaluation.run import evaluate

COLUMNS = {  # key of a metric: heading
    "attribute accuracy": "attribute accuracy", "exact match": "exact match", "attribute L2": "attribute L2",
    "sample intra-class SSIM": "intra-class SSIM", "sample intra-class distance": "intra-class distance / real",
    "sample face-FID": "face-FID", "sample face-precision": "precision", "sample face-recall": "recall",
    "sample nearest training face": "nearest training face", "sample inception score": "inception score",
}  # fmt: skip


def sheet(folders: dict[str, Path], real: Tensor, out: Path) -> None:
    """A grid: real faces in the first row, then one row per system with the same requests."""
    rows, names = [real], ["real face with these attributes"]
    for name, folder in folders.items():
        export = read_folders([folder])
        images = export.images[export.file[torch.arange(len(real)) * len(export.rows) // len(real)]]
        rows.append(images.float() / 127.5 - 1)
        names.append(name)
    save_grid(Grid(torch.stack(rows), names), out)


def row_of(name: str, metrics: list, reference: str = "") -> list[str]:
    """A row of the table: the metrics, or their references with this name."""
    found = {metric.key: metric for metric in metrics}
    cells = [name]
    for key in COLUMNS:
        metric = found.get(key)
        value = None if metric is None else metric.references.get(reference) if reference else metric.value
        cells.append("" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}")
    return cells


def table(results: dict[str, dict], n: int, judge: str) -> str:
    """The table in Markdown, with real faces first."""
    first = next(iter(results.values()))["metrics"]
    lines = [row_of("real test faces", first, "real"), row_of("shuffled requests", first, "shuffled")]
    lines += [row_of(name, result["metrics"]) for name, result in results.items()]
    head = ["", *COLUMNS.values()]
    text = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines)]
    return f"N {n}, judge {judge}. Worst attribute of each: {worst(results)}\n\n" + "\n".join(text) + "\n"


def worst(results: dict[str, dict]) -> str:
    """The attribute with the lowest accuracy of each system."""
    found = []
    for name, result in results.items():
        for metric in result["metrics"]:
            if metric.key == "attribute accuracy":
                per = metric.detail["per_attribute"]
                found.append(f"{name} {min(per, key=per.get)} {min(per.values()):.2f}")
    return "; ".join(found)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cgan", type=Path, help="a run of system cgan")
    parser.add_argument("--face", type=Path, help="a run of system face: A2F-noise and A2F-sketch")
    parser.add_argument(
        "--also", nargs="*", default=[], help="NAME=RUN: other runs of cgan or face, with noise as input"
    )
    parser.add_argument("--judge", type=Path, required=True, help="a run of evaluation.train_classifier")
    parser.add_argument("--n", type=int, default=2000, help="number of requests")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        run_all(args)


def run_all(args: argparse.Namespace) -> None:
    """Export and measure all systems, and write the results."""
    plan = {"CGAN": (args.cgan, "noise")} if args.cgan else {}
    if args.face:
        plan |= {"A2F-noise": (args.face, "noise"), "A2F-sketch": (args.face, "sketch")}
    plan |= {name: (Path(run), "noise") for name, _, run in (text.partition("=") for text in args.also)}
    if not plan:
        raise UserError("expected at least one run; give --cgan RUN or --face RUN")
    folders = {
        name: export_system(run, entry, args.n, args.seed, args.out / name) for name, (run, entry) in plan.items()
    }
    first = next(iter(plan.values()))[0]
    editor = Editor.of(first)(first)
    requests = requested(next(iter(folders.values())), editor.attributes)
    for kind in BASELINES:
        folders[kind] = export_baseline(kind, requests, editor.attributes, editor.faces, args.seed, args.out / kind)
    faces = editor.split("test")
    n = min(args.n, len(faces))
    shown = faces.take([i * n // 12 * len(faces) // n for i in range(12)])["image"]
    sheet(folders, shown, args.out / "systems.png")
    results = {name: evaluate([folder], [args.judge], str(first)) for name, folder in folders.items()}
    plain = {
        name: {
            "run": str(plan.get(name, [""])[0]),
            "metrics": [metric.to_dict() for metric in result["metrics"]],
            "alarms": result["alarms"],
        }
        for name, result in results.items()
    }
    atomic_text(args.out / "systems.json", json.dumps(plain, indent=1))
    text = table(results, n, args.judge.name)
    atomic_text(args.out / "systems.md", text)
    print(text)
    for name, result in results.items():
        for alarm in result["alarms"]:
            print(f"{name}: ALARM: {alarm}")


if __name__ == "__main__":
    main()
