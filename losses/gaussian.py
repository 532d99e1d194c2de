"""Gaussian distributions: sampling, KL divergences, negative log-likelihoods (NLL). All values are in nats.

Symbols: mu, logvar (N, Z) are a diagonal Gaussian. x, x_hat (N, C, H, W) are images in [-1, 1]. D = C H W. sigma has
the unit of the image values.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from losses.precision import raised

MIN_LOG_SIGMA2 = -12.0  # log sigma >= -6: likelihood and gradient of a perfect reconstruction stay finite


def reparameterize(mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Sample z = mu + exp(logvar / 2) eps with eps ~ N(0, I). mu and logvar have the same shape, and so has z.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (arXiv 1312.6114), section 2.4.
    """
    mu, logvar = raised(mu), raised(logvar)
    eps = torch.randn(mu.shape, dtype=mu.dtype, device=mu.device, generator=generator)
    return mu + torch.exp(0.5 * logvar) * eps


def kl_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(0, 1)) = (mu^2 + e^logvar - logvar - 1) / 2 per dimension, without reduction.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (arXiv 1312.6114), appendix B. The code uses expm1,
    because exp(logvar) - 1 loses all digits near the prior.
    """
    mu, logvar = raised(mu), raised(logvar)
    return 0.5 * (mu.square() + torch.expm1(logvar) - logvar)


def kl_gaussians(mu: Tensor, logvar: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(mu_p, e^logvar_p)) per dimension, without reduction. Shapes broadcast.

    With d = logvar - logvar_p it is (expm1(d) - d + (mu - mu_p)^2 e^-logvar_p) / 2.
    """
    mu, logvar, mu_p, logvar_p = (raised(t) for t in (mu, logvar, mu_p, logvar_p))
    d = logvar - logvar_p
    return 0.5 * (torch.expm1(d) - d + (mu - mu_p).square() * torch.exp(-logvar_p))


def gaussian_nll(x: Tensor, x_hat: Tensor, log_sigma2: Tensor | float, weight: Tensor | None = None) -> Tensor:
    """-log N(x; x_hat, sigma^2 I) in nats per image (N,), summed over the D pixels of an image.

    It is SSE / (2 sigma^2) + D log sigma + (D / 2) log 2 pi, with SSE the sum of squared errors.

    Args:
        x, x_hat: images and reconstructions.
        log_sigma2: log sigma^2, one number for the batch.
        weight: factor of the squared error; it broadcasts over x. Its mean over an image should be 1
            (`losses.pixels.face_weight`), so that sigma keeps its unit.
    """
    x, x_hat = raised(x), raised(x_hat)
    log_sigma2 = torch.as_tensor(log_sigma2, dtype=x.dtype, device=x.device)
    error = _squared_error(x, x_hat, weight).flatten(1).sum(1)  # (N,)
    num_dims = x[0].numel()
    return 0.5 * (error * torch.exp(-log_sigma2) + num_dims * (log_sigma2 + math.log(2 * math.pi)))


def batch_log_sigma2(
    x: Tensor, x_hat: Tensor, weight: Tensor | None = None, average: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """log of the maximum-likelihood sigma^2 of a batch, which is its mean squared error. A scalar without gradient.

    Source: Rybkin et al., "Simple and Effective VAE Training with Calibrated Decoders" (arXiv 2006.13202), section
    4.1; here with one variance per batch. The value is at least -12.

    Args:
        x, x_hat, weight: as for `gaussian_nll`.
        average: the mean of a number over ranks (`engine.mean_over_ranks`). With it, sigma is that of the whole batch.
    """
    mse = _squared_error(raised(x).detach(), raised(x_hat).detach(), weight).mean()
    if average is not None:
        mse = average(mse)
    return mse.clamp_min(math.exp(MIN_LOG_SIGMA2)).log()


def calibrated_nll(x: Tensor, x_hat: Tensor, average: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """`gaussian_nll` with the sigma of the batch (`batch_log_sigma2`), in nats per image (N,).

    Sigma has no gradient; still, the gradient of the mean equals the gradient of (D / 2) log MSE.
    """
    return gaussian_nll(x, x_hat, batch_log_sigma2(x, x_hat, average=average))


def _squared_error(x: Tensor, x_hat: Tensor, weight: Tensor | None) -> Tensor:
    error = (x - x_hat).square()
    return error if weight is None else error * weight.to(error)  # weights of fixed boxes may be on the CPU
