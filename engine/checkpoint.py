"""Checkpoints: written whole or not at all, checked by a CRC32, loaded without running code."""

import dataclasses
import io
import pickle
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from engine.errors import UserError
from engine.files import atomic_write

FOOTER = struct.Struct("<4sI")  # last 8 bytes of a file: MAGIC and the CRC32 of all bytes before; torch.load skips them
MAGIC = b"crc\x01"


class _CRC32Writer(io.RawIOBase):
    """A file that updates a CRC32 with everything written to it."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.file, self.crc, self.error = file, 0, None

    def write(self, data: Any) -> int:
        self.crc = zlib.crc32(data, self.crc)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def writable(self) -> bool:
        return True


def to_plain(value: Any, name: str = "state") -> Any:
    """Reduce nested values to tensors, numbers, strings, lists, tuples and dicts, which `weights_only=True` can load.

    Raises:
        TypeError: there is a value of another type. The message names its place, as in `state.method.x[2]`.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach()
        # torch.save writes the whole storage of a view; a clone has only its own values.
        return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {to_plain(k, name): to_plain(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_plain(v, f"{name}[{i}]") for i, v in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{name}: a checkpoint cannot hold a {type(value).__name__}; expected a tensor or a plain value")


def save_checkpoint(path: Path, state: dict) -> None:
    """Write `state` and its checksum to `path`, whole or not at all."""
    plain = to_plain(state)
    with atomic_write(path) as file:
        writer = _CRC32Writer(file)
        try:
            torch.save(plain, writer)  # pyright: ignore[reportArgumentType] - it needs `write` only
        except RuntimeError as error:  # torch hides the error of the disk behind its own
            raise writer.error or error from None
        file.write(FOOTER.pack(MAGIC, writer.crc))


def intact(path: Path) -> bool:
    """Whether the checksum in the last 8 bytes matches the rest of the file."""
    size = path.stat().st_size - FOOTER.size
    if size <= 0:
        return False
    crc = 0
    with open(path, "rb") as file:
        while size:
            block = file.read(min(1 << 20, size))
            crc, size = zlib.crc32(block, crc), size - len(block)
        return FOOTER.unpack(file.read(FOOTER.size)) == (MAGIC, crc)


def read_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict:
    """Read a checkpoint without running any code that it may contain.

    Raises:
        UserError: the file is missing or damaged, or it holds more than tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; expected a file that training wrote")
    if not intact(path):
        raise UserError(f"{path}: is damaged (wrong checksum) or was not written by this project. Use another --step.")
    state = _load(path, device)
    if not isinstance(state, dict) or "method" not in state or "step" not in state:
        raise UserError(f"{path}: is not a checkpoint of this project; expected the keys 'method' and 'step' in it")
    return state


def _load(path: Path, device: str | torch.device = "cpu") -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{path}: is damaged, or holds more than weights and plain values ({reason}). Use a file of this project."
        ) from None


def save_fields(record: Any, path: Path) -> None:
    """Write the fields of a dataclass (tensors and plain values), whole or not at all. `load_fields` reads them."""
    with atomic_write(path) as file:
        torch.save({f.name: getattr(record, f.name) for f in dataclasses.fields(record)}, file)


def load_fields(kind: type, path: Path) -> Any:
    """Read a dataclass of the class `kind`, on the CPU. Raises UserError if the file is damaged."""
    return kind(**_load(path))


def step_of(path: Path) -> int:
    """Number of completed steps, read from the name of a numbered checkpoint."""
    return int(path.stem.removeprefix("step_"))


def checkpoints(run_dir: Path) -> list[Path]:
    """The numbered checkpoints of a run, oldest first. Files with other names are ignored."""
    found = (
        path for path in (run_dir / "checkpoints").glob("step_*.pt") if re.fullmatch(r"step_[0-9]+\.pt", path.name)
    )
    return sorted((path for path in found if path.name == name_of(step_of(path)) and path.is_file()), key=step_of)


def name_of(step: int) -> str:
    """The file name of a numbered checkpoint."""
    return f"step_{step:07d}.pt"


def latest_checkpoint(run_dir: Path, log: Any = print) -> Path | None:
    """The newest checkpoint with a correct checksum. A damaged one is renamed to `*.damaged` and reported to `log`."""
    for path in reversed(checkpoints(run_dir)):
        if intact(path):
            return path
        renamed = path.with_name(path.name + ".damaged")
        path.rename(renamed)
        log(f"{path} is damaged. It was renamed to {renamed.name}; the checkpoint before it is used.")
    return None


def find_checkpoint(run_dir: Path, step: int | None = None) -> Path:
    """The checkpoint of `step`; by default `best.pt` if the run has one, else the newest.

    Raises:
        UserError: there is no run, or no such step. The message names the steps that exist.
    """
    if not (run_dir / "config.yaml").is_file():
        raise UserError(
            f"{run_dir}: is not a run directory (it has no config.yaml); expected a folder that train.py made"
        )
    if step is None:
        best = run_dir / "checkpoints" / "best.pt"
        found = best if best.is_file() and intact(best) else latest_checkpoint(run_dir)
        if found is None:
            raise UserError(f"{run_dir}: has no checkpoint yet. Train at least train.save_every steps.")
        return found
    path = run_dir / "checkpoints" / name_of(step)
    if not path.is_file():
        steps = ", ".join(str(step_of(p)) for p in checkpoints(run_dir)) or "none"
        raise UserError(f"{run_dir}: has no checkpoint of step {step}. The run has these steps: {steps}.")
    return path


def drop_old(run_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` numbered checkpoints."""
    for path in checkpoints(run_dir)[:-keep]:
        path.unlink()


def load_weights(module: torch.nn.Module, state: dict, source: str | Path) -> None:
    """`load_state_dict` that raises a `UserError` when names or shapes differ."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n", 1)[-1].split())[:300]
        raise UserError(
            f"{source}: the weights do not fit this method and config ({reason}). Use the config.yaml of that run."
        ) from None


def init_from(module: torch.nn.Module, sources: list[str]) -> list[str]:
    """Copy weights of other runs into `module`.

    Args:
        module: the module that gets the weights.
        sources: each is RUN or RUN:prefix,prefix. A later source overwrites an earlier one.

    Returns:
        One line per source and prefix with the number of tensors copied.

    Raises:
        UserError: there is no such run, no tensor with that prefix, or a tensor has another shape.
    """
    own, lines = module.state_dict(), []
    for source in sources:
        run, _, prefixes = source.partition(":")
        path = find_checkpoint(Path(run))
        theirs = read_checkpoint(path)["method"]
        for prefix in prefixes.split(",") if prefixes else [""]:
            taken = [k for k in theirs if k.startswith(prefix) and k in own]
            if not taken:
                raise UserError(
                    f"train.init_from: {path} has no tensor with the prefix '{prefix}' that this method has too; "
                    f"expected one of {', '.join(sorted({k.partition('.')[0] for k in theirs}))}"
                )
            wrong = next((k for k in taken if theirs[k].shape != own[k].shape), None)
            if wrong:
                raise UserError(
                    f"train.init_from: {path}: {wrong} has the shape {tuple(theirs[wrong].shape)}; expected "
                    f"{tuple(own[wrong].shape)}. Use the same model options, or name other prefixes."
                )
            own |= {k: theirs[k] for k in taken}
            lines.append(f"{len(taken)} tensors from {path}" + (f" with the prefix {prefix}" if prefix else ""))
    module.load_state_dict(own)
    return lines
