"""Write the tables of README.md and docs/results.md from results/<benchmark>/*.json.

    python scripts/results.py [--check]

A table stands between the lines `<!-- table: BENCHMARK -->` and `<!-- end -->`. A cell shows the median of the seeds,
with the range in brackets. `--check` writes nothing and ends with exit code 2 if a table differs.
"""

import argparse
import json
import re
from pathlib import Path

import pandas as pd

from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/results.md")
BASELINES = {
    "no-edit": "no edit",
    "class-mean-difference": "class-mean difference",
    "ground-truth": "ground truth",
}
METHODS = {
    "vae": "VAE",
    "dfi": "DFI",
    "aae_cgan": "AAE + CGAN",
    "flow": "Glow",
    "stargan": "StarGAN",
    "gcgan": "GC-GAN",
    "interface_gan": "InterFaceGAN",
    "a2f": "A2F",
}
COLUMNS = {  # metric: (heading, digits)
    "target accuracy": ("target accuracy ↑", 2),
    "PSNR inside": ("PSNR inside, dB ↑", 2),
    "PSNR outside": ("PSNR outside, dB ↑", 1),
    "PSNR mouth": ("PSNR mouth, dB ↑", 2),
    "PSNR eyes": ("PSNR eyes, dB ↑", 2),
    "gap closed": ("gap closed ↑", 2),
    "identity similarity": ("identity similarity ↑", 3),
    "leakage": ("leakage ↓", 3),
    "face-FID": ("face-FID ↓", 2),
    "sharpness": ("sharpness / source", 2),
    "Nyquist energy": ("Nyquist energy / source", 2),
    "SSIM to source": ("SSIM to source", 3),
    "cpu_minutes": ("CPU-minutes", 0),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 2 if a table differs")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        for path in (ROOT / name for name in DOCUMENTS):
            old = path.read_text(encoding="utf-8")
            new = fill(old)
            if args.check and new != old:
                raise UserError(f"{path}: a table differs from results/; run `python scripts/results.py`")
            if new != old:
                atomic_text(path, new)
                print(f"wrote {path}")


def fill(text: str, results: Path = ROOT / "results") -> str:
    """A document with new tables.

    Raises:
        UserError: a table without results.
    """
    pattern = r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda m: m[1] + table(results / m[2]) + m[3], text, flags=re.DOTALL)


def read_results(folder: Path) -> pd.DataFrame:
    """One row per run: `row` (the method, or a row of its own that the run names; or the baseline) and its metrics."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for run in record["runs"]:
            name = run["run"] if record["method"] == "baselines" else run.get("row", record["method"])
            rows.append({"row": name, "cpu_minutes": run.get("cpu_minutes")} | run["metrics"])
    if not rows:
        raise UserError(f"{folder}: has no results; run `python scripts/benchmark.py {folder.name} METHOD RUN`")
    return pd.DataFrame(rows)


def table(folder: Path) -> str:
    """The results of one benchmark as a Markdown table: baselines first, then methods in the order of METHODS."""
    frame, titles = read_results(folder), BASELINES | METHODS
    columns = [name for name in COLUMNS if name in frame and frame[name].notna().any()]
    names = sorted(frame["row"].unique(), key=lambda name: ([*titles, name].index(name), name))
    lines = ["| | " + " | ".join(COLUMNS[name][0] for name in columns) + " | seeds |"]
    lines.append("| --- |" + " ---: |" * (len(columns) + 1))
    for name in names:
        runs = frame[frame["row"] == name]
        cells = [cell(runs[column].dropna().astype(float), COLUMNS[column][1]) for column in columns]
        cells.append("" if name in BASELINES else str(len(runs)))
        lines.append(f"| {titles.get(name, name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(values: pd.Series, digits: int) -> str:
    """The median; of several values with the range in brackets; a dash for no value."""
    if values.empty:
        return "-"
    median, low, high = (f"{v:.{digits}f}" for v in (values.median(), values.min(), values.max()))
    return median if len(values) == 1 else f"{median} ({low} to {high})"


if __name__ == "__main__":
    main()
