"""Float32 regions, frozen networks, seeds."""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def fp32() -> Iterator[None]:
    """Full float32 inside: autocast and TF32 are off. Exact inverses and gradient penalties need it."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # pyright: ignore
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether `train.precision` means bf16 for networks on this device.

    `auto`: on a GPU only. `hardware`: where the processor multiplies bf16. On a CPU that needs AMX or AVX512-BF16;
    without them bf16 is slower than fp32.
    """
    if precision == "hardware" and device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    known = {"fp32": False, "bf16": True, "auto": device.type == "cuda"}
    return known[precision] if precision in known else torch.cuda.is_bf16_supported(including_emulation=False)


@contextlib.contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Parameters of `networks` get no gradients inside. Gradients still flow through the networks to their inputs."""
    parameters = [p for net in networks for p in net.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def seed_of(seed: int, rank: int, step: int) -> int:
    """Seed of one training step: (hash(seed, rank) + step) mod 2^32. The CPU generator uses 32 bits only."""
    base = int.from_bytes(hashlib.blake2b(f"{seed}/{rank}".encode(), digest_size=4).digest(), "little")
    return (base + step) % 2**32


def seed_everything(value: int, device: torch.device) -> None:
    """Seed torch's default generators of the CPU and of `device`. A hundred times faster than `torch.manual_seed`."""
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(value)
