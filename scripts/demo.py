"""From nothing to edited faces: `make demo` draws faces, trains a small VAE, edits faces, judges the edits.

    python scripts/demo.py [--run-dir runs/vae/demo]

Every line it runs is printed; each can be repeated by hand. A second call resumes, so it only makes the pictures again.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


EXPRESSIONS = "runs/evaluation/synthetic32"


def steps(run: str) -> list[tuple[str, str]]:
    """What the demo does: (what the reader is told, command)."""
    sample, average = f"vae/sample.py {{}} --run-dir {run}", f"vae/sample.py average --run-dir {run}"
    judge = f"-m evaluation.train_classifier --config configs/evaluation/synthetic32.yaml --run-dir {EXPRESSIONS}"
    compare = f"scripts/compare.py {run} --judge {EXPRESSIONS} --out {run}/report"
    return [
        ("Draw faces and train a small VAE on them", f"vae/train.py --config configs/vae/demo.yaml --run-dir {run}"),
        ("Reconstruct test faces, the worst among them", sample.format("recon")),
        ("The average person with and without", f"{average} --attr Smiling Eyeglasses Male Young"),
        ("The average face of each expression", f"{average} --attr all --out {run}/pictures/expressions.png"),
        ("Flip the smile of eight test faces", sample.format("edit") + " --attr Smiling=flip --split test --n 8"),
        ("Walk from face to face", sample.format("interpolate") + " test:0 test:9 test:18 test:27"),
        ("Train a judge of expressions, apart from the VAE", judge),
        ("Judge edits, beside no edit and a naive one", f"{compare} --n 64 --targets happy surprise"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", default="runs/vae/demo", help="where the run and its pictures go")
    args = parser.parse_args()
    begun = time.perf_counter()
    for title, command in steps(args.run_dir):
        print(f"\n== {title}\n$ python {command}", flush=True)
        done = subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
    folder = ROOT / args.run_dir
    last_grids = sorted((folder / "samples").glob("*.png"))[-3:]
    print(f"\nDone in {time.perf_counter() - begun:.0f} s. Look at:")
    for path in [*last_grids, *sorted((folder / "pictures").rglob("*.png"))]:
        print(f"  {path.relative_to(ROOT)}")
    print(f"The judged table, with pictures: {args.run_dir}/report/index.html (or report.md beside it)")


if __name__ == "__main__":
    main()
