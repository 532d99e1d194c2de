"""A demo without downloads: draw faces, train a small VAE, edit faces, measure the edits (`make demo`).

    python scripts/demo.py [--run-dir runs/vae/demo]

It prints every command before it runs it. A second call does not train again and only makes the images.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


JUDGE = "runs/evaluation/synthetic32"


def steps(run: str) -> list[tuple[str, str]]:
    """The steps of the demo: (title, command without `python`)."""
    sample, average = f"vae/sample.py {{}} --run-dir {run}", f"vae/sample.py average --run-dir {run}"
    judge = f"-m evaluation.train_classifier --config configs/evaluation/synthetic32.yaml --run-dir {JUDGE}"
    compare = f"scripts/compare.py {run} --judge {JUDGE} --out {run}/report"
    return [
        ("Draw faces and train a small VAE on them", f"vae/train.py --config configs/vae/demo.yaml --run-dir {run}"),
        ("Reconstruct test faces, the worst among them", sample.format("recon")),
        ("Average faces with and without an attribute", f"{average} --attr Smiling Eyeglasses Male Young"),
        ("The average face of each expression", f"{average} --attr all --out {run}/pictures/expressions.png"),
        ("Flip the smile of eight test faces", sample.format("edit") + " --attr Smiling=flip --split test --n 8"),
        ("Interpolate between faces", sample.format("interpolate") + " test:0 test:9 test:18 test:27"),
        ("Train a judge: a classifier that measures edits", judge),
        ("Measure the edits and compare them with baselines", f"{compare} --n 64 --targets happy surprise"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", default="runs/vae/demo", help="run directory, also for the images")
    args = parser.parse_args()
    start = time.perf_counter()
    for title, command in steps(args.run_dir):
        print(f"\n== {title}\n$ python {command}", flush=True)
        done = subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
    folder = ROOT / args.run_dir
    last_grids = sorted((folder / "samples").glob("*.png"))[-3:]
    print(f"\nDone in {time.perf_counter() - start:.0f} s. Images:")
    for path in [*last_grids, *sorted((folder / "pictures").rglob("*.png"))]:
        print(f"  {path.relative_to(ROOT)}")
    print(f"Report: {args.run_dir}/report/index.html (and report.md)")


if __name__ == "__main__":
    main()
