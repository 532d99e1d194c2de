"""A demo without downloads (`make demo`): images of released weights, then a training, its edits and a table.

    python scripts/demo.py [--pretrained pretrained] [--out runs/demo]

1. Each released method edits a drawn face.
2. The releases of real faces edit photos of four persons, those of README.
3. One method is trained in about 90 s. At the same time, the released methods are measured. If there is no release, a
   judge is trained before.
4. The edits of the new run are measured. The table shows all methods, no edit and the class-mean difference.

Each command is printed before it runs. A second call trains nothing again.
"""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from benchmarks.jobs import Job, run_jobs
from benchmarks.picture import first_faces, methods_grid
from benchmarks.plan import share_done
from benchmarks.progress import Progress, summary
from benchmarks.record import ROOT
from benchmarks.systems import SYSTEMS
from benchmarks.tables import table
from data import DataConfig
from editing.editor import Editor
from engine import save_grid
from engine.checkpoint import name_of
from engine.errors import exit_on_user_error
from engine.files import atomic_text
from evaluation.real import data_config
from families import open_editor

TRAINED = "demo"  # name of the trained method's row
CONFIG, STEPS = "configs/vae/demo.yaml", 2200
JUDGE, JUDGE_CONFIG, JUDGE_STEPS = "judge", "configs/evaluation/synthetic32.yaml", 700
REAL = {"stargan_london": "happy"}  # releases of real faces, and what they show
FIGURE = ROOT / "docs/figures/london.png"  # Face Research Lab London Set, CC BY 4.0 (docs/photos.md)
LEFT, GAP, TILE = 63, 2, (178, 218)  # px: left edge of the first photo in FIGURE, space between photos, photo
FEW = {"num_train": 14, "num_val": 14, "num_test": 70}  # drawn faces of the first picture; drawing them takes no time


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", type=Path, default=Path("pretrained"), help="folder of released weights")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of runs, pictures and results")
    args = parser.parse_args(argv)
    start = time.monotonic()
    with exit_on_user_error():
        released, judge = released_methods(args.pretrained), released_judge(args.pretrained)
        editors = {title: open_editor(path) for title, path in released.items()}
        if editors:
            print("\n== A drawn face under every released method", flush=True)
            path = picture(editors, judge, args.out / "pictures" / "released.png")
            print(f"wrote {path} after {time.monotonic() - start:.0f} s", flush=True)
            edit_photos(args.pretrained, args.out)
        else:
            print(f"note: {args.pretrained}/ has no released weights: there is no picture before the training")
        jobs = plan_jobs(released, editors, judge, args.out)
        train_and_measure(jobs, args.out)
        judge = judge or args.out / JUDGE
        run = args.out / TRAINED
        path = picture(editors | {"VAE, trained now": open_editor(run)}, judge, args.out / "pictures" / "all.png")
        text = table(args.out / "results" / "demo")
        atomic_text(args.out / "table.md", text)
        print(f"\n{text}\nThe picture: {path}. Done in {time.monotonic() - start:.0f} s.")


def released_methods(folder: Path) -> dict[str, Path]:
    """{title: release or run directory} of the methods that edit drawn faces to an expression."""
    systems = [system for system in SYSTEMS if "drawn32" in system.benchmarks]
    paths = {system.title: folder / system.name for system in systems}
    return {title: path for title, path in paths.items() if is_there(path)}


def released_judge(folder: Path) -> Path | None:
    """The released judge; None if there is none."""
    return folder / JUDGE if is_there(folder / JUDGE) else None


def is_there(path: Path) -> bool:
    """Whether a release or a run directory has this name."""
    return path.with_name(f"{path.name}.safetensors").is_file() or (path / "config.yaml").is_file()


def picture(editors: dict[str, Editor], judge: Path | None, path: Path) -> Path:
    """Write the first test face under every method."""
    few: DataConfig = replace(data_config(ROOT / CONFIG), **FEW)
    return save_grid(methods_grid(editors, first_faces(few, 1), judge), path)


def edit_photos(pretrained: Path, out: Path) -> None:
    """Edit the photos of README with the releases of real faces; scripts/edit.py does it and writes a sheet."""
    photos = cut_photos(out / "photos")
    for name, request in REAL.items():
        if is_there(pretrained / name):
            words = [*map(str, photos), "--run", str(pretrained / name), "--attr", request]
            words += ["--out", str(out / "pictures" / name)]
            print(f"\n== Photos, {request}\n$ {shlex.join(['python', 'scripts/edit.py', *words])}", flush=True)
            if subprocess.run([sys.executable, str(ROOT / "scripts/edit.py"), *words], check=False).returncode:
                print("note: the photos could not be edited; the demo goes on")


def cut_photos(folder: Path) -> list[Path]:
    """The four photos of the first row of FIGURE, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"london{i + 1}.png" for i in range(4)]
    with Image.open(FIGURE) as figure:
        for i, path in enumerate(paths):
            left = LEFT + i * (TILE[0] + GAP)
            figure.crop((left, 0, left + TILE[0], TILE[1])).save(path)
    return paths


def plan_jobs(released: dict[str, Path], editors: dict[str, Editor], judge: Path | None, out: Path) -> list[Job]:
    """The trainings and measurements. Methods whose encoding takes seconds a face are left out of the table."""
    jobs, needs = [], ()
    if judge is None:
        smaller = [f"data.{key}={n}" for key, n in (("num_train", 8000), ("num_val", 500), ("num_test", 500))]
        words = ["-m", "evaluation.train_classifier", "--config", JUDGE_CONFIG, *smaller]
        jobs.append(training("train the judge", words, out / JUDGE, JUDGE_STEPS))
        needs = ("train the judge",)
    judges = judge.parent if judge else out
    jobs.append(training("train the VAE", ["vae/train.py", "--config", CONFIG], out / TRAINED, STEPS))
    jobs.append(measurement("baselines", [], judges, out, needs))
    for title, path in released.items():
        if editors[title].slow_encode:
            print(f"note: {title} is in the picture and not in the table: its codes take seconds a face")
        else:
            jobs.append(measurement(path.name, [str(path)], judges, out, needs))
    jobs.append(measurement(TRAINED, [str(out / TRAINED)], judges, out, (*needs, "train the VAE")))
    return jobs


def training(name: str, words: Sequence[str], run: Path, steps: int) -> Job:
    """A training; it is kept if the run is complete."""
    words = [*words, "--run-dir", str(run), f"train.total_steps={steps}"]
    outputs = (ROOT / run / "checkpoints" / name_of(steps),)
    progress = share_done(ROOT / run / "log.jsonl", steps)
    return Job(name, [sys.executable, *words], outputs=outputs, minutes=1.5, progress=progress)


def measurement(method: str, runs: list[str], judges: Path, out: Path, needs: tuple[str, ...]) -> Job:
    """The measurement of one method or of the baselines."""
    words = ["scripts/benchmark.py", "demo", method, *runs, "--judges", str(judges), "--out", str(out / "results")]
    outputs = (ROOT / out / "results" / "demo" / f"{method}.json",)
    inputs = tuple((ROOT / run).with_suffix(".safetensors") for run in runs)  # a new release is measured again
    return Job(f"measure {method}", [sys.executable, *words], needs, outputs, inputs, minutes=0.3)


def train_and_measure(jobs: list[Job], out: Path) -> None:
    """Run the jobs, two at a time.

    Raises:
        SystemExit: code 1, a job failed; 130, stopped.
    """
    print("\n== Train a method and measure its edits", flush=True)
    print("\n".join(f"$ {shlex.join(['python', *job.command[1:]])}" for job in jobs), flush=True)
    progress = Progress(workers=2)
    try:
        run_jobs(jobs, ROOT / out / "logs", ROOT, 2, progress)
    except KeyboardInterrupt:
        progress.close()
        print("stopped. Run the same command again to continue.")
        raise SystemExit(130) from None
    progress.close()
    if any(not job.succeeded for job in jobs):
        print(summary(jobs))
        raise SystemExit(1)


if __name__ == "__main__":
    main()
