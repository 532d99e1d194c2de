"""Backpropagation through a chain of invertible steps, in memory that does not grow with the number of steps.

After "The Reversible Residual Network", https://arxiv.org/abs/1707.04585, extended to log-determinants. The forward
pass keeps only the last output. The backward pass starts there and, step by step, inverts the step, evaluates its
network again with a graph and takes its gradient. Each coupling network is evaluated twice in all. A separate inverse
would need a third evaluation. Only the network has a graph: the gradients of the affine part and of the product over
channels are written out.

The weights are composed once for the whole chain (`flow.composed`), in the forward pass and again in the backward pass,
so that no composed weights are kept between the two. A step must not use randomness or batch statistics.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engine import fp32
from flow.bijectors import network_precision
from flow.composed import Composed, StepWeights, compose, inverse_mixing, mix


def run_reversible(
    steps: Sequence[nn.Module], x: Tensor, planes: Tensor | None, anchor_every: int = 0
) -> tuple[Tensor, Tensor]:
    """Apply the steps in order: x (N, C, h, w), planes (N, E, h, w) or None -> y, log-determinant (N,).

    anchor_every: also keep the output of every such step, and restart from it in the backward pass; 0 = never.
    """
    params = [p for step in steps for p in step.parameters() if p.requires_grad]
    return _Reversible.apply(steps, anchor_every, x, planes, *params)


def run_stored(
    steps: Sequence[nn.Module], x: Tensor, planes: Tensor | None, composed: Composed
) -> tuple[Tensor, Tensor]:
    """The same with plain autograd, which stores every activation."""
    log_dets = []
    for step, weights in zip(steps, composed.steps, strict=True):
        x, log_det = step.apply_weights(x, planes, weights, composed.taps)
        log_dets += [] if log_det is None else [log_det]
    total = composed.log_det
    return x, total + torch.stack(log_dets).sum(0) if log_dets else total.expand(len(x))


class _Reversible(torch.autograd.Function):
    """Parameters are inputs, so that `torch.autograd.grad` for chosen parameters works."""

    @staticmethod
    def forward(
        ctx: Any, steps: Sequence[nn.Module], anchor_every: int, x: Tensor, planes: Tensor | None, *params: Tensor
    ) -> tuple[Tensor, Tensor]:
        with fp32():
            composed = compose(steps, *x.shape[2:])
        anchors, log_det = [], composed.log_det.expand(len(x)).clone()
        for number, (step, weights) in enumerate(zip(steps, composed.steps, strict=True), 1):
            x, more = step.apply_weights(x, planes, weights, composed.taps)
            if more is not None:
                log_det += more
            if anchor_every and number % anchor_every == 0 and number < len(steps):
                anchors.append(x)
        ctx.steps, ctx.params, ctx.anchor_every, ctx.autocast = steps, params, anchor_every, _autocast_state(x)
        ctx.save_for_backward(x, planes, *anchors)
        return x, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_log_det: Tensor) -> tuple:
        y, planes, *anchors = ctx.saved_tensors
        steps = ctx.steps
        with fp32():
            inverses = inverse_mixing([step.actnorm for step in steps], [step.conv for step in steps]).to(y.dtype)
            with torch.enable_grad():
                composed = compose(steps, *y.shape[2:])
        shared = _Shared(planes, composed.taps, grad_log_det, ctx.autocast)
        outputs, grads, grad_planes = [composed.log_det], [grad_log_det.sum()], None
        for number in range(len(steps), 0, -1):
            if ctx.anchor_every and number % ctx.anchor_every == 0 and number < len(steps):
                y = anchors.pop()
            step, weights = steps[number - 1], composed.steps[number - 1]
            y, grad_y, more, grad_weights = _step_back(step, weights, inverses[number - 1], y, grad_y, shared)
            grad_planes = more if grad_planes is None else grad_planes.add_(more)
            outputs += weights.tensors()
            grads += grad_weights
        with fp32():
            grad_params = _gradients(outputs, ctx.params, grads)
        return None, None, grad_y, grad_planes, *grad_params


class _Shared(NamedTuple):
    """What all steps of a backward pass share."""

    planes: Tensor | None
    taps: Tensor
    grad_log_det: Tensor
    autocast: tuple[str, bool, torch.dtype]  # of the forward pass


def _step_back(
    step: nn.Module, weights: StepWeights, inverse: Tensor, y: Tensor, grad_y: Tensor, shared: _Shared
) -> tuple[Tensor, Tensor, Tensor | None, list[Tensor | None]]:
    """One step backwards: output and its gradient -> input, gradients of input, of planes, of `weights.tensors()`."""
    a, b = y.chunk(2, 1)
    grad_a, grad_b = grad_y.chunk(2, 1)
    # 1. The network: one evaluation with a graph.
    with torch.enable_grad():
        a = a.detach().requires_grad_()
        planes = None if shared.planes is None else shared.planes.detach().requires_grad_()
        # The forward's autocast is needed: else the network's output differs and the inversion drifts.
        with _restored(shared.autocast), network_precision(y):
            t, s = step.coupling.shift_scale(a, planes, weights.network, shared.taps)
    # 2. The coupling y = (b + t) e^s: b, and db = e^s dy, dt = db, ds = y dy + d log-determinant.
    if s is None:
        b, outputs, grads = b - t.detach(), [t], [grad_b]
    else:
        scale = s.detach().exp()
        grad_s = torch.addcmul(shared.grad_log_det[:, None, None, None], grad_b, b)
        b, grad_b = b / scale - t.detach(), grad_b * scale
        outputs, grads = [t, s], [grad_b, grad_s]
    inputs = [a, *([] if planes is None else [planes]), *weights.network]
    through_a, *more = _gradients(outputs, inputs, grads)
    grad_planes = None if planes is None else more.pop(0)
    # 3. The product u = W x + c over channels: x, and dx = W^T du, dW = du x^T, dc = du.
    with fp32():
        x = mix(torch.cat([a.detach(), b], 1), inverse, -step.actnorm.b)
        grad_u = torch.cat([grad_a + through_a, grad_b], 1)
        rows, columns = (v.movedim(1, -1).flatten(0, 2) for v in (grad_u, x))  # (N h w, C)
        return x, mix(grad_u, weights.mixing.T), grad_planes, [rows.T @ columns, rows.sum(0), *more]


def _gradients(outputs: list[Tensor], inputs: Sequence[Tensor], grads: list[Tensor | None]) -> list[Tensor | None]:
    """Gradients of the inputs; None for those that need none.

    They run in the precision of the graph, as in a plain backward pass. Under autocast, the products of the float32
    layers would run in bf16.
    """
    known = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad and grad is not None]
    wanted = [x for x in inputs if x.requires_grad]
    if not wanted:
        return [None] * len(inputs)
    with torch.autocast(outputs[0].device.type, enabled=False):
        outs, grads_of_outs = zip(*known, strict=True)
        found = iter(torch.autograd.grad(outs, wanted, grads_of_outs, allow_unused=True))
    return [next(found) if x.requires_grad else None for x in inputs]


def _autocast_state(x: Tensor) -> tuple[str, bool, torch.dtype]:
    kind = x.device.type
    return kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def _restored(state: tuple[str, bool, torch.dtype]) -> contextlib.AbstractContextManager:
    kind, enabled, dtype = state
    return torch.autocast(kind, dtype=dtype, enabled=enabled)
