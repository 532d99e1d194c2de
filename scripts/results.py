"""Write the tables of docs/results.md and README.md from results/*/*.json. `--check` only says whether they agree.

    python scripts/results.py [--check]

A table stands between the lines `<!-- table: NAME -->` and `<!-- end -->`. Of several seeds the median is shown, and
the range in brackets.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text

ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    "no-edit": "no edit",
    "class-mean-difference": "class-mean difference",
    "ground-truth": "ground truth",
    "vae": "VAE",
    "aae_cgan": "AAE + CGAN",
    "flow": "Glow",
    "stargan": "StarGAN",
    "gcgan": "GC-GAN",
    "interface_gan": "InterFaceGAN",
    "a2f": "A2F-sketch",
}
COLUMNS = {  # name of the metric: heading and digits
    "target accuracy": ("target accuracy ↑", 2),
    "PSNR inside": ("PSNR inside, dB ↑", 2),
    "PSNR outside": ("PSNR outside, dB ↑", 1),
    "gap closed": ("gap closed ↑", 2),
    "identity similarity": ("identity similarity ↑", 3),
    "leakage": ("leakage ↓", 3),
    "face-FID": ("face-FID ↓", 2),
    "SSIM": ("SSIM to the source", 3),
    "sharpness": ("sharpness, share of the source's", 2),
    "cpu_minutes": ("CPU-minutes", 0),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 2 if a table is not up to date")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        for path in (ROOT / "README.md", ROOT / "docs/results.md"):
            old = path.read_text(encoding="utf-8")
            new = fill(old)
            if args.check and new != old:
                raise UserError(f"{path}: a table differs from results/; run `python scripts/results.py`")
            if new != old:
                atomic_text(path, new)
                print(f"wrote {path}")


def fill(text: str) -> str:
    """A document with its tables made anew."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", lambda m: m[1] + table(m[2]) + m[3], text, flags=re.DOTALL
    )


def table(benchmark: str) -> str:
    """One benchmark as a Markdown table: baselines first, then the methods in the order of TITLES."""
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "results" / benchmark).glob("*.json"))
    ]
    if not records:
        raise UserError(f"results/{benchmark}: holds no results; run scripts/benchmark.py {benchmark}")
    runs = [(record, run) for record in records for run in record["runs"]]
    rows = [
        {
            "row": run["run"] if record["method"] == "baselines" else record["method"],
            "cpu_minutes": run.get("cpu_minutes"),
        }
        | run["metrics"]
        for record, run in runs
    ]
    frame = pd.DataFrame(rows)
    shown = [name for name in COLUMNS if name in frame and frame[name].notna().any()]
    order = [name for name in TITLES if name in set(frame["row"])]
    head = "| | " + " | ".join(COLUMNS[name][0] for name in shown) + " | seeds |\n"
    lines = [head, "| --- |" + " ---: |" * (len(shown) + 1) + "\n"]
    for name in order:
        part = frame[frame["row"] == name]
        cells = [cell(part[column].dropna().to_numpy(float), COLUMNS[column][1]) for column in shown]
        seeds = "" if name in list(TITLES)[:3] else str(len(part))
        lines.append(f"| {TITLES[name]} | " + " | ".join(cells) + f" | {seeds} |\n")
    return "".join(lines)


def cell(values: np.ndarray, digits: int) -> str:
    """Median, and the range of several values in brackets; a dash for none."""
    if not len(values):
        return "-"
    text = f"{np.median(values):.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} ({values.min():.{digits}f} to {values.max():.{digits}f})"


if __name__ == "__main__":
    main()
