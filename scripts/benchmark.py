"""Measure trained runs by one protocol and write results/<benchmark>/<method>.json.

    python scripts/benchmark.py drawn32 vae runs/vae/synthetic32 runs/vae/synthetic32_seed1
    python scripts/benchmark.py drawn32 baselines
    python scripts/results.py

| benchmark | what is measured |
| --- | --- |
| drawn32 | 300 test faces, edited to every expression |
| drawn32_smiling | 300 test faces with the expression shares of CelebA, Smiling flipped |
| drawn32_attributes | 2,000 generated faces, asked for the attributes of test faces |
| fer2013 | 140 test faces, edited to every expression |
| demo | 42 test faces, edited to every expression, for `make demo` |

All runs edit the same test faces, decoded, at strength 1. The same judge classifies the edits. Several runs of one
method are its seeds. `baselines` measures the baselines. A target that a run cannot do is left out, and the results
name it. `make benchmark` trains and measures all systems; `scripts/results.py` makes the tables from these files.
"""

import argparse
import shlex
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import attribute_samples
from benchmarks.record import ROOT, metric_facts, run_facts, write_record
from benchmarks.systems import ENTRIES, QUICK_DATA
from data import DataConfig, build_faces
from data.config import DataBlock
from editing.benchmark import benchmark_faces, class_targets, export_benchmark, export_sources
from engine.config import to_yaml
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text
from evaluation import classifier
from evaluation.baselines import KINDS, export_baseline, labelled
from evaluation.metric import Metric
from evaluation.real import data_config
from evaluation.run import evaluate
from families import open_editor
from vae.dfi import DFIEditor

RESULTS = ROOT / "results"
QUICK_FACES, QUICK_SAMPLES, QUICK_TRUTHS = 21, 200, 14
EDITS = {  # name in the results: key of evaluation/
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
NYQUIST = "Nyquist energy"  # of real photos: it shows texture that a classifier likes
PHOTOS = EDITS | {NYQUIST: "edit Nyquist energy"}
FLIPS = EDITS | {"target accuracy": "attribute target accuracy"}
SAMPLES = {
    "attribute accuracy": "attribute accuracy",
    "exact match": "exact match",
    "SSIM within a request": "sample intra-class SSIM",
    "distance within a request": "sample intra-class distance",
    "face-FID": "sample face-FID",
    "nearest training face": "sample nearest training face",
}


@dataclass(frozen=True)
class Benchmark:
    """Test faces, judges and metrics. The faces of the same data are the real faces of all distances."""

    data: str  # a YAML file whose data block gives the faces
    n: int  # number of test faces, or of samples
    judges: tuple[str, ...]  # runs of evaluation.train_classifier, in --judges
    overrides: dict = field(default_factory=dict)  # of the data block
    targets: tuple[str, ...] = ()  # (): every expression
    metrics: dict[str, str] = field(default_factory=lambda: EDITS)


REFERENCES = ("real", "shuffled")  # values that `evaluation` computes in addition to those of samples
BOTH = ("synthetic32", "synthetic32_identity")
BENCHMARKS = {
    "drawn32": Benchmark("configs/evaluation/synthetic32.yaml", 300, BOTH),
    "drawn32_smiling": Benchmark("configs/vae/synthetic32.yaml", 300, BOTH, targets=("Smiling=flip",), metrics=FLIPS),
    "drawn32_attributes": Benchmark("configs/a2f/synthetic32_cgan.yaml", 2000, BOTH[:1], metrics=SAMPLES),
    "demo": Benchmark("configs/vae/demo.yaml", 42, ("judge",)),
    "fer2013": Benchmark(
        "configs/evaluation/fer2013_cpu.yaml", 140, ("fer2013_cpu",), {"root": "datasets/fer2013"}, metrics=PHOTOS
    ),
}


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    with exit_on_user_error(), tempfile.TemporaryDirectory() as scratch:
        if (args.n or args.quick) and args.out == RESULTS:
            raise UserError("--n, --quick: results/ is for whole measurements; give another folder with --out")
        if (args.method == "baselines") == bool(args.runs):
            raise UserError(f"{args.method}: expected the run directories of a method, or `baselines` without any")
        benchmark = chosen(args)
        measure_all = measure_samples if benchmark.metrics is SAMPLES else measure_edits
        real = Path(scratch) / "data.yaml"
        atomic_text(real, to_yaml(DataBlock(faces_config(benchmark))))
        protocol, runs = measure_all(benchmark, args, real, args.keep or Path(scratch) / "exports")
        facts = {"benchmark": args.benchmark, "method": args.method}
        facts["protocol"] = {"data": benchmark.data, "split": "test"} | protocol | {"judges": runs[0]["judges"]}
        facts["command"] = shlex.join(["python", "scripts/benchmark.py", *(sys.argv[1:] if argv is None else argv)])
        path = args.out / args.benchmark / f"{args.method}.json"
        write_record(path, facts, runs, args.quick)
        print(f"wrote {path}")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=list(BENCHMARKS))
    parser.add_argument("method", help="name of the method, as vae; or baselines")
    parser.add_argument("runs", nargs="*", type=Path, help="run directories of the method, one for each seed")
    parser.add_argument("--n", type=int, help="another number of faces, for a trial; needs --out")
    parser.add_argument("--quick", action="store_true", help="few faces, and the file says so; needs --out")
    parser.add_argument("--judges", type=Path, default=Path("runs/evaluation"), help="folder of the judges' runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--keep", type=Path, help="keep the exported images in this folder")
    return parser.parse_intermixed_args(argv)  # runs may follow options


def chosen(args: argparse.Namespace) -> Benchmark:
    """The benchmark with the judges' paths and the number of faces of the command line; a quick one has fewer faces."""
    benchmark = BENCHMARKS[args.benchmark]
    benchmark = replace(benchmark, judges=tuple(str(args.judges / name) for name in benchmark.judges))
    if args.quick:
        n = QUICK_SAMPLES if benchmark.metrics is SAMPLES else QUICK_FACES
        benchmark = replace(benchmark, n=n, overrides=benchmark.overrides | QUICK_DATA)
    return replace(benchmark, n=args.n or benchmark.n)


def faces_config(benchmark: Benchmark) -> DataConfig:
    """The data block of the faces."""
    return replace(data_config(ROOT / benchmark.data), **benchmark.overrides)


def measure_edits(benchmark: Benchmark, args: argparse.Namespace, real: Path, folder: Path) -> tuple[dict, list[dict]]:
    """Edits of test faces by the runs, or the baselines: (protocol, one dict per run). real: YAML file of the data."""
    faces = benchmark_faces(faces_config(benchmark), benchmark.n)
    targets = list(benchmark.targets) or class_targets(faces)
    protocol = {"faces": len(faces.names), "targets": targets, "detail": "decode", "strength": 1.0}
    if args.method != "baselines":
        found = []
        for run in args.runs:
            editor, out = DFIEditor(run) if args.method == "dfi" else open_editor(run), folder / run.name
            cannot = export_benchmark(editor, out, faces, targets, *([QUICK_TRUTHS] if args.quick else []))
            origin = {"step": editor.method.origin.step, "sha256": editor.method.origin.sha256, "cannot": cannot}
            able = len(cannot) < len(targets)
            metrics = measure(benchmark, real, out) if able else {"metrics": {}, "judges": judges_of(benchmark)}
            found.append(run_facts(run) | origin | metrics)
        return protocol, found
    sources, labels, found = export_sources(faces, targets, folder / "sources"), labelled(str(real)), []
    for kind in KINDS:
        if kind != "ground-truth" or faces.drawn is not None:
            export_baseline([sources], kind, labels, folder / kind)
            found.append({"run": kind} | measure(benchmark, real, folder / kind))
    return protocol, found


def judges_of(benchmark: Benchmark) -> list[dict]:
    """The judges of a run that has nothing to measure."""
    origins = [classifier.load(run, role="judge").origin for run in benchmark.judges]
    return [{"name": Path(origin.run).name, "run": origin.run, "sha256": origin.sha256} for origin in origins]


def measure_samples(
    benchmark: Benchmark, args: argparse.Namespace, real: Path, folder: Path
) -> tuple[dict, list[dict]]:
    """Faces generated for the attributes of test faces, or the baselines: (protocol, one dict per row and run)."""
    faces = build_faces(faces_config(benchmark))
    names, found = list(faces.meta["attributes"]), []
    requests = attribute_samples.requests_of_test_faces(faces, names, benchmark.n)
    protocol = {"samples": len(requests), "attributes": names}
    if args.method == "baselines":
        for kind in attribute_samples.BASELINES:
            attribute_samples.export_baseline(kind, requests, names, faces, 0, folder / kind)
            found.append({"run": kind} | measure(benchmark, real, folder / kind))
        beside = [{"run": key, "judges": found[0]["judges"]} | found[0][key] for key in REFERENCES]
        return protocol, beside + [without_references(run) for run in found]
    for run in args.runs:
        for row, entry in ENTRIES[args.method].items():
            out = attribute_samples.export_system(run, entry, benchmark.n, 0, folder / f"{row}_{run.name}")
            method = open_editor(run).method
            origin = {"row": row, "step": method.origin.step, "sha256": method.origin.sha256}
            found.append(without_references(run_facts(run) | origin | measure(benchmark, real, out)))
    return protocol, found


def without_references(run: dict) -> dict:
    """The results of a run without those of the real faces and shuffled requests, which are rows of the baselines."""
    return {key: value for key, value in run.items() if key not in REFERENCES}


def measure(benchmark: Benchmark, real: Path, folder: Path) -> dict:
    """Metrics of one export by the judges of the benchmark. Real faces come from a YAML file."""
    result = evaluate([folder], [Path(run) for run in benchmark.judges], str(real))
    metrics = result["metrics"]
    accuracy = next((m for m in metrics if m.key == benchmark.metrics.get("target accuracy")), None)
    detail = accuracy.detail.get("per_target", {}) if accuracy else {}
    found = metric_facts(metrics, benchmark.metrics)
    if NYQUIST in benchmark.metrics:
        energy = next(m for m in metrics if m.key == benchmark.metrics[NYQUIST])
        found["metrics"]["Nyquist energy, worst"] = energy.detail["worst"]
        found["nyquist_per_target"] = energy.detail["per_target"]
    found |= {"per_target": detail, "real": accuracy.references.get("real") if accuracy else None}
    found |= {"chance": accuracy.references.get("chance") if accuracy else None}
    if benchmark.metrics is SAMPLES:
        found |= {key: references(metrics, benchmark.metrics, key) for key in REFERENCES}
    return found | {key: result[key] for key in ("warnings", "alarms", "judges")}


def references(metrics: list[Metric], names: dict[str, str], reference: str) -> dict[str, dict]:
    """The values of a reference of each metric, in the form of a run."""
    known = {m.key: m.references[reference] for m in metrics if reference in m.references}
    return {"metrics": {name: known[key] for name, key in names.items() if key in known}}


if __name__ == "__main__":
    main()
