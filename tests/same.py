"""Helpers: compare nested states bit for bit; run a function on one and on two ranks."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def equal(a: Any, b: Any) -> bool:
    """Whether nested tensors and values are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def of_one_and_of_two_ranks(steps: Callable[[int, int], dict], folder: Path) -> tuple[dict, dict]:
    """Results of `steps(rank, world_size)` (a module-level function) with one process, and on rank 0 of two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, (2, port, str(folder), steps), nprocs=2)
    _rank(0, 1, port, str(folder), steps)
    one, two = (torch.load(folder / f"{world}.pt", weights_only=True) for world in (1, 2))
    return one, two


def _rank(rank: int, world: int, port: int, folder: str, steps: Callable[[int, int], dict]) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    state = steps(rank, world)
    if rank == 0:
        torch.save(state, f"{folder}/{world}.pt")
    if world > 1:
        dist.destroy_process_group()
