"""Output paths of the modes, and the JSON file of each image: command, weights, options, content."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from editing.editor import Editor
from editing.subjects import expand_folders
from engine import Grid, UserError, save_grid
from engine.files import atomic_text


def output_path(editor: Editor, args: argparse.Namespace, name: str, suffix: str = ".png") -> Path:
    """--out if it is a file, <--out>/<name> if it is a folder; default: pictures/<name> in the run directory."""
    if args.out is None:
        return editor.run_dir / "pictures" / f"{name}{suffix}"
    if args.out.is_dir() or not args.out.suffix:
        return args.out / f"{name}{suffix}"
    return args.out


def check_outputs(paths: Iterable[Path], inputs: Iterable[str | Path]) -> None:
    """Check that no output path is an input.

    Raises:
        UserError: an output would overwrite an input.
    """
    input_paths = {Path(path).resolve(): path for path in inputs}
    for path in paths:
        if path.resolve() in input_paths:
            raise UserError(f"--out {path}: would overwrite the input photo; give another file or a folder")


def unique_paths(folder: Path, stem: str, names: Iterable[tuple[str, str]]) -> list[Path]:
    """The path <stem>_<stem of the photo><suffix> for each (photo, suffix); equal paths get a number."""
    found: list[Path] = []
    for name, suffix in names:
        base, number = f"{stem}_{Path(name).stem}", 1
        path = folder / f"{base}{suffix}"
        while path in found:
            number += 1
            path = folder / f"{base}_{number}{suffix}"
        found.append(path)
    return found


def write_grid(editor: Editor, args: argparse.Namespace, grid: Grid, name: str, **facts: Any) -> Path:
    """Write a grid and its JSON file; the path of the image."""
    path = output_path(editor, args, name)
    inputs = [*getattr(args, "images", []), getattr(args, "image", None), getattr(args, "like", None)]
    check_outputs([path, path.with_suffix(".webp")], expand_folders([word for word in inputs if word]))
    save_grid(grid, path)
    write_record(editor, args, path, **facts)
    print(f"wrote {path}")
    return path


def write_report(editor: Editor, args: argparse.Namespace, name: str, **facts: Any) -> None:
    """Print the metrics of a run and write them as <name>.json."""
    path = output_path(editor, args, name, ".json")
    write_record(editor, args, path, **facts)
    for key, value in facts.items():
        print(f"{key:26} {round(value, 4) if isinstance(value, float) else value}")
    print(f"wrote {path}")


def write_record(editor: Editor, args: argparse.Namespace, path: Path, **facts: Any) -> None:
    """Write the JSON file of an image: command, run, step, SHA-256 of the weights, options, and `facts`."""
    origin, family = editor.method.origin, type(editor).__module__.partition(".")[0]
    record = {"command": ["python", f"{family}/sample.py", *sys.argv[1:]], "seed": args.seed}
    record |= {"run": origin.run, "step": origin.step, "sha256": origin.sha256} | editor.facts() | facts
    atomic_text(path.with_suffix(".json"), json.dumps(record, indent=1, default=str))
