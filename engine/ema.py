"""A moving average of a network's weights, kept as a child of the method so that it is in its state."""

import copy
from typing import Any

import torch
from torch import nn


class EMA(nn.Module):
    """`ema.module` is a copy of `module` in evaluation mode whose weights follow it; call it like the network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> "EMA":
        """Stay in evaluation mode whatever the parent does."""
        return super().train(False)

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """ema <- decay ema + (1 - decay) module, for floats; integer buffers are copied."""
        mine, theirs = self.module.state_dict(), module.state_dict()
        floats = [k for k, v in mine.items() if v.is_floating_point()]
        torch._foreach_lerp_([mine[k] for k in floats], [theirs[k] for k in floats], 1 - decay)
        for key in mine.keys() - set(floats):
            mine[key].copy_(theirs[key])

    def reset(self, module: nn.Module) -> None:
        """ema <- module; after a warm start, when the first weights were no guess worth averaging."""
        self.module.load_state_dict(module.state_dict())
