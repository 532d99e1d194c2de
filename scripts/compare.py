"""Compare methods on one page: export from every run, judge, render.

    python scripts/compare.py RUN|EXPORT … --judge RUN … [--out report] [--n 256] [--targets happy sad …]

RUN is a run directory (its family's `sample.py export` is called); EXPORT is a folder with a manifest.csv, or a folder
of such folders, made by anybody. Two baselines join by themselves. The page is OUT/index.html, OUT/report.md beside it.
Exports that exist are taken as they are: delete OUT/exports to make them anew.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text
from evaluation.baselines import KINDS, export_baseline, labelled
from evaluation.figure import plain
from evaluation.gallery import Entry
from evaluation.page import training_command, write_report
from evaluation.run import evaluate, predictions_csv

ROOT = Path(__file__).resolve().parent.parent
USUAL_ATTRIBUTES = ("Smiling", "Eyeglasses", "Male", "Young")  # asked of runs whose data have no expressions


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
    parser.add_argument("--real", help="real faces, as evaluation.run takes them; default: the first judge's data")
    parser.add_argument("--out", type=Path, default=Path("report"))
    parser.add_argument("--n", type=int, default=256, help="test faces that are edited, per target")
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
    """Folders with a manifest: those that lie there, or a run's exports, made now."""
    if (source / "config.yaml").is_file():
        return export_run(name, source, args, commands)
    found = sorted({path.parent for path in source.rglob("manifest.csv")})
    if not found:
        raise UserError(f"{source}: is neither a run (no config.yaml) nor an export (no manifest.csv in it or below)")
    return found


def export_run(name: str, run: Path, args: argparse.Namespace, commands: list[str]) -> list[Path]:
    """Let the run's family export reconstructions and one folder of edits per target (and samples, if asked for).

    What a family cannot do is said and left out; a run that can export nothing is an error.
    """
    script = ROOT / family_of(run) / "sample.py"
    asked = {"reconstruction": ["--what", "reconstruction", "--n", str(args.n), "--split", "test"]}
    for target in targets_of(run, args):
        folder = target.replace("=", "_")
        asked[folder] = ["--what", "edit", "--attr", target, "--n", str(args.n), "--split", "test"]
    if args.samples:
        asked["sample"] = ["--what", "sample", "--n", str(args.samples)]
    made = []
    for folder, options in asked.items():
        out = args.out / "exports" / name.replace("/", "_") / folder
        line = [str(script.relative_to(ROOT)), "export", "--run-dir", str(run), *options, "--out", str(out)]
        if not (out / "manifest.csv").is_file():
            print(f"$ python {shlex.join(line)}", flush=True)
            done = subprocess.run([sys.executable, str(script), *line[1:]], check=False)
            if done.returncode:
                print(f"{name}: {folder} could not be exported and is left out", flush=True)
                continue
        commands.append(f"python {shlex.join(line)}")
        made.append(out)
    if not made:
        raise UserError(f"{run}: nothing could be exported; see what its sample.py said above")
    return made


def family_of(run: Path) -> str:
    """The folder of the method that trained a run: from the command that started it, else from the run's place."""
    command = training_command(run).split()
    for family in (Path(command[1]).resolve().parent.name if len(command) > 1 else "", run.resolve().parent.name):
        if (ROOT / family / "sample.py").is_file() and family:
            return family
    raise UserError(f"{run}: no family with a sample.py is known for it; give an export instead")


def targets_of(run: Path, args: argparse.Namespace) -> list[str]:
    """Requests: those asked for, else every expression of the run's data, else four attributes."""
    if args.targets:
        return args.targets
    meta = json.loads((run / "meta.json").read_text())
    known = [name for name in USUAL_ATTRIBUTES if name in meta.get("attributes", [])]
    return list(meta.get("classes") or []) or [f"{name}=flip" for name in known or meta.get("attributes", [])[:4]]


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


def baselines(methods: list, args: argparse.Namespace, commands: list[str]) -> list[Entry]:
    """Identity map and class-mean difference on the sources of the first method that edits."""
    for _, _, folders in methods:
        edits = [folder for folder in folders if ",edit," in (folder / "manifest.csv").read_text()]
        if edits:
            break
    else:
        return []
    real, entries = labelled(args.real or str(args.judge[0])), []
    for kind in KINDS:
        out = args.out / "exports" / kind
        line = ["python", "-m", "evaluation.baselines", "--like", *map(str, edits), "--kind", kind, "--out", str(out)]
        commands.append(shlex.join(line + (["--real", args.real or str(args.judge[0])] if kind != "identity" else [])))
        export_baseline(edits, kind, real, out)
        entries.append(judged(kind.replace("-", " "), [out], args, commands, run=None, is_baseline=True))
    return entries


if __name__ == "__main__":
    main()
