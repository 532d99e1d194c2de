"""All families: opens a run directory with the editor of its family. No family imports this module."""

import importlib
import json
from pathlib import Path
from typing import Any

from editing.editor import Editor
from editing.release import unpacked
from engine import UserError

FAMILIES = ("vae", "interface_gan", "flow", "aae_cgan", "gcgan", "a2f")


def family_of(run_dir: str | Path) -> str:
    """The family that trained a run or a release, from `environment.json`.

    Raises:
        UserError: not a run directory, or an unknown family.
    """
    run_dir = unpacked(run_dir)
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
    """Open a run of any family, or a release (pretrained/NAME). `place`: step, device and data_root of `Editor`."""
    run_dir = unpacked(run_dir)
    return editor_class(family_of(run_dir)).of(run_dir)(run_dir, options, **place)
