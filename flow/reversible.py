"""Backpropagation through a chain of invertible steps, in memory that does not grow with the number of steps.

After "The Reversible Residual Network", https://arxiv.org/abs/1707.04585, extended to log-determinants. The forward
pass keeps only the last output. The backward pass starts there and, step by step, inverts the step, evaluates it again
with a graph and takes its gradient. Each coupling network is evaluated twice in all. A separate inverse would need a
third evaluation.

A step must offer `coupling.shift_scale(a, planes)`, `coupling.transform`, `coupling.inverse_transform`, `linear(x)` ->
(u, log-determinant of one image), `linear_inverse(u)`, and parameters. It must not use randomness or batch statistics.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def run_reversible(
    steps: Sequence[nn.Module], x: Tensor, planes: Tensor | None, anchor_every: int = 0
) -> tuple[Tensor, Tensor]:
    """Apply the steps in order: x (N, C, h, w), planes (N, E, h, w) or None -> y, log-determinant (N,).

    anchor_every: also keep the output of every such step, and restart from it in the backward pass; 0 = never.
    """
    params = [p for step in steps for p in [*_linear_parameters(step), *_network_parameters(step)]]
    return _Reversible.apply(steps, anchor_every, x, planes, *params)


def run_stored(steps: Sequence[nn.Module], x: Tensor, planes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same with plain autograd, which stores every activation."""
    log_det = x.new_zeros(len(x))
    for step in steps:
        x, more = step(x, planes)
        log_det = log_det + more
    return x, log_det


class _Reversible(torch.autograd.Function):
    """Parameters are inputs, so that `torch.autograd.grad` for chosen parameters works."""

    @staticmethod
    def forward(
        ctx: Any, steps: Sequence[nn.Module], anchor_every: int, x: Tensor, planes: Tensor | None, *params: Tensor
    ) -> tuple[Tensor, Tensor]:
        anchors, log_det = [], x.new_zeros(len(x))
        for number, step in enumerate(steps, 1):
            x, more = step(x, planes)
            log_det = log_det + more
            if anchor_every and number % anchor_every == 0 and number < len(steps):
                anchors.append(x)
        ctx.steps, ctx.anchor_every, ctx.autocast = steps, anchor_every, _autocast_state(x)
        ctx.save_for_backward(x, planes, *anchors)
        return x, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_log_det: Tensor) -> tuple:
        y, planes, *anchors = ctx.saved_tensors
        grads: list[Tensor] = []
        grad_planes = None if planes is None else torch.zeros_like(planes)
        # Gradients run in the precision of the graph, as in a plain backward pass. Under autocast, the products of the
        # float32 layers would run in bf16.
        with torch.autocast(y.device.type, enabled=False):
            for number in range(len(ctx.steps), 0, -1):
                if ctx.anchor_every and number % ctx.anchor_every == 0 and number < len(ctx.steps):
                    y = anchors.pop()
                step = ctx.steps[number - 1]
                y, grad_y, more, grad_more = _step_back(step, y, planes, grad_y, grad_log_det, ctx.autocast)
                grads = more + grads
                if grad_planes is not None:
                    grad_planes += grad_more
        return None, None, grad_y, grad_planes, *grads


def _step_back(
    step: nn.Module, y: Tensor, planes: Tensor | None, grad_y: Tensor, grad_log_det: Tensor, autocast: tuple
) -> tuple[Tensor, Tensor, list[Tensor], Tensor | None]:
    """One step backwards: output and gradients -> input, gradients of input, of parameters, of planes."""
    linear, network = _linear_parameters(step), _network_parameters(step)
    a, b_out = y.chunk(2, 1)
    grad_a, grad_b = grad_y.chunk(2, 1)
    # 1. The coupling: one evaluation with a graph on a. Its detached output inverts b.
    with torch.enable_grad():
        a = a.detach().requires_grad_()
        plane_inputs = [] if planes is None else [planes.detach().requires_grad_()]
        # The forward's autocast is needed: else the network's output differs and the inversion drifts.
        with _restored(autocast):
            t, s = step.coupling.shift_scale(a, *plane_inputs or [None])
        b = step.coupling.inverse_transform(b_out, t.detach(), None if s is None else s.detach()).requires_grad_()
        moved, log_det = step.coupling.transform(b, t, s)
    outputs, grads = ([moved], [grad_b]) if s is None else ([moved, log_det], [grad_b, grad_log_det])
    through_a, grad_b, *rest = torch.autograd.grad(outputs, [a, b, *network, *plane_inputs], grads)
    # 2. Actnorm and 1x1, inverted by a linear solve.
    with torch.no_grad():
        u, grad_u = torch.cat([a, b], 1), torch.cat([grad_a + through_a, grad_b], 1)
        x = step.linear_inverse(u)
    with torch.enable_grad():
        x.requires_grad_()
        u, log_det = step.linear(x)
    outputs, grads = ([u, log_det], [grad_u, grad_log_det.sum()]) if log_det.requires_grad else ([u], [grad_u])
    grad_x, *grad_linear = torch.autograd.grad(outputs, [x, *linear], grads)
    grad_network, grad_planes = rest[: len(network)], rest[len(network)] if plane_inputs else None
    return x.detach(), grad_x, [*grad_linear, *grad_network], grad_planes


def _linear_parameters(step: nn.Module) -> list[nn.Parameter]:
    return [p for p in [*step.actnorm.parameters(), *step.conv.parameters()] if p.requires_grad]


def _network_parameters(step: nn.Module) -> list[nn.Parameter]:
    return [p for p in step.coupling.parameters() if p.requires_grad]


def _autocast_state(x: Tensor) -> tuple[str, bool, torch.dtype]:
    kind = x.device.type
    return kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def _restored(state: tuple[str, bool, torch.dtype]) -> contextlib.AbstractContextManager:
    kind, enabled, dtype = state
    return torch.autocast(kind, dtype=dtype, enabled=enabled)
