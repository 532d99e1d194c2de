"""Two players: what a critic and a generator minimise, and the penalties that keep a critic smooth.

Scores are a critic's raw outputs, of any shape ((N,), (N, 1), patches (N, 1, P, P)): losses are means over all of them.

| gan | critic | generator | source |
| --- | --- | --- | --- |
| logistic | softplus(-real) + softplus(fake) | softplus(-fake), non-saturating | Goodfellow et al. 1406.2661 |
| wgan | fake - real | -fake | Arjovsky et al. 1701.07875, algorithm 1 |
| hinge | relu(1 - real) + relu(1 + fake) | -fake | Lim & Ye 1705.02894; Miyato et al. 1802.05957, Eq. 16-17 |
| lsgan | ((real - 1)^2 + fake^2) / 2 | (fake - 1)^2 / 2 | Mao et al. 1611.04076, Eq. 9 |
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.precision import raised

GANS = ("logistic", "wgan", "hinge", "lsgan")


def critic_loss(real: Tensor, fake: Tensor, gan: str) -> Tensor:
    """What the critic minimises, given its scores of real and of (detached) generated images; a scalar."""
    real, fake = raised(real), raised(fake)
    if gan == "logistic":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if gan == "wgan":
        return fake.mean() - real.mean()
    if gan == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if gan == "lsgan":
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())
    raise ValueError(f"gan: expected one of {', '.join(GANS)}, got {gan!r}")


def generator_loss(fake: Tensor, gan: str) -> Tensor:
    """What the generator minimises, given the critic's scores of its images; a scalar."""
    fake = raised(fake)
    if gan == "logistic":
        return F.softplus(-fake).mean()
    if gan in ("wgan", "hinge"):
        return -fake.mean()
    if gan == "lsgan":
        return 0.5 * (fake - 1).square().mean()
    raise ValueError(f"gan: expected one of {', '.join(GANS)}, got {gan!r}")


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """WGAN-GP: mean_n (|grad s(x)|_2 - 1)^2 at points x between real and fake.

    -> the penalty, unweighted; the mean norm, without gradient. Gulrajani et al. 1704.00028, Eq. 3: x = a real + (1 -
    a) fake, a ~ U(0, 1) one per *sample*; the norm runs over all of an image's values (or a code's), the scalar is the
    *sum* of an image's scores (patches). critic: a function of x alone (close over labels); it must not mix the
    samples of a batch (no BatchNorm), and must not be a compiled call (it is differentiated twice). Autocast is off
    inside; the caller's `fp32()` also turns TF32 off.
    """
    assert real.shape == fake.shape, (real.shape, fake.shape)
    real, fake = raised(real).detach(), raised(fake).detach()
    a = torch.rand(len(real), *[1] * (real.dim() - 1), dtype=real.dtype, device=real.device)
    norm2 = _squared_gradient_norm(critic, a * real + (1 - a) * fake)
    norm = torch.sqrt(norm2 + 1e-12)  # sqrt at 0 has an infinite gradient
    return (norm - 1).square().mean(), norm.detach().mean()


def r1_penalty(critic: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """R1: half the mean squared gradient norm at real images, mean_n |grad s(x)|^2 / 2, unweighted; a scalar.

    Mescheder et al. 1801.04406, Eq. 9. What `gradient_penalty` asks of its critic holds here.
    """
    return 0.5 * _squared_gradient_norm(critic, raised(real).detach()).mean()


def _squared_gradient_norm(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """|d (sum of an image's scores) / dx|^2 per image (N,), itself differentiable, even for a no_grad caller."""
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        x = x.requires_grad_()
        (grad,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return raised(grad).flatten(1).square().sum(1)
