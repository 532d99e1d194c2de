"""The tables of results: results/<benchmark>/*.json as rows of text."""

import json
from pathlib import Path

import pandas as pd

from benchmarks.systems import SYSTEMS
from engine.errors import UserError

BASELINES = {
    "real": "real test faces",
    "no-edit": "no edit",
    "class-mean-difference": "class-mean difference",
    "ground-truth": "ground truth",
    "shuffled": "shuffled requests",
    "retrieval": "a training face of the request",
    "mean-request": "mean training face of the request",
}
METHODS = {system.name: system.title for system in SYSTEMS}
METHODS |= {"demo": "VAE, trained now", "dfi": "DFI", "a2f_noise": "A2F-noise", "a2f_sketch": "A2F-sketch"}
COLUMNS = {  # metric: (heading, digits)
    "target accuracy": ("target accuracy ↑", 2),
    "attribute accuracy": ("attribute accuracy ↑", 3),
    "exact match": ("exact match ↑", 3),
    "SSIM within a request": ("SSIM within a request", 3),
    "distance within a request": ("distance within a request / real", 2),
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
    "Nyquist energy, worst": ("the same, worst target", 2),
    "SSIM to source": ("SSIM to source", 3),
    "nearest training face": ("nearest training face / real", 2),
    "cpu_minutes": ("CPU-minutes", 0),
}
FAILED = "failed.json"  # {method: reason} of the last `make benchmark`


def all_tables(results: Path) -> str:
    """The tables of all benchmarks of a folder, each below its name.

    Raises:
        UserError: a folder without results.
    """
    folders = sorted(path for path in results.iterdir() if path.is_dir()) if results.is_dir() else []
    if not folders:
        raise UserError(f"{results}: has no results; run `make benchmark`")
    note = quick_note(results)
    parts = [f"**{note}**\n"] if note else []
    return "\n".join([*parts, *(f"## {folder.name}\n\n{table(folder)}" for folder in folders)])


def quick_note(results: Path) -> str:
    """The note of quick results; "" if all are whole."""
    notes = [json.loads(path.read_text(encoding="utf-8")).get("quick", "") for path in results.glob("*/*.json")]
    return next((note for note in notes if isinstance(note, str) and note), "")


def read_results(folder: Path) -> pd.DataFrame:
    """One row per run: its metrics, `row` (the method, a row that the run names, or the baseline), and `remark`: what
    it cannot do, or why it failed."""
    failed = read_failures(folder)
    rows = [{"row": name, "remark": f"failed: {reason}"} for name, reason in failed.items()]
    for path in sorted(folder.glob("*.json")):
        if path.name == FAILED or path.stem in failed:
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        for run in record["runs"]:
            name = run["run"] if record["method"] == "baselines" else run.get("row", record["method"])
            cannot = ", ".join(run.get("cannot", {}))
            remark = (f"without {cannot}" if run["metrics"] else "can do none of the targets") if cannot else ""
            rows.append({"row": name, "remark": remark, "cpu_minutes": run.get("cpu_minutes")} | run["metrics"])
    if not rows:
        raise UserError(f"{folder}: has no results; run `python scripts/benchmark.py {folder.name} METHOD RUN`")
    return pd.DataFrame(rows)


def read_failures(folder: Path) -> dict[str, str]:
    """{method: reason} of the methods that failed in the last `make benchmark`."""
    path = folder / FAILED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def cells(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Headings, and one list of texts per row: baselines first, then methods in the order of METHODS."""
    frame, titles, failed = read_results(folder), BASELINES | METHODS, read_failures(folder)
    columns = [name for name in COLUMNS if name in frame and frame[name].notna().any()]
    names = sorted(frame["row"].unique(), key=lambda name: ([*titles, name].index(name), name))
    rows = []
    for name in names:
        runs = frame[frame["row"] == name]
        remarks = [remark for remark in runs["remark"].unique() if remark]
        title = titles.get(name, name) + (f" ({'; '.join(remarks)})" if remarks else "")
        texts = [cell(runs[column].dropna().astype(float), COLUMNS[column][1]) for column in columns]
        counted = name not in BASELINES and name not in failed
        rows.append([title, *texts, str(len(runs)) if counted else ""])
    return ["", *(COLUMNS[name][0] for name in columns), "seeds"], rows


def table(folder: Path) -> str:
    """The results of one benchmark as a Markdown table."""
    headings, rows = cells(folder)
    lines = ["| " + " | ".join(headings).lstrip() + " |", "| --- |" + " ---: |" * (len(headings) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def cell(values: pd.Series, digits: int) -> str:
    """The median; of several values with the range in brackets; a dash for no value."""
    if values.empty:
        return "-"
    median, low, high = (f"{v:.{digits}f}" for v in (values.median(), values.min(), values.max()))
    return median if len(values) == 1 else f"{median} ({low} to {high})"
