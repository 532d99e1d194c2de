"""Gaussian formulas: sampling, divergences, likelihoods. Nats throughout; the name of each function says per what.

Symbols: mu, logvar (N, Z) a diagonal Gaussian; x, x_hat (N, C, H, W) in [-1, 1]; D = C H W; sigma in units of that
image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from losses.precision import raised

MIN_LOG_SIGMA2 = -12.0  # log sigma >= -6: a perfect reconstruction keeps a finite likelihood and gradient


def reparameterize(mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """z = mu + exp(logvar / 2) eps, eps ~ N(0, I): Kingma & Welling 1312.6114, section 2.4. Any equal shapes."""
    mu, logvar = raised(mu), raised(logvar)
    eps = torch.randn(mu.shape, dtype=mu.dtype, device=mu.device, generator=generator)
    return mu + torch.exp(0.5 * logvar) * eps


def kl_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(0, 1)) per dimension, no reduction: (mu^2 + e^l - l - 1) / 2. 1312.6114, appendix B.

    `expm1(l) - l` instead of `exp(l) - 1 - l`: near the prior the latter is all cancellation.
    """
    mu, logvar = raised(mu), raised(logvar)
    return 0.5 * (mu.square() + torch.expm1(logvar) - logvar)


def kl_gaussians(mu: Tensor, logvar: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(mu_p, e^logvar_p)) per dimension, no reduction; shapes broadcast.

    (l_p - l + (e^l + (mu - mu_p)^2) / e^l_p - 1) / 2, with d = l - l_p: (expm1(d) - d + (mu - mu_p)^2 e^-l_p) / 2.
    """
    mu, logvar, mu_p, logvar_p = (raised(t) for t in (mu, logvar, mu_p, logvar_p))
    d = logvar - logvar_p
    return 0.5 * (torch.expm1(d) - d + (mu - mu_p).square() * torch.exp(-logvar_p))


def gaussian_nll(x: Tensor, x_hat: Tensor, log_sigma2: Tensor | float, weight: Tensor | None = None) -> Tensor:
    """-log N(x; x_hat, sigma^2 I), nats per image: SSE / (2 sigma^2) + D log sigma + (D / 2) log 2 pi, summed over D.

    Gives (N,). log_sigma2: log of sigma^2, one number for the batch; weight: broadcasts over x and multiplies
    the squared error; with mean 1 over the image (`losses.pixels.face_weight`) sigma keeps its meaning.
    """
    x, x_hat = raised(x), raised(x_hat)
    log_sigma2 = torch.as_tensor(log_sigma2, dtype=x.dtype, device=x.device)
    error = _squared_error(x, x_hat, weight).flatten(1).sum(1)  # (N,)
    num_dims = x[0].numel()
    return 0.5 * (error * torch.exp(-log_sigma2) + num_dims * (log_sigma2 + math.log(2 * math.pi)))


def batch_log_sigma2(
    x: Tensor, x_hat: Tensor, weight: Tensor | None = None, average: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """log of the sigma^2 that fits this batch best, its mean squared error; a number without gradient, at least -12.

    The maximum-likelihood variance of sigma-VAE (Rybkin et al. 2006.13202, section 4.1), here one for the batch.
    average: takes the mean squared error and returns its mean over the ranks, so that two half batches calibrate as
    the whole one would.
    """
    mse = _squared_error(raised(x).detach(), raised(x_hat).detach(), weight).mean()
    if average is not None:
        mse = average(mse)
    return mse.clamp_min(math.exp(MIN_LOG_SIGMA2)).log()


def calibrated_nll(
    x: Tensor,
    x_hat: Tensor,
    log_sigma2: Tensor | float | None = None,
    weight: Tensor | None = None,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """`gaussian_nll` with the batch's own sigma (`batch_log_sigma2`), nats per image -> (N,).

    No gradient runs through sigma, yet the gradient of the mean equals that of (D / 2) log MSE. Evaluation gives the
    run's log_sigma2 instead: a test batch must not choose its own yardstick.
    """
    if log_sigma2 is None:
        log_sigma2 = batch_log_sigma2(x, x_hat, weight, average)
    return gaussian_nll(x, x_hat, log_sigma2, weight)


def _squared_error(x: Tensor, x_hat: Tensor, weight: Tensor | None) -> Tensor:
    error = (x - x_hat).square()
    return error if weight is None else error * weight.to(error)  # also to its device: fixed boxes are made on the CPU
