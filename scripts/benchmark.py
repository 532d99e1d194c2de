"""Measure trained runs by one protocol and write results/<benchmark>/<method>.json.

    python scripts/benchmark.py drawn32 vae runs/vae/synthetic32 runs/vae/synthetic32_seed1
    python scripts/benchmark.py drawn32 baselines
    python scripts/results.py

All runs edit the same test faces to every expression, decoded, at strength 1. The same judge classifies the edits.
Several runs of one method are its seeds. `baselines` measures no edit, the class-mean difference and, for drawn faces,
the ground truth. `scripts/results.py` makes the tables from these files.
"""

import argparse
import json
import platform
import shlex
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from editing.benchmark import BenchmarkFaces, benchmark_faces, export_benchmark, export_sources
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text
from evaluation.baselines import KINDS, export_baseline, labelled
from evaluation.metric import replace_nan
from evaluation.real import data_config
from evaluation.run import evaluate
from families import open_editor

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


@dataclass(frozen=True)
class Benchmark:
    """Test faces and judges."""

    data: str  # a YAML file whose data block gives the faces
    n: int  # number of test faces
    judges: tuple[str, ...]  # run directories of evaluation.train_classifier
    overrides: dict = field(default_factory=dict)  # of the data block


BENCHMARKS = {
    "drawn32": Benchmark(
        "configs/evaluation/synthetic32.yaml",
        300,
        ("runs/evaluation/synthetic32", "runs/evaluation/synthetic32_identity"),
    ),
    "fer2013": Benchmark(
        "configs/evaluation/fer2013_cpu.yaml", 140, ("runs/evaluation/fer2013_cpu",), {"root": "datasets/fer2013"}
    ),
}
METRICS = {  # name in the results: key of evaluation/
    "target accuracy": "target accuracy",
    "target gain": "target gain",
    "PSNR inside": "PSNR inside",
    "PSNR outside": "PSNR outside",
    "gap closed": "gap closed",
    "identity similarity": "identity similarity",
    "leakage": "leakage",
    "face-FID": "edit face-FID",
    "sharpness": "edit sharpness",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=list(BENCHMARKS))
    parser.add_argument("method", help="name of the method, as vae; or baselines")
    parser.add_argument("runs", nargs="*", type=Path, help="run directories of the method, one for each seed")
    parser.add_argument("--n", type=int, help="another number of faces, for a trial; needs --out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--keep", type=Path, help="keep the exported images in this folder")
    args = parser.parse_args(argv)
    with exit_on_user_error(), tempfile.TemporaryDirectory() as scratch:
        if args.n and args.out == RESULTS:
            raise UserError("--n: results/ is for the full number of faces; give another folder with --out")
        if (args.method == "baselines") == bool(args.runs):
            raise UserError(f"{args.method}: expected the run directories of a method, or `baselines` without any")
        benchmark, folder = BENCHMARKS[args.benchmark], args.keep or Path(scratch)
        faces = benchmark_faces(
            replace(data_config(ROOT / benchmark.data), **benchmark.overrides), args.n or benchmark.n
        )
        if args.method == "baselines":
            measured = measure_baselines(benchmark, faces, folder)
        else:
            measured = [measure_run(benchmark, faces, run, folder / run.name) for run in args.runs]
        path = args.out / args.benchmark / f"{args.method}.json"
        atomic_text(path, json.dumps(replace_nan(record(args, faces, measured)), indent=1) + "\n")
        print(f"wrote {path}")


def measure_run(benchmark: Benchmark, faces: BenchmarkFaces, run: Path, out: Path) -> dict:
    """Export and measure the edits of one run; its metrics, weights and training command."""
    editor = open_editor(run)
    export_benchmark(editor, out, faces, editor.targets())
    launch = json.loads((run / "environment.json").read_text(encoding="utf-8"))[-1]
    origin, seconds = editor.method.origin, launch.get("cpu_seconds")
    return {
        "run": str(run),
        "step": origin.step,
        "sha256": origin.sha256,
        "seed": launch.get("seed"),
        "train_command": shlex.join(["python", *launch["command"]]),
        "train_commit": launch.get("commit"),
        "cpu_minutes": round(seconds / 60, 1) if seconds else None,
    } | measure(benchmark, out)


def measure_baselines(benchmark: Benchmark, faces: BenchmarkFaces, folder: Path) -> list[dict]:
    """Metrics of no edit, class-mean difference and, for drawn faces, ground truth."""
    sources, real, measured = export_sources(faces, folder / "sources"), labelled(benchmark.judges[0]), []
    for kind in KINDS:
        if kind != "ground-truth" or faces.drawn is not None:
            export_baseline([sources], kind, real, folder / kind)
            measured.append({"run": kind} | measure(benchmark, folder / kind))
    return measured


def measure(benchmark: Benchmark, folder: Path) -> dict:
    """Metrics of one export by the judges of the benchmark."""
    result = evaluate([folder], [Path(run) for run in benchmark.judges])
    metrics = {metric.key: metric for metric in result["metrics"]}
    accuracy = metrics.get("target accuracy")
    return {
        "metrics": {name: metrics[key].value for name, key in METRICS.items() if key in metrics},
        "per_target": accuracy.detail["per_target"] if accuracy else {},
        "real": accuracy.references.get("real") if accuracy else None,
        "chance": accuracy.references.get("chance") if accuracy else None,
        **{key: result[key] for key in ("warnings", "alarms", "judges")},
    }


def record(args: argparse.Namespace, faces: BenchmarkFaces, measured: list[dict]) -> dict:
    """The content of the results file: protocol, command, commit, hardware and the metrics of all runs."""
    benchmark, judges = BENCHMARKS[args.benchmark], measured[0]["judges"]
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    protocol = {"data": benchmark.data, "faces": len(faces.names), "split": "test"}
    protocol |= {"targets": list(faces.meta["classes"]), "detail": "decode", "strength": 1.0, "judges": judges}
    return {
        "benchmark": args.benchmark,
        "method": args.method,
        "protocol": protocol,
        "command": shlex.join(["python", "scripts/benchmark.py", args.benchmark, args.method, *map(str, args.runs)]),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "runs": [{key: value for key, value in run.items() if key != "judges"} for run in measured],
    }


def processor() -> str:
    """The name of the GPU or CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
