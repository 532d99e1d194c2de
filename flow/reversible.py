"""Backpropagation through a chain of invertible steps in memory that does not grow with its length.

RevNet (1707.04585) with log-determinants: the forward pass keeps the last output only; the backward pass walks from
there, inverting one step, evaluating it once more with a graph, and taking its gradient, until it stands at the input.
A step's coupling network is evaluated twice in all (a third time would be needed if the inverse were computed apart).

What a step must offer: `coupling.shift_scale(a, planes)`, `coupling.move`, `coupling.move_back`, `linear(x)` ->
(u, log-determinant of an image), `linear_inverse(u)`, and parameters. No randomness, no statistics of the batch.
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
    """The steps one after another: x (N, C, h, w), planes (N, E, h, w) or None -> y, log-determinant (N,).

    anchor_every: keep the output of every such step too, and start afresh from it on the way back; 0 = never.
    """
    params = [p for step in steps for p in [*_linear_parameters(step), *_network_parameters(step)]]
    return _Reversible.apply(steps, anchor_every, x, planes, *params)


def run_stored(steps: Sequence[nn.Module], x: Tensor, planes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same with autograd's own memory: every activation of every step."""
    log_det = x.new_zeros(len(x))
    for step in steps:
        x, more = step(x, planes)
        log_det = log_det + more
    return x, log_det


class _Reversible(torch.autograd.Function):
    """Parameters are inputs, so that whoever asks for gradients of chosen parameters gets them."""

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
        # Gradients in the precision of the graph, as in a plain backward pass: under autocast even the products of
        # the float32 layers would be taken in bf16.
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
    """One step: its output and their gradients -> its input, the gradients of input, parameters, planes."""
    linear, network = _linear_parameters(step), _network_parameters(step)
    a, b_out = y.chunk(2, 1)
    grad_a, grad_b = grad_y.chunk(2, 1)
    # 1. The coupling: one evaluation with a graph on a; its detached answer gives b back.
    with torch.enable_grad():
        a = a.detach().requires_grad_()
        told = [] if planes is None else [planes.detach().requires_grad_()]
        # Without the forward's autocast the network would answer otherwise than it did, and the walk would drift.
        with _restored(autocast):
            t, s = step.coupling.shift_scale(a, *told or [None])
        b = step.coupling.move_back(b_out, t.detach(), None if s is None else s.detach()).requires_grad_()
        moved, log_det = step.coupling.move(b, t, s)
    outputs, grads = ([moved], [grad_b]) if s is None else ([moved, log_det], [grad_b, grad_log_det])
    through_a, grad_b, *rest = torch.autograd.grad(outputs, [a, b, *network, *told], grads)
    # 2. Actnorm and 1x1, whose inverse is solved.
    with torch.no_grad():
        u, grad_u = torch.cat([a, b], 1), torch.cat([grad_a + through_a, grad_b], 1)
        x = step.linear_inverse(u)
    with torch.enable_grad():
        x.requires_grad_()
        u, log_det = step.linear(x)
    outputs, grads = ([u, log_det], [grad_u, grad_log_det.sum()]) if log_det.requires_grad else ([u], [grad_u])
    grad_x, *grad_linear = torch.autograd.grad(outputs, [x, *linear], grads)
    grad_network, grad_planes = rest[: len(network)], rest[len(network)] if told else None
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
