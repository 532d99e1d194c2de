"""From nothing to edited faces: `make demo` draws faces, trains a small VAE, edits faces, says where the pictures are.

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


def steps(run: str) -> list[tuple[str, str]]:
    """What the demo does: (what the reader is told, command)."""
    sample = f"vae/sample.py {{}} --run-dir {run}"
    return [
        ("Draw faces and train a small VAE on them", f"vae/train.py --config configs/vae/demo.yaml --run-dir {run}"),
        ("Reconstruct test faces, the worst among them", sample.format("recon")),
        ("Average person with and without", sample.format("average") + " --attr Smiling Eyeglasses Male Young"),
        (
            "Average face of each expression",
            f"{sample.format('average')} --attr all --out {run}/pictures/expressions.png",
        ),
        ("Make eight test faces smile", sample.format("edit") + " --attr Smiling=1 --split test --n 8"),
        ("Walk from face to face", sample.format("interpolate") + " test:0 test:9 test:18 test:27"),
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


if __name__ == "__main__":
    main()
