"""Compare methods in one report: export the edits of every run, measure them, write a page.

    python scripts/compare.py RUN|EXPORT ... --judge RUN ... [--out report] [--n 256] [--targets happy sad ...]

RUN is a run directory of any family. EXPORT is a folder with a manifest.csv, or a folder of such folders. Each may be
named: "VAE=runs/vae/synthetic32". All runs edit the same test faces (of --data; default: the data of the first judge)
to the same targets, decoded. Baselines are added: no edit, the class-mean difference and, if known, the ground truth.
The report is OUT/index.html and OUT/report.md. An existing export is used again; delete OUT/exports to make new ones.
`--results` shows the tables of a folder of results (scripts/benchmark.py) below the picture.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from benchmarks.tables import cells, quick_note
from editing.benchmark import BenchmarkFaces, benchmark_faces, export_benchmark
from editing.editor import Editor
from editing.export import export_samples
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text
from evaluation.baselines import KINDS, export_baseline, labelled
from evaluation.gallery import Entry
from evaluation.manifest import read_manifest
from evaluation.metric import replace_nan
from evaluation.page import Table, write_report
from evaluation.real import data_config
from evaluation.run import evaluate, predictions_csv
from families import open_editor

DEFAULT_ATTRIBUTES = ("Smiling", "Eyeglasses", "Male", "Young")  # targets of runs whose data have no expressions


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    with exit_on_user_error():
        commands: list[str] = [shlex.join(["python", "scripts/compare.py", *(sys.argv[1:] if argv is None else argv)])]
        methods = [(name, source, folders_of(name, source, args)) for name, source in named(args.what)]
        entries = [measure(name, folders, args, commands, run=source) for name, source, folders in methods]
        entries += baselines(methods, args, commands)
        path = write_report(args.out, entries, commands, *results_of(args.results))
        print(f"wrote {path} and {path.with_name('report.md')}")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", metavar="[NAME=]RUN|EXPORT")
    parser.add_argument("--judge", nargs="+", type=Path, required=True, help="runs of evaluation.train_classifier")
    parser.add_argument("--data", help="run or YAML file of the test faces; default: the first judge")
    parser.add_argument("--real", help="real faces, as in evaluation.run; default: the data of the first judge")
    parser.add_argument("--out", type=Path, default=Path("report"))
    parser.add_argument("--n", type=int, default=256, help="test faces per target")
    parser.add_argument("--samples", type=int, default=0, help="number of samples of each run")
    parser.add_argument("--targets", nargs="*", help="targets; default: every expression, or four attributes flipped")
    parser.add_argument("--results", type=Path, help="folder of results whose tables are shown, as results")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(argv)


def results_of(folder: Path | None) -> tuple[list[Table], str]:
    """The tables of all benchmarks of a folder of results, and the note of quick ones."""
    if folder is None:
        return [], ""
    found = [Table(path.name, *cells(path)) for path in sorted(folder.iterdir()) if list(path.glob("*.json"))]
    return found, quick_note(folder)


def named(texts: list[str]) -> list[tuple[str, Path]]:
    """(name, path) of each text, `NAME=PATH` or `PATH`; equal names of folders get the name of the parent folder."""
    pairs = [(name, Path(path)) if path else ("", Path(name)) for name, _, path in (t.partition("=") for t in texts)]
    short = [path.resolve().name for _, path in pairs]
    return [
        (given or (name if short.count(name) == 1 else f"{path.resolve().parent.name}/{name}"), path)
        for name, (given, path) in zip(short, pairs, strict=True)
    ]


def folders_of(name: str, source: Path, args: argparse.Namespace) -> list[Path]:
    """The exports of a method: the folders with a manifest in `source`, or new exports of a run."""
    if (source / "config.yaml").is_file():
        return export_run(name, source, args)
    found = sorted({path.parent for path in source.rglob("manifest.csv")})
    if not found:
        raise UserError(f"{source}: expected a run directory (with config.yaml) or an export (with manifest.csv)")
    return found


def export_run(name: str, run: Path, args: argparse.Namespace) -> list[Path]:
    """Export the edits of one run and, with --samples, samples. An existing export is used again."""
    out = args.out / "exports" / name.replace("/", "_")
    made = [out / "edits"] + ([out / "samples"] if args.samples else [])
    if not all((folder / "manifest.csv").is_file() for folder in made):
        print(f"exporting {run} into {out}", flush=True)
        editor = open_editor(run, device=args.device)
        targets = targets_of(editor, args)
        cannot = export_benchmark(editor, made[0], shared_faces(args), targets)
        for target, reason in cannot.items():
            print(f"note: {name} cannot do {target}: {reason}")
        if len(cannot) == len(targets):
            raise UserError(f"{run}: can do none of {', '.join(targets)}; leave it out, or give other --targets")
        if args.samples:
            export_samples(editor, made[1], range(args.samples))
    return made


def shared_faces(args: argparse.Namespace) -> BenchmarkFaces:
    """The test faces that every run edits."""
    return benchmark_faces(data_config(args.data or str(args.judge[0])), args.n)


def targets_of(editor: Editor, args: argparse.Namespace) -> list[str]:
    """The targets: --targets, else every expression, else four attributes flipped."""
    if args.targets:
        return args.targets
    if editor.classes:
        return [str(request) for request in editor.targets()]
    known = [name for name in DEFAULT_ATTRIBUTES if name in editor.attributes]
    return [f"{name}=flip" for name in known or editor.attributes[:4]]


def measure(
    name: str, folders: list[Path], args: argparse.Namespace, commands: list[str], run: Path | None, **more: bool
) -> Entry:
    """Measure one method; its metrics and predictions are written into OUT/metrics."""
    out = args.out / "metrics" / f"{name.replace('/', '_').replace(' ', '-')}.json"
    line = ["python", "-m", "evaluation.run", "--fake", *map(str, folders), "--judge", *map(str, args.judge)]
    line += (["--real", args.real] if args.real else []) + ["--out", str(out)]
    print(f"$ {shlex.join(line)}", flush=True)
    commands.append(shlex.join(line))
    result = evaluate(folders, args.judge, args.real, device=args.device)
    kept = {k: v for k, v in result.items() if k != "eval_data"}
    kept |= {"metrics": [f.to_dict() for f in result["metrics"]], "command": shlex.join(line)}
    atomic_text(out, json.dumps(replace_nan(kept), indent=1))
    atomic_text(out.with_name(f"{out.stem}_predictions.csv"), predictions_csv(result["eval_data"]))
    is_run = run is not None and (run / "config.yaml").is_file()
    return Entry(name, result, shlex.join(line), run=str(run) if is_run else "", **more)


def kinds_for(edits: list[Path]) -> list[str]:
    """The baselines; the ground truth only if it is known."""
    known = any(row.truth for folder in edits for row in read_manifest(folder))
    return [kind for kind in KINDS if kind != "ground-truth" or known]


def count_edits(folder: Path) -> int:
    """Number of edits in an export."""
    return (folder / "manifest.csv").read_text(encoding="utf-8").count(",edit,")


def baselines(methods: list, args: argparse.Namespace, commands: list[str]) -> list[Entry]:
    """Export and measure the baselines, for the sources of the method with the most edits (one may lack targets)."""
    counts = [[(folder, count_edits(folder)) for folder in folders] for _, _, folders in methods]
    most = max(counts, key=lambda parts: sum(n for _, n in parts))
    edits = [folder for folder, n in most if n]
    if not edits:
        return []
    real, entries = labelled(args.real or str(args.judge[0])), []
    for kind in kinds_for(edits):
        out = args.out / "exports" / kind
        line = ["python", "-m", "evaluation.baselines", "--like", *map(str, edits), "--kind", kind, "--out", str(out)]
        commands.append(
            shlex.join(line + (["--real", args.real or str(args.judge[0])] if kind == "class-mean-difference" else []))
        )
        export_baseline(edits, kind, real, out)
        name = "class-mean difference" if kind == "class-mean-difference" else kind.replace("-", " ")
        entries.append(measure(name, [out], args, commands, run=None, is_baseline=True))
    return entries


if __name__ == "__main__":
    main()
