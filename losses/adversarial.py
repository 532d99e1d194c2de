"""GAN losses of a critic and a generator, and gradient penalties.

Scores are the raw outputs (logits) of a critic, of any shape: (N,), (N, 1) or patches (N, 1, P, P). A loss is the mean
over all scores.

| gan | critic | generator |
| --- | --- | --- |
| logistic | softplus(-real) + softplus(fake) | softplus(-fake), non-saturating |
| wgan | fake - real | -fake |

Sources:
    logistic: Goodfellow et al., "Generative Adversarial Networks" (arXiv 1406.2661)
    wgan: Arjovsky et al., "Wasserstein GAN" (arXiv 1701.07875), algorithm 1
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.precision import raised

GANS = ("logistic", "wgan")


def critic_loss(real: Tensor, fake: Tensor, gan: str) -> Tensor:
    """The critic's loss, a scalar. real, fake: its scores of real images and of detached generated images."""
    real, fake = raised(real), raised(fake)
    if gan == "logistic":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if gan == "wgan":
        return fake.mean() - real.mean()
    raise ValueError(f"gan: expected one of {', '.join(GANS)}, got {gan!r}")


def generator_loss(fake: Tensor, gan: str) -> Tensor:
    """The generator's loss, a scalar. fake: the critic's scores of generated images."""
    fake = raised(fake)
    if gan == "logistic":
        return F.softplus(-fake).mean()
    if gan == "wgan":
        return -fake.mean()
    raise ValueError(f"gan: expected one of {', '.join(GANS)}, got {gan!r}")


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient penalty of WGAN-GP: mean_n (|grad s(x)|_2 - 1)^2 with x = a real + (1 - a) fake, a ~ U(0, 1) per sample.

    Source: Gulrajani et al., "Improved Training of Wasserstein GANs" (arXiv 1704.00028), Eq. 3. The norm is over all
    values of a sample. s(x) is the sum of the scores of a sample (patches). Autocast is off inside; use `engine.fp32`
    to turn off TF32 as well.

    Args:
        critic: a function of x only. It must not mix samples (no BatchNorm) and must not be compiled (it is
            differentiated twice).
        real, fake: (N, ...), of the same shape.

    Returns:
        The unweighted penalty and the mean gradient norm, two scalars. The norm is detached.
    """
    assert real.shape == fake.shape, (real.shape, fake.shape)
    real, fake = raised(real).detach(), raised(fake).detach()
    a = torch.rand(len(real), *[1] * (real.dim() - 1), dtype=real.dtype, device=real.device)
    norm2 = _squared_gradient_norm(critic, a * real + (1 - a) * fake)
    norm = torch.sqrt(norm2 + 1e-12)  # sqrt at 0 has an infinite gradient
    return (norm - 1).square().mean(), norm.detach().mean()


def r1_penalty(critic: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """R1 penalty at real images: mean_n |grad s(x)|^2 / 2, unweighted, a scalar.

    Source: Mescheder et al., "Which Training Methods for GANs do actually Converge?" (arXiv 1801.04406), Eq. 9. The
    critic must meet the conditions of `gradient_penalty`.
    """
    return 0.5 * _squared_gradient_norm(critic, raised(real).detach()).mean()


def _squared_gradient_norm(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """|d s(x) / dx|^2 per sample (N,), where s is the sum of a sample's scores. The result is differentiable."""
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        x = x.requires_grad_()
        (grad,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return raised(grad).flatten(1).square().sum(1)
