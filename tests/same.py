"""Helpers: compare nested states bit for bit; run functions in child processes.

Child processes are forks of the test process, so they need not import torch again.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from engine import Method, Run, fit
from engine.checkpoint import checkpoints, read_checkpoint
from engine.config import to_yaml
from engine.files import atomic_text


def equal(a: Any, b: Any) -> bool:
    """Whether nested tensors and values are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def start_child(main: Callable[[], Any], output: Path = Path(os.devnull)) -> int:
    """Start `main` in a fork of this process and return its process id. `output`: the file for stdout and stderr."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with open(output, "w", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                main()
                code = 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(code)


def wait_for(pid: int) -> int:
    """Wait for a child process. Returns its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_child(main: Callable[[], Any], output: Path = Path(os.devnull)) -> int:
    """Run `main` in a fork of this process: `start_child`, then `wait_for`."""
    return wait_for(start_child(main, output))


def train_with_stops(
    folder: Path, cfg: Any, stops: Sequence[int], build: Callable[[Run, Any], Method], faces: Any
) -> dict:
    """Train in `folder`, with a stop after each of `stops` and a new start. Returns the last checkpoint.

    build: (run, config) -> the method, which starts with the same weights each time.
    """
    for stop in stops:
        torch.manual_seed(0)
        part = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, stop_at=stop))
        atomic_text(folder / "config.yaml", to_yaml(part))
        run = Run(part, folder, torch.device("cpu"))
        fit(run, build(run, part), faces, faces)
    return read_checkpoint(checkpoints(folder)[-1])


def kill_in_step(method: type, step: int) -> None:
    """Make a method's `step` kill this process at the given step. For child processes."""
    original = method.step

    def killed(self: Any, batch: dict, number: int) -> dict:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch, number)

    method.step = killed


def kill_in_write(name: str, size: int) -> None:
    """Kill this process while it writes the checkpoint `name`, after `size` bytes. For child processes."""
    from engine.checkpoint import _CRC32Writer

    original = _CRC32Writer.write

    def killed(self: Any, data: bytes) -> int:
        if name in self.file.name and self.file.tell() > size:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, data)

    _CRC32Writer.write = killed


def of_one_and_of_two_ranks(steps: Callable[[int, int], Any], folder: Path) -> tuple[Any, Any]:
    """Results of `steps(rank, world_size)` (a module-level function) with one process, and on rank 0 of two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    method = "spawn" if torch.cuda.is_available() else "fork"  # CUDA does not survive a fork
    mp.start_processes(_rank, (2, port, str(folder), steps), nprocs=2, start_method=method)
    _rank(0, 1, port, str(folder), steps)
    one, two = (torch.load(folder / f"{world}.pt", weights_only=True) for world in (1, 2))
    return one, two


def _rank(rank: int, world: int, port: int, folder: str, steps: Callable[[int, int], Any]) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    state = steps(rank, world)
    if rank == 0:
        torch.save(state, f"{folder}/{world}.pt")
    if world > 1:
        dist.destroy_process_group()
