"""The file of results of one method: protocol, command, commit, hardware, and the metrics of every run."""

import json
import platform
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from engine.errors import UserError
from engine.files import atomic_text
from evaluation.metric import Metric, replace_nan

ROOT = Path(__file__).resolve().parent.parent
QUICK_NOTE = "quick figures: cut trainings, few faces; they say nothing of a method and belong in no table"


def write_record(path: Path, facts: dict[str, Any], runs: list[dict], quick: bool = False) -> None:
    """Write results/<benchmark>/<method>.json. facts: benchmark, method, protocol, command."""
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    record = facts | ({"quick": QUICK_NOTE} if quick else {})
    record |= {
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "runs": [{key: value for key, value in run.items() if key != "judges"} for run in runs],
    }
    atomic_text(path, json.dumps(replace_nan(record), indent=1) + "\n")


def metric_facts(metrics: list[Metric], names: dict[str, str]) -> dict[str, dict]:
    """`metrics` and `n` (images or pairs) of a run. names: {name in the results: key of evaluation/}."""
    found = {metric.key: metric for metric in metrics}
    kept = {name: found[key] for name, key in names.items() if key in found}
    return {"metrics": {name: m.value for name, m in kept.items()}, "n": {name: m.n for name, m in kept.items()}}


def last_launch(run: Path) -> dict[str, Any]:
    """The last launch of a run: family, command, commit, seed, CPU time.

    Raises:
        UserError: not a run directory.
    """
    path = run / "environment.json"
    if not path.is_file():
        raise UserError(f"{run}: is not a run directory ({path.name} is missing); train.py makes one")
    return json.loads(path.read_text(encoding="utf-8"))[-1]


def run_facts(run: Path) -> dict[str, Any]:
    """Seed, command, commit and CPU time of a training; of a chain the CPU time of all its runs.

    Raises:
        UserError: not a run directory.
    """
    launch = last_launch(run)
    seconds = [cpu_seconds(each) for each in chain_of(run)]
    return {
        "run": str(run),
        "seed": launch.get("seed"),
        "train_command": shlex.join(["python", *launch["command"]]),
        "train_commit": launch.get("commit"),
        "cpu_minutes": round(sum(s for s in seconds if s) / 60, 1) if all(seconds) else None,
    }


def cpu_seconds(run: Path) -> float | None:
    """CPU time of all launches of a run; None if the last one was killed."""
    path = run / "environment.json"
    return json.loads(path.read_text(encoding="utf-8"))[-1].get("cpu_seconds") if path.is_file() else None


def chain_of(run: Path) -> list[Path]:
    """The run and the runs that it was built on (`upstream.run`), the last one first."""
    found, config = [run], run / "config.yaml"
    tree = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    before = ((tree or {}).get("upstream") or {}).get("run")
    return found + (chain_of(Path(before)) if before else [])


def processor() -> str:
    """The name of the GPU or CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
