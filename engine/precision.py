"""Where numbers need care: full precision regions, frozen networks, seeds."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def fp32() -> Iterator[None]:
    """True float32 inside: autocast off, and no TF32 in convolutions and products (exact inverses, penalties)."""
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        for kind, value in zip(kinds, before, strict=True):
            kind.fp32_precision = value


@contextlib.contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Inside, the parameters of `networks` need no gradient; activations still do. Saves memory, changes no value."""
    held = [p for net in networks for p in net.parameters() if p.requires_grad]
    for p in held:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in held:
            p.requires_grad_(True)


def seed_of(seed: int, rank: int, step: int) -> int:
    """32-bit seed of one step: hash(seed, rank) + step. The CPU generator ignores higher bits."""
    base = int.from_bytes(hashlib.blake2b(f"{seed}/{rank}".encode(), digest_size=4).digest(), "little")
    return (base + step) % 2**32


def seed_everything(value: int, device: torch.device) -> None:
    """Seed the generators that networks draw from. (`torch.manual_seed` does the same a hundred times slower.)"""
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(value)
