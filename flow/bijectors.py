"""The layers of Glow: squeeze, actnorm, invertible 1x1 convolution, affine coupling.

Paper: "Glow: Generative Flow with Invertible 1x1 Convolutions", https://arxiv.org/abs/1807.03039

`forward` maps images to codes. Tensors are (N, C, h, w). A log-determinant is (N,), in nats, summed over dimensions.
Products over channels always run in true float32, whatever the caller's autocast. The coupling's network runs in the
caller's autocast. Without autocast it runs in true float32. In TF32 or bf16 a code would not be exact.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import fp32
from flow.composed import (
    LOG_SCALE,
    Composed,
    Network,
    StepWeights,
    border_conv,
    border_plane,
    border_taps,
    compose,
    compose_convs,
    compose_networks,
    inverse_mixing,
    inverse_weights,
    mix,
    mixing_weights,
)
from flow.config import ModelConfig

MIN_STD = 1e-3  # least deviation that actnorm divides by; a constant channel would explode
MeanFn = Callable[[Tensor], Tensor]  # averages a tensor over ranks


def squeeze(x: Tensor) -> Tensor:
    """(N, C, 2h, 2w) -> (N, 4C, h, w); channel 4 c + 2 dy + dx is channel c at (2i + dy, 2j + dx)."""
    return F.pixel_unshuffle(x, 2)


def unsqueeze(x: Tensor) -> Tensor:
    """The inverse of `squeeze`."""
    return F.pixel_shuffle(x, 2)


def moments(x: Tensor, mean: MeanFn) -> tuple[Tensor, Tensor]:
    """Mean and biased standard deviation per channel over batch, positions and ranks, (C,) each, in float64."""
    x = x.double()
    first = mean(x.mean((0, 2, 3)))
    second = mean((x - first[:, None, None]).square().mean((0, 2, 3)))
    return first, second.sqrt()


class ActNorm(nn.Module):
    """y = (x + b) exp(3 g) per channel. After the warm start y has mean 0 and standard deviation 1 on that batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.b, self.g = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def initialise(self, x: Tensor, mean: MeanFn) -> None:
        """Set b and g from this layer's input x (N, C, h, w)."""
        centre, std = moments(x, mean)
        self.b.copy_(-centre)
        self.g.copy_(-std.clamp_min(MIN_STD).log() / LOG_SCALE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x[0, 0].numel() * LOG_SCALE * self.g.sum()
        return (x + self.b[:, None, None]) * self.scale()[:, None, None], log_det.expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """y (N, C, h, w) -> x, the same shape."""
        return y / self.scale()[:, None, None] - self.b[:, None, None]

    def scale(self) -> Tensor:
        """The scale exp(3 g), (C,)."""
        return torch.exp(LOG_SCALE * self.g)


class InvertibleConv1x1(nn.Module):
    """y = W x over channels.

    kind `lu`: W = P L (U + diag(sign e^s)), initialised to a random rotation. kind `shuffle`: a fixed permutation.
    """

    def __init__(self, channels: int, kind: str = "lu") -> None:
        super().__init__()
        self.channels, self.kind = channels, kind
        if kind == "shuffle":
            self.register_buffer("order", torch.randperm(channels))
            return
        q, r = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
        order, lower, upper, sign, log_s = factorise(q * r.diagonal().sign())
        self.register_buffer("order", order)  # P: row i of W is row order[i] of L U
        self.register_buffer("sign", sign.float())
        self.lower, self.upper = nn.Parameter(lower.float()), nn.Parameter(upper.float())
        self.log_s = nn.Parameter(log_s.float())

    def weight(self) -> Tensor:
        """W (C, C)."""
        return mixing_weights([self])[0]

    def inverse_weight(self) -> Tensor:
        """W^-1 (C, C) in float64."""
        return inverse_weights([self])[0]

    def log_det(self) -> Tensor | float:
        """log |det W|, of one position."""
        return 0.0 if self.kind == "shuffle" else self.log_s.sum()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with fp32():
            log_det = x.new_zeros(()) + x[0, 0].numel() * self.log_det()
            return mix(x, self.weight().to(x.dtype)), log_det.expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """y (N, C, h, w) -> x, the same shape."""
        with fp32():
            return mix(y, self.inverse_weight().to(y.dtype))


def factorise(w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """W (C, C) float64 -> order (C,), L (unit lower), U (strictly upper), sign (C,), log|s| (C,)."""
    p, lower, upper = torch.linalg.lu(w)
    diagonal = upper.diagonal()
    return p.argmax(1), lower, upper.triu(1), diagonal.sign(), diagonal.abs().log()


class EdgeConv(nn.Module):
    """(conv(x) + b) exp(3 g): a convolution with a learned border, and the actnorm that follows it.

    The input is padded with zeros. One extra input channel is 1 on the padding and 0 inside (`add_edge_padding` of
    openai/glow). Its contribution is equal for all images and is computed once. `zero`: all weights start at 0, without
    data-dependent initialisation. With `inputs` 0 only bias and border remain.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, zero: bool = False) -> None:
        super().__init__()
        self.kernel, self.zero = kernel, zero
        std = 0.0 if zero else 0.05
        self.weight = nn.Parameter(std * torch.randn(outputs, inputs, kernel, kernel)) if inputs else None
        self.edge = nn.Parameter(std * torch.randn(outputs, 1, kernel, kernel)) if kernel > 1 else None
        self.b, self.g = nn.Parameter(torch.zeros(outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = compose_convs([self])
        if self.edge is None:
            return F.conv2d(x, weight[0], bias[0])
        return border_conv(x, weight[0], bias[0], border_taps(*x.shape[2:], self.b))

    def constant(self, x: Tensor) -> Tensor:
        """The output for an input of zeros with any number of channels: (1, O, h, w)."""
        h, w = x.shape[2:]
        return border_plane(compose_convs([self])[1][0], border_taps(h, w, self.b), h, w)[None]

    @torch.no_grad()
    def initialise(self, x: Tensor, mean: MeanFn) -> None:
        """Set b and g so that the output for x has mean 0 and standard deviation 1 per channel."""
        if self.zero:
            return
        self.b.zero_()
        self.g.zero_()
        centre, std = moments(self(x), mean)
        self.b.copy_(-centre)
        self.g.copy_(-std.clamp_min(MIN_STD).log() / LOG_SCALE)


class Coupling(nn.Module):
    """x = [a, b] -> [a, (b + t) e^s]. A network computes (t, s) from a and the condition planes.

    Paper: "Density estimation using Real NVP", https://arxiv.org/abs/1605.08803, eq. 7. The methods that take `network`
    and `taps` use composed weights (`composed.Network`).
    """

    def __init__(self, channels: int, planes: int, cfg: ModelConfig) -> None:
        super().__init__()
        half, self.additive = channels // 2, cfg.coupling == "additive"
        self.kind, self.bound = cfg.scale, cfg.scale_bound
        self.net = nn.ModuleList(
            [
                EdgeConv(half + planes, cfg.width),
                EdgeConv(cfg.width, cfg.width, kernel=1),
                EdgeConv(cfg.width, half if self.additive else 2 * half, zero=True),
            ]
        )

    def shift_scale(
        self, a: Tensor, planes: Tensor | None, network: Network, taps: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """t and s, of b's shape and a's type. s is None for an additive coupling. One evaluation of the network."""
        h = a if planes is None else torch.cat([a, planes], 1)
        h = border_conv(h, network.first, network.first_border, taps).relu_()
        h = mix(h, network.second, network.second_bias).relu_()
        out = border_conv(h, network.last, network.last_border, taps).to(a.dtype)
        if self.additive:
            return out, None
        t, r = out.chunk(2, 1)
        return t, self.log_scale(r)

    def log_scale(self, r: Tensor) -> Tensor:
        """s(r). `tanh`: within +-alpha. `sigmoid2`: below 0 and unbounded, so the inverse may explode."""
        if self.kind == "sigmoid2":
            return F.logsigmoid(r + 2)
        return torch.tanh(r) if self.bound == 1 else self.bound * torch.tanh(r / self.bound)

    def apply_network(
        self, x: Tensor, planes: Tensor | None, network: Network, taps: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """x -> y, and its log-determinant (N,); None for an additive coupling, whose log-determinant is 0."""
        a, b = x.chunk(2, 1)
        t, s = self.shift_scale(a, planes, network, taps)
        if s is None:
            return torch.cat([a, b + t], 1), None
        return torch.cat([a, (b + t) * s.exp()], 1), s.sum((1, 2, 3))

    def invert_network(self, y: Tensor, planes: Tensor | None, network: Network, taps: Tensor) -> Tensor:
        """y -> x: b e^-s - t."""
        a, b = y.chunk(2, 1)
        t, s = self.shift_scale(a, planes, network, taps)
        return torch.cat([a, b - t if s is None else b * (-s).exp() - t], 1)

    def composed(self, x: Tensor) -> tuple[Network, Tensor]:
        """Network and taps for inputs of x's size."""
        with fp32():
            return compose_networks([self])[0], border_taps(*x.shape[2:], self.net[0].b)

    def forward(self, x: Tensor, planes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with network_precision(x):
            y, log_det = self.apply_network(x, planes, *self.composed(x))
        return y, x.new_zeros(len(x)) if log_det is None else log_det

    def inverse(self, y: Tensor, planes: Tensor | None = None) -> Tensor:
        """y (N, C, h, w) -> x under the same label planes (N, E, h, w)."""
        with network_precision(y):
            return self.invert_network(y, planes, *self.composed(y))

    @torch.no_grad()
    def initialise(self, x: Tensor, planes: Tensor | None, mean: MeanFn) -> None:
        """Initialise the actnorms inside the network, layer by layer."""
        a = x.chunk(2, 1)[0]
        h = a if planes is None else torch.cat([a, planes], 1)
        with fp32():
            for conv in self.net:
                conv.initialise(h, mean)
                h = F.relu(conv(h))


class Step(nn.Module):
    """One step of flow: actnorm, 1x1 convolution, coupling. Actnorm and 1x1 are one matrix product.

    A level applies its steps with weights that it composes for all of them (`apply_weights`, `invert_weights`).
    `forward` and `inverse` do the same for one step alone.
    """

    def __init__(self, channels: int, planes: int, cfg: ModelConfig) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels)
        self.conv = InvertibleConv1x1(channels, cfg.permutation)
        self.coupling = Coupling(channels, planes, cfg)

    def apply_weights(
        self, x: Tensor, planes: Tensor | None, weights: StepWeights, taps: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """x (N, C, h, w) -> y, and the coupling's log-determinant (N,), None if 0. The caller sets the precision."""
        with channel_precision(x):
            u = mix(x, weights.mixing, weights.offset)
        return self.coupling.apply_network(u, planes, weights.network, taps)

    def invert_weights(
        self, y: Tensor, planes: Tensor | None, weights: StepWeights, taps: Tensor, inverse: Tensor
    ) -> Tensor:
        """y -> x. inverse (C, C): e^-3g W^-1."""
        u = self.coupling.invert_network(y, planes, weights.network, taps)
        with channel_precision(y):
            return mix(u, inverse.to(u.dtype), -self.actnorm.b)

    def composed(self, x: Tensor) -> Composed:
        """Weights of this step for inputs of x's size."""
        with fp32():
            return compose([self], *x.shape[2:])

    def forward(self, x: Tensor, planes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        composed = self.composed(x)
        with network_precision(x):
            y, log_det = self.apply_weights(x, planes, composed.steps[0], composed.taps)
        return y, (composed.log_det if log_det is None else composed.log_det + log_det).expand(len(x))

    def inverse(self, y: Tensor, planes: Tensor | None = None) -> Tensor:
        """y (N, C, h, w) -> x under the same label planes (N, E, h, w)."""
        composed, inverse = self.composed(y), inverse_mixing([self.actnorm], [self.conv])[0]
        with network_precision(y):
            return self.invert_weights(y, planes, composed.steps[0], composed.taps, inverse)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the coupling. Its weights are arguments, so all steps of a level share the compiled code."""
        for name in ("apply_network", "invert_network", "shift_scale"):
            part = torch.compile(getattr(self.coupling, name), *args, fullgraph=True, dynamic=False, **options)
            setattr(self.coupling, name, part)

    @torch.no_grad()
    def initialise(self, x: Tensor, planes: Tensor | None, mean: MeanFn) -> None:
        """Data-dependent initialisation of every actnorm, from this step's input."""
        self.actnorm.initialise(x, mean)
        with fp32():
            weights = self.composed(x).steps[0]
            u = mix(x, weights.mixing, weights.offset)
        self.coupling.initialise(u, planes, mean)


def network_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Precision of a chain of steps: the caller's autocast if there is one, else true float32."""
    return contextlib.nullcontext() if torch.is_autocast_enabled(x.device.type) else fp32()


def channel_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Inside `network_precision`: true float32 for products over channels."""
    return fp32() if torch.is_autocast_enabled(x.device.type) else contextlib.nullcontext()
