"""Weights as the operators of a step use them, composed for all K steps of a level in one pass.

A step of flow is small, so the time goes into the number of operators. Everything that does not depend on the images
is therefore computed here: once per level, for its K equal steps at once, and not in each step.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_SCALE = 3.0  # factor on log-scales in actnorm and last convolutions, as in openai/glow: a higher learning rate


class Network(NamedTuple):
    """Weights of a coupling network. (10, O): the nine taps of the border's kernel, and the bias."""

    first: Tensor  # (width, C/2 + E, 3, 3)
    first_border: Tensor  # (10, width)
    second: Tensor  # (width, width)
    second_bias: Tensor  # (width,)
    last: Tensor  # (C, width, 3, 3), all shifts t before all log-scales; additive: (C/2, width, 3, 3)
    last_border: Tensor  # (10, C or C/2)


class StepWeights(NamedTuple):
    """Weights of one step: u = mixing x + offset over channels, then the coupling."""

    mixing: Tensor  # (C, C), W e^{3 g}
    offset: Tensor  # (C,), W e^{3 g} b
    network: Network

    def tensors(self) -> list[Tensor]:
        """All of them in one list."""
        return [self.mixing, self.offset, *self.network]


class Composed(NamedTuple):
    """Weights of the K steps of a level for images of one size."""

    steps: list[StepWeights]
    log_det: Tensor  # of actnorms and 1x1 convolutions, summed over steps and positions; one number for all images
    taps: Tensor  # (h w, 10), see `border_taps`


def compose(steps: Sequence[Any], h: int, w: int) -> Composed:
    """Compose K equal steps (`bijectors.Step`) for images of h x w positions."""
    mixing, offset, log_det = compose_mixing([step.actnorm for step in steps], [step.conv for step in steps])
    networks = compose_networks([step.coupling for step in steps])
    weights = [StepWeights(*parts) for parts in zip(mixing.unbind(), offset.unbind(), networks, strict=True)]
    return Composed(weights, h * w * log_det, border_taps(h, w, steps[0].actnorm.b))


def compose_mixing(actnorms: Sequence[Any], convs: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Actnorm and 1x1 convolution as one product: (K, C, C), (K, C), and the log-determinant of one position."""
    g, b = stacked(actnorms, "g"), stacked(actnorms, "b")
    mixing = mixing_weights(convs).to(g.dtype) * torch.exp(LOG_SCALE * g)[:, None]
    log_det = LOG_SCALE * g.sum()
    if convs[0].kind == "lu":
        log_det = log_det + stacked(convs, "log_s").sum()
    return mixing, (mixing @ b[:, :, None])[:, :, 0], log_det


def inverse_mixing(actnorms: Sequence[Any], convs: Sequence[Any]) -> Tensor:
    """e^{-3 g} W^-1 of K steps, (K, C, C) in float64. With it, x = e^{-3 g} W^-1 u - b."""
    return inverse_weights(convs) / torch.exp(LOG_SCALE * stacked(actnorms, "g")).double()[:, :, None]


def factors(convs: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """L and U of K 1x1 convolutions, (K, C, C) each."""
    lower, upper = stacked(convs, "lower"), stacked(convs, "upper")
    eye = torch.eye(lower.shape[1], dtype=lower.dtype, device=lower.device)
    diagonal = stacked(convs, "sign") * stacked(convs, "log_s").exp()
    return lower.tril(-1) + eye, upper.triu(1) + torch.diag_embed(diagonal)


def mixing_weights(convs: Sequence[Any]) -> Tensor:
    """W of K 1x1 convolutions, (K, C, C)."""
    order = stacked(convs, "order")
    if convs[0].kind == "shuffle":
        return torch.eye(order.shape[1], device=order.device)[order]
    lower, upper = factors(convs)
    return (lower @ upper).gather(1, order[:, :, None].expand_as(lower))


def inverse_weights(convs: Sequence[Any]) -> Tensor:
    """W^-1 of K 1x1 convolutions, (K, C, C) in float64, by triangular solves; without synchronisation with the GPU."""
    if convs[0].kind == "shuffle":
        return mixing_weights(convs).double().mT
    lower, upper = (factor.double() for factor in factors(convs))
    eye = torch.eye(lower.shape[1], dtype=torch.float64, device=lower.device).expand_as(lower)
    half = torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True)
    solved = torch.linalg.solve_triangular(upper, half, upper=True)
    return solved.gather(2, stacked(convs, "order")[:, None].expand_as(solved))


def compose_networks(couplings: Sequence[Any]) -> list[Network]:
    """Weights of K coupling networks (`bijectors.Coupling.net`)."""
    first, second, last = (compose_convs(convs) for convs in zip(*(c.net for c in couplings), strict=True))
    if not couplings[0].additive:  # t and s in turn -> t before s, so that no operator reads every second channel
        last = halves_in_order(last[0], 1), halves_in_order(last[1], 2)
    parts = (*first, second[0][..., 0, 0], second[1], *last)
    return [Network(*each) for each in zip(*(part.unbind() for part in parts), strict=True)]


def compose_convs(convs: Sequence[Any]) -> tuple[Tensor | None, Tensor]:
    """K equal layers (`bijectors.EdgeConv`): weights (K, O, I, k, k) with their scale, and the border (K, 10, O).

    A 1x1 kernel has no border: its second tensor is the bias (K, O).
    """
    scale = torch.exp(LOG_SCALE * stacked(convs, "g"))  # (K, O)
    bias = stacked(convs, "b") * scale
    if convs[0].edge is not None:
        edge = stacked(convs, "edge").flatten(2) * scale[:, :, None]  # (K, O, 9)
        bias = torch.cat([edge, bias[:, :, None]], 2).mT
    return None if convs[0].weight is None else stacked(convs, "weight") * scale[:, :, None, None, None], bias


def border_taps(h: int, w: int, like: Tensor) -> Tensor:
    """(h w, 10): which of the nine taps of a 3 x 3 kernel lie outside of the image, for each position; and a one.

    Its product with a border (10, O) is the bias and the contribution of a padding of ones.
    """
    ring = F.pad(like.new_zeros(1, 1, h, w), (1, 1, 1, 1), value=1.0)
    return F.pad(F.unfold(ring, 3)[0].T, (0, 1), value=1.0)


def border_plane(border: Tensor, taps: Tensor, h: int, w: int) -> Tensor:
    """border (10, O), taps (h w, 10) -> what a convolution adds at each position, (O, h, w), channels last."""
    return (taps @ border).unflatten(0, (h, w)).permute(2, 0, 1)


def border_conv(x: Tensor, weight: Tensor, border: Tensor, taps: Tensor) -> Tensor:
    """3x3 convolution with a learned border: x (N, I, h, w) -> (N, O, h, w)."""
    plane = border_plane(border, taps, *x.shape[2:])
    return F.conv2d(x, weight, padding=1).add_(plane)


def mix(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b over the channels of x (N, C, h, w), as a product of channels-last rows. Faster than a convolution."""
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def stacked(modules: Sequence[Any], name: str) -> Tensor:
    """The tensors `name` of K modules, (K, ...)."""
    return torch.stack([getattr(module, name) for module in modules])


def halves_in_order(x: Tensor, axis: int) -> Tensor:
    """Entries 0, 1, 2, 3, ... of an axis -> 0, 2, 4, ..., 1, 3, 5, ..."""
    return x.unflatten(axis, (-1, 2)).transpose(axis, axis + 1).flatten(axis, axis + 1)
