"""All families: which editor opens a run directory. Scripts and pages import it; no family does."""

import importlib
import json
from pathlib import Path
from typing import Any

from editing.editor import Editor
from engine import UserError

FAMILIES = ("vae", "flow", "aae_cgan")


def family_of(run_dir: str | Path) -> str:
    """The family that trained a run, as `environment.json` says.

    Raises:
        UserError: no run directory, or a family that is not known here.
    """
    run_dir = Path(run_dir)
    path = run_dir / "environment.json"
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir}: is not a run directory (no config.yaml in it); train.py makes one")
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
    """The editor of a family (of a family with several systems: the one whose `of(run_dir)` chooses)."""
    return importlib.import_module(f"{family}.editor").Editor


def open_editor(run_dir: str | Path, options: Any = None, **place: Any) -> Editor:
    """Open a trained run of any family. `place`: step, device, data_root, as `Editor` takes them."""
    return editor_class(family_of(run_dir)).of(run_dir)(run_dir, options, **place)
