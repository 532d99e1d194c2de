"""Stability checks that the loss does not show: exploding samples, drifting inverses, near-singular 1x1
convolutions."""

import logging

import torch
from torch import Tensor

from flow.bijectors import squeeze, unsqueeze
from flow.model import GlowFlow

logger = logging.getLogger("faces")
NUM_IMAGES = 64
MAX_DRIFT = 1e-3  # in units of v; half a grey level at 8 bits is 2e-3
MAX_SAMPLE = 10.0  # in units of v; images lie within 1/2
MAX_LOGGED = 1e9  # larger, infinite and NaN values are logged as this, since a non-finite log value would end the run


@torch.no_grad()
def stability_checks(flow: GlowFlow, v: Tensor, y: Tensor | None, step: int) -> dict[str, Tensor]:
    """Metrics of the training weights on up to 64 images v (N, C, H, H). Logs a warning for each out of bounds."""
    v, y = v[:NUM_IMAGES], None if y is None else y[:NUM_IMAGES]
    was_training = flow.training
    flow.eval()
    with torch.autocast(v.device.type, enabled=False):
        samples = flow.draw(len(v), 1.0, y)
        drifts = level_drifts(flow, v, y)
        saturated = saturation(flow, v, y)
    flow.train(was_training)
    finite = samples.flatten(1).isfinite().all(1)
    largest = samples.nan_to_num(posinf=torch.inf, neginf=-torch.inf).abs().max()
    condition = torch.stack([condition_of(s.conv.weight()) for level in flow.levels for s in level.steps]).max()
    if not finite.all() or largest > MAX_SAMPLE:
        num_bad = int((~finite).sum())
        logger.warning(
            f"step {step}: samples at temperature 1 reach {largest.item():.3g}, {num_bad} of {len(finite)} not finite: "
            "the inverse explodes; use model.scale=tanh"
        )
    drift, level = max((value.item(), number) for number, value in enumerate(drifts, 1))
    if drift > MAX_DRIFT:
        logger.warning(
            f"step {step}: the inverse drifts (level {level}: {drift:.0e}): try model.anchor_every=4 or a smaller "
            "model.scale_bound"
        )
    metrics = {
        "stability/finite": finite.float().mean(),
        "stability/largest": largest,
        "stability/drift": torch.stack(drifts).max(),
        "stability/condition": condition,
        "stability/saturated": saturated,
    }
    return {key: value.nan_to_num(nan=MAX_LOGGED).clamp(max=MAX_LOGGED) for key, value in metrics.items()}


def condition_of(weight: Tensor) -> Tensor:
    """The condition number of a 1x1 matrix (C, C); infinite if a weight is not finite, which `cond` cannot take."""
    weight = weight.double()
    return torch.linalg.cond(weight) if weight.isfinite().all() else weight.new_tensor(torch.inf)


def level_drifts(flow: GlowFlow, v: Tensor, y: Tensor | None) -> list[Tensor]:
    """Largest |x - inverse(forward(x))| of each level, finest first; infinite if the result is not finite."""
    x, drifts = v, []
    for level in flow.levels:
        x = squeeze(x)
        z, _ = level(x, y)
        drift = (unsqueeze(level.inverse(z, y)) - unsqueeze(x)).abs().max()
        drifts.append(drift.nan_to_num(nan=torch.inf, posinf=torch.inf))
        x = level.split(z)[0]
    return drifts


def saturation(flow: GlowFlow, v: Tensor, y: Tensor | None) -> Tensor:
    """Share of coupling log-scales within 5 % of their bound; 0 for additive couplings and `sigmoid2`."""
    x, near, count = v, v.new_zeros(()), 0
    for level in flow.levels:
        x = level.subtract_class_mean(squeeze(x), y)
        planes, composed = level.condition_planes(x, y), level.composed(*x.shape[2:])
        for step, weights in zip(level.steps, composed.steps, strict=True):
            x = step.apply_weights(x, planes, weights, composed.taps)[0]
            if step.coupling.kind == "tanh" and not step.coupling.additive:  # the coupling does not change a
                s = step.coupling.shift_scale(x.chunk(2, 1)[0], planes, weights.network, composed.taps)[1]
                near, count = near + (s.abs() > 0.95 * step.coupling.bound).sum(), count + s.numel()
        x = level.split(x)[0]
    return near / max(count, 1)
