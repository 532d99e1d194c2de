"""The seam: a paper is a `Method`; its verbs are `step` and `sample`."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from engine.ranks import average_gradients


@dataclass
class Grid:
    """A picture of a run: images (R, K, C, H, W) in [-1, 1], captions of rows, columns and R x K tiles (or none)."""

    images: Tensor
    rows: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    tiles: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Origin:
    """Where loaded weights come from: run directory, step, sha256 of the checkpoint file."""

    run: str
    step: int
    sha256: str


class Method(nn.Module):
    """One paper: its networks, its optimisers, one training step, one sample grid.

    It knows nothing of devices, files or cadence; `engine.fit` knows nothing of losses.
    """

    needs: tuple[str, ...] = ("image",)  # batch keys; `fit` names the missing ones before step 0
    best: tuple[str, str] | None = None  # ("psnr", "max"): the validation figure whose best checkpoint is kept
    compilable: tuple[str, ...] = ()  # children that `train.compile` may compile: none that takes a double backward

    def __init__(self, cfg: Any, meta: dict) -> None:
        super().__init__()
        self.cfg, self.meta = cfg, meta
        self.optimizers: dict[str, Optimizer] = {}
        self.origin: Origin | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.parameters()).device

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Update once. Returns scalars to log, on the device; keys may come and go."""
        raise TypeError(f"{type(self).__name__} has no step(batch, step)")

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        """Named pictures of a fixed batch, in evaluation mode, under a fixed seed."""
        raise TypeError(f"{type(self).__name__} has no sample(batch)")

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Figures of a batch of validation images, each a mean over its images; none by default."""
        return {}

    def warm_start(self, batch: dict[str, Tensor]) -> None:
        """Data-dependent initialisation, once, before step 0; nothing by default."""

    def minimize(self, loss: Tensor, optimizer: str, max_norm: float | None = None) -> Tensor:
        """One step of `optimizers[optimizer]` down the gradient of `loss` by that optimiser's parameters only.

        The gradient is averaged over ranks, and clipped to the 2-norm `max_norm` where one is given.
        Returns the norm before clipping. Every other network's gradient stays untouched.
        """
        stepper = self.optimizers[optimizer]
        params = [p for group in stepper.param_groups for p in group["params"] if p.requires_grad]
        stepper.zero_grad(set_to_none=True)
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward(inputs=params)
        average_gradients(params)
        gradients = [p.grad for p in params]
        norm = torch.nn.utils.get_total_norm(gradients)
        if max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(params, max_norm, norm)
        stepper.step()
        torch.autograd.graph.increment_version(params)  # a fused step does not, and what is kept of weights grows stale
        # Without this, every later forward inside the same autocast region would see the old bf16 weights.
        torch.clear_autocast_cache()
        return norm


def adam(parameters: Any, lr: float, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0) -> Optimizer:
    """Adam in its fused form (AdamW's decoupled decay where `weight_decay` is not 0)."""
    betas = (float(betas[0]), float(betas[1]))  # an int from a YAML file raises inside torch
    if weight_decay:
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
    return torch.optim.Adam(parameters, lr=lr, betas=betas, fused=True)
