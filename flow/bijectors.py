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
from flow.config import ModelConfig

LOG_SCALE = 3.0  # factor on log-scales in actnorm and last convolutions, as in openai/glow: a higher learning rate
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

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and U, (C, C) each."""
        eye = torch.eye(self.channels, dtype=self.lower.dtype, device=self.lower.device)
        return self.lower.tril(-1) + eye, self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())

    def weight(self) -> Tensor:
        """W (C, C)."""
        if self.kind == "shuffle":
            return torch.eye(self.channels, device=self.order.device)[self.order]
        lower, upper = self.factors()
        return (lower @ upper)[self.order]

    def inverse_weight(self) -> Tensor:
        """W^-1 (C, C) in float64, by triangular solves; this needs no synchronisation with the GPU."""
        if self.kind == "shuffle":
            return self.weight().double().T
        lower, upper = (factor.double() for factor in self.factors())
        eye = torch.eye(self.channels, dtype=torch.float64, device=lower.device)
        half = torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, half, upper=True)[:, self.order]

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


def mix(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b over the channels of x (N, C, h, w), as a product of channels-last rows. Faster than a convolution."""
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


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
        scale = torch.exp(LOG_SCALE * self.g)  # (O,), folded into the weights: one pass over the image
        weight = self.weight * scale[:, None, None, None]
        out = F.conv2d(x, weight, self.b * scale, padding=self.kernel // 2)
        if self.edge is not None:
            out += self.border(x, scale)
        return out

    def constant(self, x: Tensor) -> Tensor:
        """The output for an input of zeros with any number of channels: (1, O, h, w)."""
        scale = torch.exp(LOG_SCALE * self.g)
        return self.border(x, scale) + (self.b * scale)[:, None, None]

    def border(self, x: Tensor, scale: Tensor) -> Tensor:
        """The contribution of the padding, (1, O, h, w)."""
        ring = F.pad(x.new_zeros(1, 1, *x.shape[2:], dtype=self.edge.dtype), (1, 1, 1, 1), value=1.0)
        return F.conv2d(ring, self.edge * scale[:, None, None, None])

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

    Paper: "Density estimation using Real NVP", https://arxiv.org/abs/1605.08803, eq. 7.
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

    def shift_scale(self, a: Tensor, planes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """t and s, of b's shape and a's type. s is None for an additive coupling. One evaluation of the network."""
        with _network_precision(a):
            return self.network_output(a, planes)

    def network_output(self, a: Tensor, planes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`shift_scale` in the current precision."""
        first, second, last = self.net
        h = a if planes is None else torch.cat([a, planes], 1)
        out = last(F.relu(second(F.relu(first(h))))).to(a.dtype)
        if self.additive:
            return out, None
        return out[:, 0::2], self.log_scale(out[:, 1::2])

    def log_scale(self, r: Tensor) -> Tensor:
        """s(r). `tanh`: within +-alpha. `sigmoid2`: below 0 and unbounded, so the inverse may explode."""
        if self.kind == "tanh":
            return self.bound * torch.tanh(r / self.bound)
        return F.logsigmoid(r + 2)

    def forward(self, x: Tensor, planes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, 1)
        b, log_det = self.transform(b, *self.shift_scale(a, planes))
        return torch.cat([a, b], 1), log_det

    def transform(self, b: Tensor, t: Tensor, s: Tensor | None) -> tuple[Tensor, Tensor]:
        """(b + t) e^s and its log-determinant."""
        if s is None:
            return b + t, b.new_zeros(len(b))
        return (b + t) * s.exp(), s.sum((1, 2, 3))

    def inverse(self, y: Tensor, planes: Tensor | None = None) -> Tensor:
        """y (N, C, h, w) -> x under the same label planes (N, E, h, w)."""
        a, b = y.chunk(2, 1)
        return torch.cat([a, self.inverse_transform(b, *self.shift_scale(a, planes))], 1)

    def inverse_transform(self, b: Tensor, t: Tensor, s: Tensor | None) -> Tensor:
        """b e^-s - t."""
        return b - t if s is None else b * (-s).exp() - t

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
    """One step of flow: actnorm, 1x1 convolution, coupling. Actnorm and 1x1 are one matrix product."""

    def __init__(self, channels: int, planes: int, cfg: ModelConfig) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels)
        self.conv = InvertibleConv1x1(channels, cfg.permutation)
        self.coupling = Coupling(channels, planes, cfg)
        self._inverse: tuple[tuple, Tensor] | None = None

    def forward(self, x: Tensor, planes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u, log_det = self.linear(x)
        y, more = self.coupling(u, planes)
        return y, log_det + more

    def inverse(self, y: Tensor, planes: Tensor | None = None) -> Tensor:
        """y (N, C, h, w) -> x under the same label planes (N, E, h, w)."""
        return self.linear_inverse(self.coupling.inverse(y, planes))

    def linear(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Actnorm and 1x1: W e^3g x + W e^3g b, and the log-determinant, one number for all images."""
        with fp32():
            return self.scaled_mixing(x)

    def scaled_mixing(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`linear` in the current precision."""
        scale, weight = self.actnorm.scale(), self.conv.weight()
        scaled = weight.to(scale.dtype) * scale
        log_det = x.shape[2] * x.shape[3] * (LOG_SCALE * self.actnorm.g.sum() + self.conv.log_det())
        return mix(x, scaled, scaled @ self.actnorm.b), log_det

    def linear_inverse(self, u: Tensor) -> Tensor:
        """The inverse of `linear`."""
        with fp32():
            return mix(u, self.inverse_weight().to(u.dtype), -self.actnorm.b)

    def inverse_weight(self) -> Tensor:
        """e^-3g W^-1 in float64. It is solved once for each state of the weights, not in each call."""
        if self._inverse is not None and torch.compiler.is_exporting():
            return self._inverse[1]  # a constant of the exported graph
        params = [*self.actnorm.parameters(), *self.conv.parameters(), *self.conv.buffers()]
        state = tuple((p.data_ptr(), p.dtype, -1 if p.is_inference() else p._version) for p in params)
        if self._inverse is None or self._inverse[0] != state:
            with torch.no_grad():
                solved = self.conv.inverse_weight() / self.actnorm.scale().double()[:, None]
            self._inverse = (state, solved)
        return self._inverse[1]

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the three parts that run in one precision each. Steps of equal shape share the compiled code."""
        parts = ((self, "scaled_mixing"), (self.coupling, "network_output"), (self.coupling, "transform"))
        for owner, name in parts:
            setattr(owner, name, torch.compile(getattr(owner, name), *args, fullgraph=True, dynamic=False, **options))

    def clear_inverse(self) -> None:
        """Drop the cached inverse. Needed after weights were loaded."""
        self._inverse = None

    @torch.no_grad()
    def initialise(self, x: Tensor, planes: Tensor | None, mean: MeanFn) -> None:
        """Data-dependent initialisation of every actnorm, from this step's input."""
        self.actnorm.initialise(x, mean)
        self.coupling.initialise(self.linear(x)[0], planes, mean)


def _network_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """The caller's autocast if there is one, else true float32."""
    return contextlib.nullcontext() if torch.is_autocast_enabled(x.device.type) else fp32()
