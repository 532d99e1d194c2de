"""Measure trained runs by one protocol and keep the figures: results/<benchmark>/<method>.json.

    python scripts/benchmark.py drawn32 vae runs/vae/synthetic32 runs/vae/synthetic32_seed1 runs/vae/synthetic32_seed2
    python scripts/benchmark.py drawn32 baselines
    python scripts/results.py

All runs edit the same test faces, asked for every expression, decoded at strength 1, and one judge classifies the
edits. Several runs of one method are its seeds: the file holds each, and `scripts/results.py` shows median and range.
`baselines` measures no edit, the class-mean difference and (drawn faces) the ground truth on the same faces.
"""

import argparse
import json
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from editing.benchmark import BenchmarkFaces, benchmark_faces, export_benchmark
from editing.export import ground_truth, rows_of, save_all, target_texts
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text
from evaluation.baselines import KINDS, export_baseline, labelled
from evaluation.manifest import read_manifest, write_export, write_manifest
from evaluation.metric import plain
from evaluation.real import data_config
from evaluation.run import evaluate
from families import open_editor

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


@dataclass(frozen=True)
class Benchmark:
    """Whose test faces are edited, how many, and who judges them."""

    data: str  # a YAML file of configs/
    overrides: dict  # of its data block
    n: int
    judges: tuple[str, ...]  # run directories of evaluation.train_classifier


BENCHMARKS = {
    "drawn32": Benchmark(
        "configs/evaluation/synthetic32.yaml",
        {},
        300,
        ("runs/evaluation/synthetic32", "runs/evaluation/synthetic32_identity"),
    ),
    "fer2013": Benchmark(
        "configs/evaluation/fer2013_cpu.yaml", {"root": "datasets/fer2013"}, 140, ("runs/evaluation/fer2013_cpu",)
    ),
}
METRICS = {  # column of the table: key of evaluation/
    "target accuracy": "target accuracy",
    "target gain": "target gain",
    "PSNR inside": "PSNR inside",
    "PSNR outside": "PSNR outside",
    "gap closed": "gap closed",
    "identity similarity": "identity similarity",
    "leakage": "leakage",
    "face-FID": "edit face-FID",
    "sharpness": "edit sharpness",
    "SSIM": "edit SSIM",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=list(BENCHMARKS))
    parser.add_argument("method", help="name of the row, as vae; or baselines")
    parser.add_argument("runs", nargs="*", type=Path, help="run directories: the seeds of one method")
    parser.add_argument("--n", type=int, help="fewer faces, for a trial; the figures are not for results/")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--keep", type=Path, help="keep the exported pictures in this folder")
    args = parser.parse_args(argv)
    with exit_on_user_error(), tempfile.TemporaryDirectory() as scratch:
        if args.n and args.out == RESULTS:
            raise UserError("--n: a trial with other faces does not belong into results/; give --out")
        folder, faces = args.keep or Path(scratch), shared_faces(args)
        if args.method == "baselines":
            measured = measure_baselines(args, faces, folder)
        elif not args.runs:
            raise UserError(f"{args.method}: name its run directories")
        else:
            measured = [measure_run(args, faces, run, folder / run.name) for run in args.runs]
        path = args.out / args.benchmark / f"{args.method}.json"
        atomic_text(path, json.dumps(plain(record(args, faces, measured)), indent=1) + "\n")
        print(f"wrote {path}")


def shared_faces(args: argparse.Namespace) -> BenchmarkFaces:
    """The test faces of the benchmark."""
    benchmark, cfg = BENCHMARKS[args.benchmark], None
    cfg = data_config(ROOT / benchmark.data)
    for key, value in benchmark.overrides.items():
        setattr(cfg, key, value)
    return benchmark_faces(cfg, args.n or benchmark.n)


def measure_run(args: argparse.Namespace, faces: BenchmarkFaces, run: Path, out: Path) -> dict:
    """Export the edits of a run, judge them, and say where the run comes from."""
    editor = open_editor(run)
    export_benchmark(editor, out, faces, editor.targets())
    launch = json.loads((run / "environment.json").read_text(encoding="utf-8"))[-1]
    origin = editor.method.origin
    facts = {"run": str(run), "step": origin.step, "sha256": origin.sha256, "seed": launch.get("seed")}
    facts |= {"train_command": shlex.join(["python", *launch["command"]]), "train_commit": launch.get("commit")}
    facts["cpu_minutes"] = round(launch["cpu_seconds"] / 60, 1) if launch.get("cpu_seconds") else None
    return facts | judge(args, [out])


def measure_baselines(args: argparse.Namespace, faces: BenchmarkFaces, folder: Path) -> list[dict]:
    """No edit, class-mean difference and ground truth on the same faces and targets."""
    benchmark = BENCHMARKS[args.benchmark]
    like, real = sources_only(faces, folder / "sources"), labelled(benchmark.judges[0])
    known, measured = any(row.truth for row in read_manifest(like)), []
    for kind in KINDS:
        if kind == "ground-truth" and not known:
            continue
        export_baseline([like], kind, real, folder / kind)
        measured.append({"run": kind} | judge(args, [folder / kind]))
    return measured


def sources_only(faces: BenchmarkFaces, folder: Path) -> Path:
    """An export whose edits are the sources themselves, with targets and ground truth: what baselines start from."""
    from types import SimpleNamespace

    from data.emotions import class_order
    from data.labels import label_table
    from data.request import parse_request

    folder.mkdir(parents=True, exist_ok=True)
    meta, batch, n = faces.meta, faces.batch, len(faces.names)
    table, classes = label_table(batch, meta), meta["classes"]
    names = save_all(batch["image"], folder, "source", n)
    labels = [classes[k] if k >= 0 else "" for k in batch["label"].tolist()]
    common = [
        {"source": name, "source_index": f"{meta['dataset']}:{face}", "source_label": label}
        for name, face, label in zip(names, faces.names, labels, strict=True)
    ]
    rows = []
    for number, place in enumerate(class_order(classes)):
        request, truths = parse_request(classes[place], classes, meta["attributes"]), [""] * n
        if faces.drawn is not None:
            truth = ground_truth(faces.drawn, meta, batch["index"].numpy(), request, table)
            truths = save_all(truth, folder, f"truth{number}", n)
        edits = save_all(batch["image"], folder, f"edit{number}", n)
        rows += rows_of(edits, "edit", common, target=target_texts(request, table, meta), truth=truths)
    write_manifest(folder, rows)
    write_export(folder, SimpleNamespace(run="sources", step=0, sha256=""), meta, "edit", base="source")
    return folder


def judge(args: argparse.Namespace, folders: list[Path]) -> dict:
    """The figures of an export, by the benchmark's judges."""
    result = evaluate(folders, [Path(run) for run in BENCHMARKS[args.benchmark].judges], None)
    values = {figure.key: figure for figure in result["figures"]}
    found = {name: values[key].value for name, key in METRICS.items() if key in values}
    accuracy = values.get("target accuracy")
    per_target = accuracy.detail.get("per_target", {}) if accuracy else {}
    beside = accuracy.beside if accuracy else {}
    return {
        "metrics": found,
        "per_target": per_target,
        "real": beside.get("real"),
        "chance": beside.get("chance"),
        "warnings": result["warnings"],
        "alarms": result["alarms"],
        "judges": result["judges"],
    }


def record(args: argparse.Namespace, faces: BenchmarkFaces, measured: list[dict]) -> dict:
    """Everything that a figure needs to be repeated."""
    benchmark = BENCHMARKS[args.benchmark]
    judges = measured[0].pop("judges")
    for other in measured[1:]:
        other.pop("judges")
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    command = ["python", "scripts/benchmark.py", args.benchmark, args.method, *map(str, args.runs)]
    return {
        "benchmark": args.benchmark,
        "method": args.method,
        "protocol": {
            "data": benchmark.data,
            "faces": len(faces.names),
            "split": "test",
            "targets": list(faces.meta["classes"]),
            "detail": "decode",
            "strength": 1.0,
            "judges": judges,
        },
        "command": shlex.join(command),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "runs": measured,
    }


def processor() -> str:
    """The name of the GPU or CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main(sys.argv[1:])
