"""Compare methods on one page: export from every run, judge, render.

    python scripts/compare.py RUN|EXPORT … --judge RUN … [--out report] [--n 256] [--targets happy sad …]

RUN is a run directory of any family; EXPORT is a folder with a manifest.csv, or a folder of such folders, made by
anybody. All runs edit the same test faces (of --data, by default the first judge's data set), asked for the same
targets, decoded (`--detail decode`). Baselines are added: no edit, the class-mean difference, and the ground truth
where it is known. The page is OUT/index.html, OUT/report.md beside it. Exports that exist are taken as they are: delete
OUT/exports to make them anew.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from data.request import Request
from editing.benchmark import BenchmarkFaces, benchmark_faces, export_benchmark
from editing.editor import Editor
from editing.export import export_samples
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text
from evaluation.baselines import KINDS, export_baseline, labelled
from evaluation.gallery import Entry
from evaluation.manifest import read_manifest
from evaluation.metric import plain
from evaluation.page import write_report
from evaluation.real import data_config
from evaluation.run import evaluate, predictions_csv
from families import open_editor

DEFAULT_ATTRIBUTES = ("Smiling", "Eyeglasses", "Male", "Young")  # asked of runs whose data have no expressions


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    with exit_on_user_error():
        commands: list[str] = [shlex.join(["python", "scripts/compare.py", *(sys.argv[1:] if argv is None else argv)])]
        methods = [(name, source, folders_of(name, source, args, commands)) for name, source in named(args.what)]
        entries = [judged(name, folders, args, commands, run=source) for name, source, folders in methods]
        entries += baselines(methods, args, commands)
        path = write_report(args.out, entries, commands)
        print(f"wrote {path} and {path.with_name('report.md')}")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", type=Path, metavar="RUN|EXPORT")
    parser.add_argument("--judge", nargs="+", type=Path, required=True, help="runs of evaluation.train_classifier")
    parser.add_argument("--data", help="a run or YAML file whose test faces all runs edit; default: the first judge's")
    parser.add_argument("--real", help="real faces, as evaluation.run takes them; default: the first judge's data")
    parser.add_argument("--out", type=Path, default=Path("report"))
    parser.add_argument("--n", type=int, default=256, help="test faces that every run edits, for each target")
    parser.add_argument("--samples", type=int, default=0, help="samples of each run; 0: none")
    parser.add_argument("--targets", nargs="*", help="requests; default: every expression, or four attributes flipped")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(argv)


def named(paths: list[Path]) -> list[tuple[str, Path]]:
    """A short name for each, with its parent's where two are alike."""
    short = [path.resolve().name for path in paths]
    return [
        (name if short.count(name) == 1 else f"{path.resolve().parent.name}/{name}", path)
        for name, path in zip(short, paths, strict=True)
    ]


def folders_of(name: str, source: Path, args: argparse.Namespace, commands: list[str]) -> list[Path]:
    """Folders with a manifest: those that lie there, or a run's export, made now."""
    if (source / "config.yaml").is_file():
        return export_run(name, source, args, commands)
    found = sorted({path.parent for path in source.rglob("manifest.csv")})
    if not found:
        raise UserError(f"{source}: is neither a run (no config.yaml) nor an export (no manifest.csv in it or below)")
    return found


def export_run(name: str, run: Path, args: argparse.Namespace, commands: list[str]) -> list[Path]:
    """Edits of the shared faces (and samples, if asked for) by one run. An export that exists is taken as it is."""
    out = args.out / "exports" / name.replace("/", "_")
    made = [out / "edits"] + ([out / "samples"] if args.samples else [])
    if not all((folder / "manifest.csv").is_file() for folder in made):
        print(f"exporting {run} into {out}", flush=True)
        editor = open_editor(run, device=args.device)
        export_benchmark(editor, made[0], shared_faces(args), targets_of(editor, args))
        if args.samples:
            export_samples(editor, made[1], range(args.samples))
    return made


def shared_faces(args: argparse.Namespace) -> BenchmarkFaces:
    """The faces that every run edits: of --data, or of the first judge's data."""
    return benchmark_faces(data_config(args.data or str(args.judge[0])), args.n)


def targets_of(editor: Editor, args: argparse.Namespace) -> list[Request]:
    """Requests: those asked for, else every expression, else four attributes flipped."""
    if args.targets:
        return [editor.parse(target) for target in args.targets]
    if editor.classes:
        return editor.targets()
    known = [name for name in DEFAULT_ATTRIBUTES if name in editor.attributes]
    return [editor.parse(f"{name}=flip") for name in known or editor.attributes[:4]]


def judged(
    name: str, folders: list[Path], args: argparse.Namespace, commands: list[str], run: Path | None, **more: bool
) -> Entry:
    """Judge one method; its figures and predictions are kept in OUT/metrics."""
    out = args.out / "metrics" / f"{name.replace('/', '_').replace(' ', '-')}.json"
    line = ["python", "-m", "evaluation.run", "--fake", *map(str, folders), "--judge", *map(str, args.judge)]
    line += (["--real", args.real] if args.real else []) + ["--out", str(out)]
    print(f"$ {shlex.join(line)}", flush=True)
    commands.append(shlex.join(line))
    result = evaluate(folders, args.judge, args.real, device=args.device)
    kept = {k: v for k, v in result.items() if k != "case"}
    kept |= {"figures": [f.plain() for f in result["figures"]], "command": shlex.join(line)}
    atomic_text(out, json.dumps(plain(kept), indent=1))
    atomic_text(out.with_name(f"{out.stem}_predictions.csv"), predictions_csv(result["case"]))
    is_run = run is not None and (run / "config.yaml").is_file()
    return Entry(name, result, shlex.join(line), run=str(run) if is_run else "", **more)


def kinds_for(edits: list[Path]) -> list[str]:
    """The baselines that these exports allow: the ground truth where it is known."""
    known = any(row.truth for folder in edits for row in read_manifest(folder))
    return [kind for kind in KINDS if kind != "ground-truth" or known]


def baselines(methods: list, args: argparse.Namespace, commands: list[str]) -> list[Entry]:
    """No edit, class-mean difference and ground truth, for the edits of the first method that has some."""
    for _, _, folders in methods:
        edits = [folder for folder in folders if ",edit," in (folder / "manifest.csv").read_text(encoding="utf-8")]
        if edits:
            break
    else:
        return []
    real, entries = labelled(args.real or str(args.judge[0])), []
    for kind in kinds_for(edits):
        out = args.out / "exports" / kind
        line = ["python", "-m", "evaluation.baselines", "--like", *map(str, edits), "--kind", kind, "--out", str(out)]
        commands.append(
            shlex.join(line + (["--real", args.real or str(args.judge[0])] if kind == "class-mean-difference" else []))
        )
        export_baseline(edits, kind, real, out)
        entries.append(judged(kind.replace("-", " "), [out], args, commands, run=None, is_baseline=True))
    return entries


if __name__ == "__main__":
    main()
