"""Checkpoints of other projects: read them without running their code, and write a run directory from them."""

import json
import pickle
import sys
from pathlib import Path

import torch
from torch import Tensor

from engine import Method, UserError
from engine.checkpoint import save_checkpoint
from engine.config import to_dict, to_yaml
from engine.files import atomic_text


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """A state dict of tensors from a .pt or .ckpt file, without the prefix `module.` of DataParallel.

    No code in the file is run.

    Raises:
        UserError: no such file, or something else than names and tensors.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{path}: expected an intact state dict of tensors ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: expected a state dict (names and tensors); save model.state_dict() only")
    return {key.removeprefix("module."): value for key, value in state.items()}


def write_run(method: Method, run_dir: Path) -> None:
    """config.yaml, meta.json, environment.json and one checkpoint of step 0, as training would leave them.

    Raises:
        UserError: the run directory exists.
    """
    if (run_dir / "config.yaml").exists():
        raise UserError(f"{run_dir}: this run directory already exists; give another --run-dir")
    family = type(method).__module__.partition(".")[0]
    atomic_text(run_dir / "config.yaml", to_yaml(method.cfg))
    atomic_text(run_dir / "meta.json", json.dumps(method.meta, indent=1))
    atomic_text(run_dir / "environment.json", json.dumps([{"family": family, "command": sys.argv}], indent=1))
    state = {"step": 0, "method": method.state_dict(), "optimizers": {}, "pending": [], "best": None}
    state |= {"total_steps": method.cfg.train.total_steps, "meta": method.meta, "config": to_dict(method.cfg)}
    save_checkpoint(run_dir / "checkpoints" / "step_0000000.pt", state)
