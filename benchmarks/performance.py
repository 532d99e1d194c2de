"""The record of `scripts/bench.py` (results/performance.json) and its table."""

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from engine.errors import UserError
from engine.files import atomic_text

ROOT = Path(__file__).resolve().parent.parent


def facts(device: str, turns: int) -> dict[str, Any]:
    """Where and when a group was measured."""
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": torch.cuda.get_device_name() if device.startswith("cuda") else processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "date": time.strftime("%Y-%m-%d"),
        "commit": head.stdout.strip(),
        "turns": turns,
    }


def processor() -> str:
    """Name of the processor, number of cores, and the widest instructions that torch uses."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def save(path: Path, group: str, rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
    """Write the rows of a group into the record, and keep its other groups."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    atomic_text(path, json.dumps(record | {group: where | {"rows": rows}}, indent=1) + "\n")


def line(group: str, row: dict[str, Any]) -> str:
    """A row of the table."""
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return f"| {group} | {row['name']} | {row['ms']:.1f} | {ratio} |"


def table(path: Path) -> str:
    """The record as rows of text: milliseconds, and the ratio to the textbook loop of the group.

    Raises:
        UserError: there is no record.
    """
    if not path.is_file():
        raise UserError(f"{path}: has no results; run `python scripts/bench.py --out {path}`")
    record = json.loads(path.read_text(encoding="utf-8"))
    lines = ["| group | | ms | ratio |", "| --- | --- | ---: | ---: |"]
    for group, found in record.items():
        lines += [line(group, row) for row in found["rows"]]
    places: dict[str, list[str]] = {}
    for group, found in record.items():
        threads = f"{found['threads']} thread" + "s" * (found["threads"] > 1)
        key = f"{found['machine']}, {threads}, torch {found['torch']}, {found['date']}, commit {found['commit'][:9]}"
        places.setdefault(f"{key}, {found['turns']} turns", []).append(group)
    notes = [f"{', '.join(groups)}: {place}." for place, groups in places.items()]
    return "\n".join([*lines, "", *notes]) + "\n"
