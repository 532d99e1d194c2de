"""Data-parallel training with `torchrun`: averages over ranks, broadcasts, barriers. No effect with one process."""

import os
from collections.abc import Iterable
from typing import cast

import torch
import torch.distributed as dist
from torch import nn

_cpu_group: dist.ProcessGroup | None = None  # gloo: flags and barriers do not wait for the GPU


def start_ranks(device: str) -> tuple[int, int, torch.device]:
    """Join the process group that `torchrun` describes. Returns rank, world size and device of this process."""
    global _cpu_group
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{local}"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        _cpu_group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
    return (dist.get_rank(), world, chosen) if world > 1 else (0, 1, chosen)


def stop_ranks() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean over ranks of a tensor (same shape on all ranks), without gradient."""
    value = value.detach()
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= world_size()
    return value


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks, in one all-reduce. A missing gradient counts as zero."""
    gradients = []
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        gradients.append(p.grad)
    if world_size() == 1:
        return
    flat = torch.cat([g.float().flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for g, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        g.copy_(part.view(g.shape))


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite the tensors in place with those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.data, 0)


def any_rank(flag: int) -> int:
    """The largest flag of all ranks. A signal that one rank received reaches all ranks this way."""
    if world_size() == 1:
        return flag
    value = torch.tensor(flag)
    dist.all_reduce(value, dist.ReduceOp.MAX, group=_cpu_group)
    return int(value)


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier(group=_cpu_group)
