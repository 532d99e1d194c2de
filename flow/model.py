"""Glow: L levels of squeeze, K steps and split, with learned priors (figure 2 of the paper).

Paper: "Glow: Generative Flow with Invertible 1x1 Convolutions", https://arxiv.org/abs/1807.03039


           v (N, C, H, H) in [-1/2, 1/2)
    level 1: squeeze -> 4C x H/2, K steps, split -> eps_1 (N, 2C, H/2, H/2) out, 2C x H/2 on
    level i:            ...                       -> eps_i (N, 2^i C, H/2^i, H/2^i)
    level L: squeeze, K steps, no split           -> eps_L (N, 2^(L+1) C, H/2^L, H/2^L)

The code is whitened: eps_i = (z_i - m) e^-l, with mean m and log-deviation l of the level's prior. If the model is
right, eps_i is N(0, I) at every level, and one standard deviation means the same everywhere.

Labels y (N, K), one-hot or attribute bits, enter linearly. So any real mixture of labels is a valid label (README,
"Labels").
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine import UserError, fp32
from flow.bijectors import EdgeConv, MeanFn, Step, network_precision, squeeze, unsqueeze
from flow.composed import Composed, compose, inverse_mixing
from flow.config import ModelConfig
from flow.reversible import run_reversible, run_stored

LOG_2PI = math.log(2 * math.pi)


@dataclass
class Code:
    """What `encode` returns: eps, finest level first; log_prob (N,) in nats; z_top, the top code before whitening."""

    eps: list[Tensor]
    log_prob: Tensor
    z_top: Tensor

    def flat(self) -> Tensor:
        """(N, D), the coarsest level first."""
        return flatten(self.eps)


def flatten(eps: Sequence[Tensor]) -> Tensor:
    """Levels, finest first -> (N, D), coarsest first."""
    return torch.cat([level.flatten(1) for level in reversed(eps)], 1)


class Level(nn.Module):
    """K steps on squeezed images, the prior of the part that is split off, and the label's parameters."""

    def __init__(self, channels: int, side: int, last: bool, num_labels: int, cfg: ModelConfig) -> None:
        super().__init__()
        self.last, self.cfg = last, cfg
        self._kept: dict[str, tuple[list[Tensor], list[tuple], Any]] = {}  # see `kept`
        planes = cfg.num_planes
        self.steps = nn.ModuleList(Step(channels, planes, cfg) for _ in range(cfg.num_steps))
        out = channels if last else channels // 2  # channels of eps
        self.prior = EdgeConv(0 if last else channels // 2, 2 * out, zero=True)
        if planes:
            self.place = nn.Parameter(0.05 * torch.randn(planes, side, side))  # V_0
        if cfg.condition == "planes":
            self.planes = nn.Parameter(0.05 * torch.randn(num_labels, planes, side, side))  # V
            self.prior_shift = nn.Parameter(torch.zeros(num_labels, out, side, side))  # A
            self.prior_scale = nn.Parameter(torch.zeros(num_labels, out, side, side))  # B
            if cfg.class_mean:
                self.class_mean = nn.Parameter(torch.zeros(num_labels, channels, side, side))  # M
        elif cfg.condition == "top" and last:
            self.label_prior = nn.Linear(num_labels, 2 * out, bias=False)
            nn.init.zeros_(self.label_prior.weight)

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Squeezed x (N, C, h, w) -> z (N, C, h, w), log-determinant (N,)."""
        x, planes = self.subtract_class_mean(x, y), self.condition_planes(x, y)
        with network_precision(x):
            if self.cfg.memory == "stored" or not torch.is_grad_enabled():
                return run_stored(self.steps, x, planes, self.composed(*x.shape[2:]))
            return run_reversible(self.steps, x, planes, self.cfg.anchor_every)

    def inverse(self, z: Tensor, y: Tensor | None) -> Tensor:
        """z (N, C, h, w) -> the squeezed x, under the same y (N, K)."""
        planes, composed, inverses = self.condition_planes(z, y), self.composed(*z.shape[2:]), self.inverses()
        with network_precision(z):
            for step, weights, inverse in zip(self.steps[::-1], composed.steps[::-1], inverses.flip(0), strict=True):
                z = step.invert_weights(z, planes, weights, composed.taps, inverse)
        return self.subtract_class_mean(z, y, -1)

    def composed(self, h: int, w: int) -> Composed:
        """The composed weights of the steps. Without gradients they are kept until the weights change."""
        with fp32():
            if torch.is_grad_enabled():
                return compose(self.steps, h, w)
            return self.kept(f"{h} x {w}", lambda: compose(self.steps, h, w))

    @torch.no_grad()
    def inverses(self) -> Tensor:
        """e^-3g W^-1 of each step, (K, C, C) in float64. They are kept until the weights change."""
        parts = [step.actnorm for step in self.steps], [step.conv for step in self.steps]
        return self.kept("inverses", lambda: inverse_mixing(*parts))

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of `make` for the current weights of the steps."""
        found = self._kept.get(name)
        if found is not None and (torch.compiler.is_exporting() or found[1] == state_of(found[0])):
            return found[2]  # in an export: a constant of the graph
        params = list(self.steps.parameters())
        self._kept[name] = params, state_of(params), make()
        return self._kept[name][2]

    def split(self, z: Tensor) -> tuple[Tensor | None, Tensor]:
        """(the part that the next level takes, the part that becomes eps here)."""
        return (None, z) if self.last else z.chunk(2, 1)

    def prior_of(self, rest_code: Tensor | None, y: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation of the latents that become eps, given the other part. (N or 1, C', h, w) each.

        like: a tensor of the shape of eps.
        """
        with fp32():
            out = self.prior.constant(like) if rest_code is None else self.prior(rest_code)
            m, log_s = out[:, 0::2], out[:, 1::2]
            if self.cfg.condition == "planes":
                m, log_s = m + weighted_sum(y, self.prior_shift), log_s + torch.tanh(weighted_sum(y, self.prior_scale))
            elif self.cfg.condition == "top" and self.last:
                more = self.label_prior(y)[:, :, None, None]
                m, log_s = m + more[:, 0::2], log_s + more[:, 1::2]
        return m, log_s

    def subtract_class_mean(self, x: Tensor, y: Tensor | None, sign: int = 1) -> Tensor:
        """x minus the label-weighted mean images. `sign` -1 adds them."""
        if self.cfg.condition != "planes" or not self.cfg.class_mean:
            return x
        return x - sign * weighted_sum(y, self.class_mean)

    def condition_planes(self, x: Tensor, y: Tensor | None) -> Tensor | None:
        """Extra input of every coupling of this level, (N, E, h, w): V_0, plus V weighted by the labels."""
        if not self.cfg.num_planes:
            return None
        place = self.place.expand(x.shape[0], -1, -1, -1)
        planes = place + weighted_sum(y, self.planes) if self.cfg.condition == "planes" else place
        return planes.contiguous(memory_format=torch.channels_last)  # as all inputs of the couplings


class GlowFlow(nn.Module):
    """The whole flow. `encode` and `decode` are exact inverses under the same y."""

    def __init__(self, channels: int, size: int, cfg: ModelConfig, num_labels: int = 0) -> None:
        super().__init__()
        fitting = (size & -size).bit_length() - 1
        if size % 2**cfg.num_levels:
            raise UserError(
                f"model.num_levels: {size} px cannot be halved {cfg.num_levels} times; at most {fitting} levels fit"
            )
        self.channels, self.size, self.num_labels = channels, size, num_labels
        levels, width = [], channels
        for i in range(1, cfg.num_levels + 1):
            levels.append(Level(4 * width, size >> i, i == cfg.num_levels, num_labels, cfg))
            width *= 2
        self.levels = nn.ModuleList(levels)
        if cfg.condition == "top":
            self.class_head = nn.Linear(2 * width, num_labels)  # the paper's classifier of the top code
            nn.init.zeros_(self.class_head.weight)
            nn.init.zeros_(self.class_head.bias)
        # `ready` is a Python bool, so reading it does not wait for a GPU. The buffer keeps it in checkpoints.
        self.register_buffer("initialised", torch.tensor(False))
        self.ready = False
        self.register_load_state_dict_post_hook(_loaded)

    @property
    def dim(self) -> int:
        """D = C H^2, of images and of codes."""
        return self.channels * self.size**2

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Shapes of eps, finest level first."""
        sides = [(self.channels * 2**i, self.size >> i, self.size >> i) for i in range(1, len(self.levels) + 1)]
        return [*sides[:-1], (2 * sides[-1][0], *sides[-1][1:])]

    def encode(self, v: Tensor, y: Tensor | None = None) -> Code:
        """v (N, C, H, H) in [-1/2, 1/2) -> its code and exact log-density in nats."""
        assert self.ready, "expected warm_start or load_state_dict before encode"
        assert (y is None) == (self.num_labels == 0), "y is needed with labels, and must be None without"
        x, eps, log_prob = v, [], v.new_zeros(len(v))
        for level in self.levels:
            z, log_det = level(squeeze(x), y)
            x, rest = level.split(z)
            m, log_s = level.prior_of(x, y, rest)
            e = (rest - m) * (-log_s).exp()
            normal = -0.5 * (e.square() + LOG_2PI).sum((1, 2, 3))
            log_prob = log_prob + log_det + normal - log_s.expand_as(rest).sum((1, 2, 3))
            eps.append(e)
        return Code(eps, log_prob, rest)

    def decode(self, eps: Sequence[Tensor], y: Tensor | None = None) -> Tensor:
        """eps, finest level first -> v (N, C, H, H)."""
        assert self.ready and (y is None) == (self.num_labels == 0)
        x = None
        for level, e in zip(reversed(self.levels), reversed(eps), strict=True):
            m, log_s = level.prior_of(x, y, e)
            rest = e * log_s.exp() + m
            z = rest if x is None else torch.cat([x, rest], 1)
            x = unsqueeze(level.inverse(z, y))
        return x

    def unflatten(self, flat: Tensor) -> list[Tensor]:
        """(N, D), coarsest first -> eps, finest first."""
        shapes = self.shapes[::-1]
        parts = flat.split([math.prod(shape) for shape in shapes], 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)][::-1]

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """(n, D) from N(0, I). Sampled on the CPU, so equal on every device."""
        return torch.randn(n, self.dim, generator=generator).to(self.initialised.device)

    def draw(
        self,
        n: int,
        temperature: float | Sequence[float] = 1.0,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n samples v (n, C, H, H). temperature: factor on the standard deviation, one, or one per level."""
        return self.decode(apply_temperature(self.unflatten(self.noise(n, generator)), temperature), y)

    @torch.no_grad()
    def initialise(self, v: Tensor, y: Tensor | None, mean: MeanFn) -> None:
        """Data-dependent initialisation: every actnorm output has mean 0 and standard deviation 1 on this batch."""
        x = v
        for level in self.levels:
            x = level.subtract_class_mean(squeeze(x), y)
            planes = level.condition_planes(x, y)
            for step in level.steps:
                step.initialise(x, planes, mean)
                x, _ = step(x, planes)
            x = level.split(x)[0]
        self.initialised.fill_(True)
        self.ready = True

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the steps (`train.compile`): once per level, gradient mode and autocast mode."""
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, 8 * len(self.levels))
        for level in self.levels:
            for step in level.steps:
                step.compile(*args, **options)

    @torch.no_grad()
    def set_class_means(self, means: Tensor) -> None:
        """Initialise the first level's label images with means (K, C, H, H), in units of v."""
        self.levels[0].class_mean.copy_(squeeze(means))


def weighted_sum(y: Tensor, values: Tensor) -> Tensor:
    """sum_k y_k values[k]: (N, K), (K, C, h, w) -> (N, C, h, w)."""
    with fp32():
        return (y.to(values.dtype) @ values.flatten(1)).unflatten(1, values.shape[1:])


def state_of(params: Sequence[Tensor]) -> list[tuple]:
    """A value that differs as soon as a parameter was changed, moved or converted."""
    return [(p.data_ptr(), p.dtype, -1 if p.is_inference() else p._version) for p in params]


def apply_temperature(eps: Sequence[Tensor], temperature: float | Sequence[float]) -> list[Tensor]:
    """eps times a temperature: one for all levels, or one per level."""
    each = [temperature] * len(eps) if isinstance(temperature, (int, float)) else temperature
    return [e * t for e, t in zip(eps, each, strict=True)]


def _loaded(flow: GlowFlow, keys: Any) -> None:
    """After `load_state_dict`: restore `ready` and drop kept weights."""
    flow.ready = bool(flow.initialised)
    for level in flow.levels:
        level._kept.clear()
