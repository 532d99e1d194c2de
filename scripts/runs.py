"""A table of runs.

    python scripts/runs.py [FOLDER ...] [--keys loss,val/psnr]

FOLDER is a run directory or a folder of run directories (default: runs/). The table has one row per run: method and
name, steps done, total steps, steps per second, and the last value of each key.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import yaml

from engine.errors import UserError, exit_on_user_error
from evaluation.run_log import read_log

NUM_SHOWN = 6  # metrics per run without --keys
TIMING = ("steps_per_s", "images_per_s")


def find_runs(folders: list[Path]) -> list[Path]:
    """The run directories in the folders, sorted.

    Raises:
        UserError: there is none.
    """
    found = {p.parent for folder in folders for p in folder.rglob("config.yaml") if (p.parent / "log.jsonl").is_file()}
    if not found:
        raise UserError(f"{', '.join(map(str, folders))}: no run directory here; train.py makes one")
    return sorted(found)


def total_steps(run: Path) -> str:
    """train.total_steps of a run's config; "?" if it cannot be read."""
    try:
        tree = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        return str(tree["train"]["total_steps"])
    except (OSError, ValueError, TypeError, LookupError, RecursionError, yaml.YAMLError) as error:
        print(f"note: {run / 'config.yaml'}: cannot be read ({type(error).__name__})", file=sys.stderr)
        return "?"


def table(runs: list[Path], keys: list[str]) -> str:
    """One row per run, as text."""
    rows = []
    for run in runs:
        last = read_log(run).ffill().tail(1).to_dict("records")
        values = last[0] if last else {}
        shown = keys or [key for key in values if key not in ("step", *TIMING)][-NUM_SHOWN:]
        rows.append(
            {
                "run": f"{run.parent.name}/{run.name}",
                "step": int(values.get("step", 0)),
                "of": total_steps(run),
                "steps/s": f"{values.get('steps_per_s', 0):.1f}",
                "metrics": "  ".join(f"{key} {values[key]:.4g}" for key in shown if key in values),
            }
        )
    return pd.DataFrame(rows).to_string(index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("runs")])
    parser.add_argument("--keys", default="", help="keys of the log, separated by commas")
    args = parser.parse_args()
    with exit_on_user_error():
        print(table(find_runs(args.folders), [key for key in args.keys.split(",") if key]))


if __name__ == "__main__":
    main()
