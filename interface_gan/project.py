"""Inversion: find ws whose image is similar to a face, by gradient descent (StyleGAN2, appendix D).

First one style for all layers (W), then one style per layer (W+, "Image2StyleGAN", https://arxiv.org/abs/1904.03189).
The noise maps are not optimized, because what they encode cannot be edited. A face's result does not depend on the
other faces of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from interface_gan.codes import Stats, draw_z, map_z
from interface_gan.model import Generator

Maps = Callable[[Tensor], list[Tensor]]  # images (N, C, H, H) -> feature maps, each (N, C', H', W')
RISE, FALL = 0.05, 0.25  # shares of the steps during which the learning rate rises and falls
NOISE_UNTIL = 0.75  # no noise is added to the code after this share of the steps in W
STARTS_NUM, STARTS_SEED = 2000, 11


@dataclass(frozen=True)
class Options:
    """Options of the inversion, chosen on validation faces (README)."""

    starts: int = 1  # number of start codes per face: the nearest sampled codes
    steps_w: int = 100
    lr_w: float = 0.1
    noise: float = 0.05  # noise on the code at the first step, in standard deviations of w
    steps_plus: int = 150  # steps in W+; 0 = stay in W
    lr_plus: float = 0.05
    lambda_typical: float = 0.01  # weight of the code's typicality
    lambda_offset: float = 0.0  # weight of the layers' squared distance from their mean, W+ only


DEFAULT = Options()
AFTER_ENCODER = Options(steps_w=0, steps_plus=30)


@dataclass(frozen=True)
class Projection:
    """ws (N, L, Z); x_hat (N, C, H, H), clamped; residual (N,), the distance; typicality (N,), about 1 for samples."""

    ws: Tensor
    x_hat: Tensor
    residual: Tensor
    typicality: Tensor


def distance(x_hat: Tensor, x: Tensor, maps: Maps, known: list[Tensor] | None = None) -> Tensor:
    """Distance of images (N,): squared differences of normalized feature maps, plus L1 of pixels at three scales.

        sum_l mean_HW sum_C (phi_l(x_hat) - phi_l(x))^2 + sum_{s = 1, 2, 4} mean |pool_s(x_hat) - pool_s(x)|

    phi: feature maps with unit norm over channels, as in LPIPS (https://arxiv.org/abs/1801.03924, Eq. 1) without its
    weights. known: `unit_maps` of x, if already computed.
    """
    total = x.new_zeros(len(x))
    for a, b in zip(unit_maps(x_hat, maps), known or unit_maps(x, maps), strict=True):
        total = total + (a - b).square().sum(1).mean((1, 2))
    for s in (1, 2, 4):
        error = F.avg_pool2d(x_hat, s) - F.avg_pool2d(x, s)
        total = total + error.abs().mean((1, 2, 3))
    return total


def unit_maps(x: Tensor, maps: Maps) -> list[Tensor]:
    """Feature maps with unit norm over channels."""
    return [F.normalize(phi, dim=1) for phi in maps(x)]


@torch.enable_grad()
def project(
    generator: Generator,
    maps: Maps,
    stats: Stats,
    x: Tensor,
    options: Options = DEFAULT,
    start: Tensor | None = None,
) -> Projection:
    """Find codes of faces x (N, C, H, H) in [-1, 1], on their device. The generator's weights need no gradient.

    stats: the distribution of w. start: ws (N, L, Z) of an encoder, from which the steps in W+ start; by default they
    start at the result in W. Do not call it under `torch.inference_mode`.
    """
    with torch.no_grad():
        known = unit_maps(x, maps)
    ws = start if start is not None else project_w(generator, maps, stats, x, options, known)

    def loss_plus(ws: Tensor, step: int) -> Tensor:
        error = distance(generator.synthesis(ws), x, maps, known)
        apart = (ws - ws.mean(1, keepdim=True)).square().sum(2).mean(1)
        return error + options.lambda_typical * stats.distance(ws).mean(1) + options.lambda_offset * apart

    if options.steps_plus:
        ws, _ = descend(ws, loss_plus, options.steps_plus, options.lr_plus)
    with torch.no_grad():
        x_hat = generator.synthesis(ws)
        return Projection(ws, x_hat.clamp(-1, 1), distance(x_hat, x, maps, known), stats.typicality(ws))


def project_w(
    generator: Generator, maps: Maps, stats: Stats, x: Tensor, options: Options, known: list[Tensor]
) -> Tensor:
    """Codes of faces in W, one style for all layers: ws (N, L, Z). known: `unit_maps` of x."""
    n, k = len(x), options.starts
    std = stats.cov.diagonal().sum().div(len(stats.mean)).sqrt().item()  # root mean square deviation of w
    w = nearest_codes(generator, maps, x, k).flatten(0, 1)  # (N k, Z)
    many = x.repeat_interleave(k, 0)
    with torch.no_grad():
        known_many = [phi.repeat_interleave(k, 0) for phi in known]

    def loss_w(w: Tensor, step: int) -> Tensor:
        t = step / max(1, options.steps_w)
        scale = options.noise * std * max(0.0, 1 - t / NOISE_UNTIL) ** 2
        seeded = torch.Generator().manual_seed(step)
        noisy = w + scale * torch.randn(w.shape[1], generator=seeded).to(w)  # the same noise for all faces
        error = distance(generator.synthesis(generator.broadcast(noisy)), many, maps, known_many)
        return error + options.lambda_typical * stats.distance(w)

    w, error = descend(w, loss_w, options.steps_w, options.lr_w)
    best = error.unflatten(0, (n, k)).argmin(1)
    return generator.broadcast(w.unflatten(0, (n, k))[torch.arange(n), best]).clone()  # (N, L, Z)


@torch.no_grad()
def nearest_codes(generator: Generator, maps: Maps, x: Tensor, k: int) -> Tensor:
    """The k sampled w, of STARTS_NUM, whose images are nearest to each face: (N, k, Z)."""
    w = map_z(generator, draw_z(STARTS_NUM, len(generator.mapping.w_avg), STARTS_SEED)).to(x.device)
    parts = [_thumbnails(generator.synthesis(generator.broadcast(part)), maps) for part in w.split(256)]
    near = torch.cdist(_thumbnails(x, maps), torch.cat(parts)).topk(k, largest=False).indices  # (N, k)
    return w[near]


def _thumbnails(x: Tensor, maps: Maps) -> Tensor:
    """Features for the choice of start codes: pixels at 8 x 8, and the mean of the coarsest feature map."""
    small = F.adaptive_avg_pool2d(x, 8).flatten(1) / math.sqrt(64 * x.shape[1])
    feature = F.normalize(maps(x)[-1], dim=1).mean((2, 3))
    return torch.cat([small, feature], 1)


def descend(start: Tensor, loss: Callable[[Tensor, int], Tensor], steps: int, lr: float) -> tuple[Tensor, Tensor]:
    """Minimize the loss of each row of `start` with Adam. Returns the final codes (N, ...) and their losses (N,)."""
    codes = start.detach().clone().requires_grad_()
    adam = torch.optim.Adam([codes], lr)
    for step in range(steps):
        t = step / steps
        rate = min(1.0, (t + 1 / steps) / RISE, 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / FALL)))
        adam.param_groups[0]["lr"] = lr * rate
        (codes.grad,) = torch.autograd.grad(loss(codes, step).sum(), codes)
        adam.step()
    with torch.no_grad():
        return codes.detach(), loss(codes, steps)


def percentile(value: Tensor, reference: Tensor) -> Tensor:
    """The percentage of `reference` (M,) that is smaller than each value (N,), in 0 .. 100."""
    return 100 * (reference[None] < value[:, None]).float().mean(1)
