"""Checkpoints that survive crashes, full disks, flipped bits and strangers."""

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

TAIL = struct.Struct("<4sI")  # the file's last 8 bytes: a mark and the CRC32 of all before; torch.load reads past them
MARK = b"crc\x01"


class _Summing(io.RawIOBase):
    """A file that keeps the CRC32 of what is written to it."""

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
    """Tensors, numbers, strings, lists and dicts only, so that `weights_only=True` reads it back.

    Raises:
        TypeError: something else, named by its place.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach()
        # A view would save its whole storage.
        return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {to_plain(k, name): to_plain(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_plain(v, f"{name}[{i}]") for i, v in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{name}: {type(value).__name__} cannot be kept in a checkpoint")


def save_checkpoint(path: Path, state: dict) -> None:
    """Write `state` under `path`, whole or not at all, with its checksum."""
    plain = to_plain(state)
    with atomic_write(path) as file:
        summing = _Summing(file)
        try:
            torch.save(plain, summing)
        except RuntimeError as error:  # torch's own, in place of the disk's
            raise summing.error or error from None
        file.write(TAIL.pack(MARK, summing.crc))


def intact(path: Path) -> bool:
    """Whether the checksum in the last 8 bytes fits the rest of the file."""
    size = path.stat().st_size - TAIL.size
    if size <= 0:
        return False
    crc = 0
    with open(path, "rb") as file:
        while size:
            block = file.read(min(1 << 20, size))
            crc, size = zlib.crc32(block, crc), size - len(block)
        return TAIL.unpack(file.read(TAIL.size)) == (MARK, crc)


def read_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict:
    """Read a checkpoint; no code in it is ever run.

    Raises:
        UserError: the file is damaged, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    if not intact(path):
        raise UserError(
            f"{path}: is damaged (its checksum does not fit) or was not written by this project; use another --step"
        )
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: holds more than weights and plain values and was not loaded ({reason})") from None
    if not isinstance(state, dict) or "method" not in state or "step" not in state:
        raise UserError(f"{path}: is not a checkpoint of this project (no 'method' and 'step' in it)")
    return state


def step_of(path: Path) -> int:
    """Steps completed, read from the name."""
    return int(re.search(r"step_(\d+)\.pt$", path.name).group(1))


def checkpoints(run_dir: Path) -> list[Path]:
    """The numbered checkpoints of a run, oldest first; copies under other names are nobody's business here."""
    found = (
        path for path in (run_dir / "checkpoints").glob("step_*.pt") if re.fullmatch(r"step_[0-9]+\.pt", path.name)
    )
    return sorted((path for path in found if path.name == name_of(step_of(path)) and path.is_file()), key=step_of)


def name_of(step: int) -> str:
    """The file name of a numbered checkpoint."""
    return f"step_{step:07d}.pt"


def latest_checkpoint(run_dir: Path, log: Any = print) -> Path | None:
    """The newest checkpoint that passes its checksum. Damaged ones are named and set aside as `*.damaged`."""
    for path in reversed(checkpoints(run_dir)):
        if intact(path):
            return path
        aside = path.with_name(path.name + ".damaged")
        path.rename(aside)
        log(f"{path} is damaged; it was set aside as {aside.name}, and the one before it is used")
    return None


def find_checkpoint(run_dir: Path, step: int | None = None) -> Path:
    """The checkpoint of `step`, else the best one where the run keeps one, else the newest.

    Raises:
        UserError: no run there, or no such step; names the steps that exist.
    """
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir}: is not a run directory (no config.yaml in it); train.py makes one")
    if step is None:
        best = run_dir / "checkpoints" / "best.pt"
        found = best if best.is_file() and intact(best) else latest_checkpoint(run_dir)
        if found is None:
            raise UserError(f"{run_dir}: has no checkpoint yet; let it train up to its first save (train.save_every)")
        return found
    path = run_dir / "checkpoints" / name_of(step)
    if not path.is_file():
        steps = ", ".join(str(step_of(p)) for p in checkpoints(run_dir)) or "none"
        raise UserError(f"{run_dir}: has no checkpoint of step {step}; there are: {steps}")
    return path


def drop_old(run_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` numbered checkpoints."""
    for path in checkpoints(run_dir)[:-keep]:
        path.unlink()


def load_weights(module: torch.nn.Module, state: dict, source: str | Path) -> None:
    """`load_state_dict` whose disagreement is one sentence."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n", 1)[-1].split())[:300]
        raise UserError(
            f"{source}: does not fit this method and config ({reason}); use the run's own config.yaml"
        ) from None


def init_from(module: torch.nn.Module, sources: list[str]) -> list[str]:
    """Copy weights of other runs into `module`: each source is RUN or RUN:prefix,prefix; later ones win.

    Returns one line per source saying how many tensors were taken.

    Raises:
        UserError: no such run, nothing under a prefix, or another shape.
    """
    own, lines = module.state_dict(), []
    for source in sources:
        run, _, prefixes = source.partition(":")
        path = find_checkpoint(Path(run))
        theirs = read_checkpoint(path)["method"]
        for prefix in prefixes.split(",") if prefixes else [""]:
            taken = [k for k in theirs if k.startswith(prefix) and k in own]
            if not taken:
                raise UserError(f"train.init_from: {path} has nothing under '{prefix}' that this method knows")
            wrong = next((k for k in taken if theirs[k].shape != own[k].shape), None)
            if wrong:
                shapes = f"{tuple(theirs[wrong].shape)} there, {tuple(own[wrong].shape)} here"
                raise UserError(
                    f"train.init_from: {path}: {wrong} has another shape ({shapes}); name prefixes that fit"
                )
            own |= {k: theirs[k] for k in taken}
            lines.append(f"{len(taken)} tensors from {path}" + (f" under {prefix}" if prefix else ""))
    module.load_state_dict(own)
    return lines
