"""Several processes as one run: `torchrun` starts them, averages of gradients keep them equal. One process: no cost."""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

_control = None  # a gloo group for flags, so that no decision waits for the GPU


def start_ranks(device: str) -> tuple[int, int, torch.device]:
    """Join the group that `torchrun` announced. Returns rank, world size, device of this process."""
    global _control
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
        _control = dist.new_group(backend="gloo")
    return (dist.get_rank(), world, chosen) if world > 1 else (0, 1, chosen)


def stop_ranks() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean of equally shaped tensors of all ranks, without gradient: statistics over the whole batch."""
    value = value.detach()
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= world_size()
    return value


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks, in one flat all-reduce; a missing one counts as zero."""
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    if world_size() == 1:
        return
    flat = torch.cat([p.grad.float().flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= world_size()
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(part.view(p.shape))


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite the tensors with rank 0's."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.data, 0)


def any_rank(flag: int) -> int:
    """The largest flag of all ranks: what one of them was told (a signal), all of them know."""
    if world_size() == 1:
        return flag
    value = torch.tensor(flag)
    dist.all_reduce(value, dist.ReduceOp.MAX, group=_control)
    return int(value)


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier(group=_control)
