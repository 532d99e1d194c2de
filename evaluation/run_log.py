"""Read the training log of a run."""

import json
import sys
from pathlib import Path
from typing import Any

from engine import UserError


def read_log(run_dir: Path) -> Any:
    """The numbers of log.jsonl as a `pandas.DataFrame`, one row per logged step, NaN = not logged.

    Damaged lines are reported and left out.

    Raises:
        UserError: the run has no log.
    """
    import pandas as pd

    rows, path = [], run_dir / "log.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: not found; the run has no log yet")
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append({key: value for key, value in row.items() if isinstance(value, (int, float))})
        else:
            print(f"note: {path}: a damaged line is left out", file=sys.stderr)
    return pd.DataFrame(rows, columns=None if rows else ["step"])
