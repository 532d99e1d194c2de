"""`Method`, the base class of all models: one training step, one set of sample grids."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from engine.ranks import average_gradients


@dataclass
class Grid:
    """Images (R, K, C, H, W) in [-1, 1], with optional captions for R rows, K columns and R x K tiles."""

    images: Tensor
    rows: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    tiles: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Origin:
    """The source of loaded weights: run directory, step, sha256 of the checkpoint file."""

    run: str
    step: int
    sha256: str


class Method(nn.Module):
    """The networks and optimizers of one paper, its training step and its sample grids.

    Devices, files and logging intervals belong to `engine.fit`; losses belong to the method.
    """

    needs: tuple[str, ...] = ("image",)  # batch keys that `step` uses; `fit` checks them before the first step
    best: tuple[str, str] | None = None  # (validation metric, "max" or "min"): keep the best checkpoint as best.pt
    compilable: tuple[str, ...] = ()  # names of child modules for `train.compile`; double backward is not supported

    def __init__(self, cfg: Any, meta: dict) -> None:
        super().__init__()
        self.cfg, self.meta = cfg, meta
        self.optimizers: dict[str, Optimizer] = {}
        self.origin: Origin | None = None

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Do one training step. Returns scalar tensors to log; the keys may differ from step to step."""
        raise NotImplementedError(f"{type(self).__name__} has no step(batch, step)")

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        """Make named grids from a fixed batch. `fit` calls it in evaluation mode with a fixed seed."""
        raise NotImplementedError(f"{type(self).__name__} has no sample(batch)")

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute metrics of a batch of validation images, each a mean over the batch. By default there are none."""
        return {}

    def warm_start(self, batch: dict[str, Tensor]) -> None:
        """Initialize from data. `fit` calls it once, before step 0. By default it does nothing."""

    def minimize(self, loss: Tensor, optimizer: str, max_norm: float | None = None) -> Tensor:
        """Backpropagate `loss` to the parameters of `optimizers[optimizer]` only, and update them.

        Args:
            loss: a scalar.
            optimizer: key in `self.optimizers`.
            max_norm: clip the gradient to this 2-norm; None = no clipping.

        Returns:
            The gradient's 2-norm before clipping, a scalar. Gradients are averaged over ranks first.
        """
        opt = self.optimizers[optimizer]
        params = [p for group in opt.param_groups for p in group["params"] if p.requires_grad]
        opt.zero_grad(set_to_none=True)
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward(inputs=params)
        average_gradients(params)
        gradients = [p.grad for p in params if p.grad is not None]  # none is None: average_gradients fills them in
        norm = torch.nn.utils.get_total_norm(gradients)
        if max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(params, max_norm, norm)
        opt.step()
        torch.autograd.graph.increment_version(params)  # fused optimizers do not; caches of weights check the version
        # Without this, a later forward in the same autocast region would use the old bf16 weights.
        torch.clear_autocast_cache()
        return norm


def adam(parameters: Any, lr: float, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0) -> Optimizer:
    """Adam, or AdamW if `weight_decay` is not 0, in the fused implementation."""
    betas = (float(betas[0]), float(betas[1]))  # torch refuses integers, which a YAML file may give
    if weight_decay:
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
    return torch.optim.Adam(parameters, lr=lr, betas=betas, fused=True)
