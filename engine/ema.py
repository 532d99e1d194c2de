"""Exponential moving average of a network's weights. It is a module, so that checkpoints include it."""

import copy
from typing import Any

import torch
from torch import nn


def ramped_decay(decay: float, updates: int) -> float:
    """min(decay, (1 + t) / (10 + t)) after t updates: the average changes fast at first."""
    return min(decay, (1 + updates) / (10 + updates))


class EMA(nn.Module):
    """Holds the averaged copy of `module` in evaluation mode as `ema.module`. Call it like the network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> "EMA":
        """Stay in evaluation mode when the parent module switches to training mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """ema <- decay ema + (1 - decay) module for parameters and float buffers. Integer buffers are copied."""
        # Not `state_dict`, which takes as long as the update.
        average, current = ([*net.parameters(), *net.buffers()] for net in (self.module, module))
        floats = [pair for pair in zip(average, current, strict=True) if pair[0].is_floating_point()]
        torch._foreach_lerp_(*map(list, zip(*floats, strict=True)), 1 - decay)  # pyright: ignore
        for old, new in (pair for pair in zip(average, current, strict=True) if not pair[0].is_floating_point()):
            old.copy_(new)

    def reset(self, module: nn.Module) -> None:
        """ema <- module. Used after a warm start, which replaces the random initial weights."""
        self.module.load_state_dict(module.state_dict())
