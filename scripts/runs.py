"""A table of runs, and their curves as a plot.

    python scripts/runs.py [FOLDER ...] [--plot curves.png] [--keys loss,val/psnr]

FOLDER is a run directory or a folder of them (default: runs/). The table has one line a run: method, name, steps done,
steps/s, and the last figure of each key.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

from engine.errors import UserError, exit_on_user_error

NUM_SHOWN = 6  # figures a line where --keys names none


def find_runs(folders: list[Path]) -> list[Path]:
    """Run directories among and below the folders."""
    found = {p.parent for folder in folders for p in folder.rglob("config.yaml") if (p.parent / "log.jsonl").is_file()}
    if not found:
        raise UserError(f"no run under {', '.join(map(str, folders))}; train.py makes one")
    return sorted(found)


def read_log(run: Path) -> list[dict]:
    """The rows of a run's log; lines cut short by a crash or a full disk are left out, and said."""
    rows, path = [], run / "log.jsonl"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append({key: value for key, value in row.items() if isinstance(value, (int, float))})
        else:
            print(f"note: {path}: a damaged line is left out", file=sys.stderr)
    return rows


def total_steps(run: Path) -> str:
    """train.total_steps of a run's config, "?" if that cannot be read."""
    try:
        tree = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        return str(tree["train"]["total_steps"])
    except (OSError, ValueError, TypeError, LookupError, RecursionError, yaml.YAMLError) as error:
        print(f"note: {run / 'config.yaml'} cannot be read ({type(error).__name__})", file=sys.stderr)
        return "?"


def last_figures(rows: list[dict]) -> dict[str, float]:
    """The last value of every key."""
    figures: dict[str, float] = {}
    for row in rows:
        figures |= row
    return figures


def table(runs: list[Path], keys: list[str]) -> str:
    """One aligned line a run."""
    lines = [["run", "step", "of", "steps/s", "figures"]]
    for run in runs:
        rows, total = read_log(run), total_steps(run)
        figures = last_figures(rows)
        names = keys or [k for k in figures if k not in ("step", "steps_per_s", "images_per_s")][-NUM_SHOWN:]
        text = "  ".join(f"{k} {figures[k]:.4g}" for k in names if k in figures)
        speed = f"{figures.get('steps_per_s', 0):.1f}"
        lines.append([f"{run.parent.name}/{run.name}", str(figures.get("step", 0)), total, speed, text])
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, [*widths, 0], strict=True)) for line in lines)


def plot(runs: list[Path], keys: list[str], path: Path) -> None:
    """One panel a key, one curve a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    logs = {f"{run.parent.name}/{run.name}": read_log(run) for run in runs}
    keys = keys or sorted({k for rows in logs.values() for row in rows for k in row} - {"step", "images_per_s"})
    if not keys:
        raise UserError("--plot: the logs of these runs are empty yet; let them train up to train.log_every")
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat[len(keys) :]:
        axis.remove()
    for key, axis in zip(keys, axes.flat, strict=False):
        for name, log in logs.items():
            points = [(row["step"], row[key]) for row in log if key in row]
            if points:
                axis.plot(*zip(*points, strict=True), label=name, linewidth=1)
        axis.set_title(key)
        axis.set_xlabel("step")
    axes.flat[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("runs")])
    parser.add_argument("--plot", type=Path, help="write the curves there (.png, .svg, .pdf)")
    parser.add_argument("--keys", default="", help="comma-separated names of the log")
    args = parser.parse_args()
    with exit_on_user_error():
        keys = [k for k in args.keys.split(",") if k]
        runs = find_runs(args.folders)
        print(table(runs, keys))
        if args.plot:
            plot(runs, keys, args.plot)


if __name__ == "__main__":
    main()
