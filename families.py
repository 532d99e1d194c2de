"""All families: opens a run directory with the editor of its family. No family imports this module."""

import importlib
import json
from pathlib import Path
from typing import Any

from editing.editor import Editor
from engine import UserError

FAMILIES = ("vae", "flow", "aae_cgan")


def family_of(run_dir: str | Path) -> str:
    """The family that trained a run, from `environment.json`.

    Raises:
        UserError: not a run directory, or an unknown family.
    """
    run_dir = Path(run_dir)
    path = run_dir / "environment.json"
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir}: is not a run directory (config.yaml is missing); train.py makes one")
    try:
        launches = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        family = launches[-1].get("family", "") if launches else ""
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise UserError(f"{path}: is not valid JSON; expected the list of launches that train.py writes") from None
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"{path}: 'family' is '{family}', expected one of {known}; train the run again")
    return family


def editor_class(family: str) -> type[Editor]:
    """The editor class of a family. With several systems, its `of(run_dir)` gives the class of a run."""
    return importlib.import_module(f"{family}.editor").Editor


def open_editor(run_dir: str | Path, options: Any = None, **place: Any) -> Editor:
    """Open a trained run of any family. `place`: step, device and data_root of `Editor`."""
    return editor_class(family_of(run_dir)).of(run_dir)(run_dir, options, **place)
