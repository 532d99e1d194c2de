"""The log of a run against its steps, for the mode `curve` of a family."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from editing.editor import Editor
from editing.record import output_path, write_record
from engine.files import atomic_write
from evaluation.run_log import read_log


def plot_log(
    editor: Editor,
    args: argparse.Namespace,
    panels: dict[str, Sequence[str]],
    xlabel: str,
    decorate: Callable[[Any], None] = lambda axis: None,
) -> Path:
    """Plot a run's log, one panel below the other; write it as `curve`, with its JSON file; the path.

    panels: {title: keys of the log}; a key that ends in / stands for all keys that begin with it. A panel without a key
    in the log is left out. decorate: called with each panel's axis.
    """
    from matplotlib.figure import Figure

    log = read_log(editor.run_dir)
    keys = sorted(log)
    found = {title: [key for key in keys if _belongs(key, parts)] for title, parts in panels.items()}
    found = {title: names for title, names in found.items() if names}
    figure = Figure(figsize=(9, 2.6 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, names) in zip(axes, found.items(), strict=True):
        for key in names:
            points = log[["step", key]].dropna()
            axis.plot(points["step"], points[key], label=key, linewidth=1)
        decorate(axis)
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=7)
    axes[-1].set_xlabel(xlabel)
    path = output_path(editor, args, "curve")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    write_record(editor, args, path)
    print(f"wrote {path}")
    return path


def _belongs(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or (part.endswith("/") and key.startswith(part)) for part in parts)
