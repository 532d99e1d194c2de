"""The KL terms of the five objectives: tensors in, tensors out. Nats, batch means.

z, mu, logvar: (B, Z), one sample and its posterior per row. Symbols and equations: README, "The mathematics".
"""

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOG_2PI = math.log(2 * math.pi)
CHUNK = 2**26  # largest number of elements of a (B, B, Z) table of densities in memory


def decompose_kl(
    z: Tensor, mu: Tensor, logvar: Tensor, num_train: int, estimator: str = "mss", chunk: int = CHUNK
) -> tuple[Tensor, Tensor, Tensor]:
    """KL(q(z|x) || p(z)) split into mutual information, total correlation and dimension-wise KL: three scalars.

    Paper: "Isolating Sources of Disentanglement in Variational Autoencoders", https://arxiv.org/abs/1802.04942, eq. 2.
    The aggregate posterior q(z) is estimated from the batch. `mss`: stratified, for a batch drawn without replacement
    from `num_train` images; MI is then at most log(num_train). `mws`: weighted, without constants in log(num_train);
    MI is then at most log(B). The three terms sum to mean(log q(z|x) - log p(z)) exactly. Above `chunk` elements the
    table is computed in slices of Z, and again in the backward pass. Needs 2 <= B <= num_train.
    """
    batch, latent_dim = z.shape
    assert 2 <= batch <= num_train, f"a batch of {batch} of {num_train} images: the total correlation needs 2 <= B <= N"
    dtype = torch.promote_types(z.dtype, torch.float32)
    z, mu, logvar = z.to(dtype), mu.to(dtype), logvar.to(dtype)
    if estimator == "mss":
        # (B, B), added once to the joint and once to each marginal
        log_weight = mss_log_weights(batch, num_train).to(z)
    else:  # the paper's 1 / (N B) would add the constant (Z - 1) ln N to the total correlation; no gradient changes
        log_weight = z.new_full((batch, batch), -math.log(batch))

    def densities(part: slice) -> tuple[Tensor, Tensor]:
        a = log_density(z[:, None, part], mu[None, :, part], logvar[None, :, part])  # (B, B, z)
        return a.sum(2), torch.logsumexp(a + log_weight[:, :, None], dim=1).sum(1)  # (B, B), (B,)

    width = max(1, chunk // batch**2)
    if width >= latent_dim:
        joint, marginals = densities(slice(None))
    else:
        parts = [slice(i, i + width) for i in range(0, latent_dim, width)]
        sums = [checkpoint(densities, part, use_reentrant=False) for part in parts]
        joint, marginals = (torch.stack(column).sum(0) for column in zip(*sums, strict=True))

    log_qz = torch.logsumexp(joint + log_weight, dim=1)  # log q(z_i)
    log_qz_x = log_density(z, mu, logvar).sum(1)  # log q(z_i | x_i)
    log_pz = -0.5 * (z.square() + LOG_2PI).sum(1)
    return (log_qz_x - log_qz).mean(), (log_qz - marginals).mean(), (marginals - log_pz).mean()


def log_density(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; mu, exp(logvar)), elementwise, with broadcasting."""
    return -0.5 * ((z - mu).square() * torch.exp(-logvar) + logvar + LOG_2PI)


def mss_log_weights(batch: int, num_train: int) -> Tensor:
    """Logarithms of the (B, B) stratified weights, in float64; each row of weights sums to 1.

    Row i belongs to the code of image i. Its own density has weight 1 / N. The other B - 1 images represent the
    remaining N - 1 images. The next image has the weight that makes the estimate unbiased.
    """
    n, m = num_train, batch - 1
    weights = torch.full((batch, batch), 1 / m, dtype=torch.float64)
    i = torch.arange(batch)
    weights[i, (i + 1) % batch] = (n - m) / (n * m)
    weights[i, i] = 1 / n
    return weights.log()


def permute_dims(z: Tensor) -> Tensor:
    """Shuffle each column of z (B, Z) over the batch: a sample of the product of marginals (FactorVAE, algorithm 1)."""
    return z.gather(0, torch.rand_like(z).argsort(0))


def linear_capacity(step: int, capacity: float, steps: int) -> float:
    """C(t) in nats: from 0 at step 0 to `capacity` at `steps`, constant afterwards (capacity annealing, section 5)."""
    return capacity * min(1.0, step / max(1, steps))


def warm_up(step: int, steps: int) -> float:
    """KL warm-up min(1, t / T); 1 for T = 0. After https://arxiv.org/abs/1511.06349."""
    return min(1.0, step / steps) if steps else 1.0


def beta_effective(beta: float, sigma: float) -> float:
    """Weight of the KL relative to half the squared error, summed over an image in [0, 1]. Comparable between
    codebases.

    The factor 1/2 is there because sigma is in units of the image in [-1, 1].
    """
    return beta * (sigma / 2) ** 2


def peer_weights(beta_eff: float, dimensions: int) -> dict[str, float]:
    """`beta_eff` in the conventions of public code, for images in [0, 1]; dimensions = C H W.

    The KL weight relative to the mean squared error, to 255 times the squared error, and to the squared error.
    """
    return {
        "AntixK kld_weight": 2 * beta_eff / dimensions,
        'YannDubs "gaussian" beta': 510 * beta_eff,
        "SSE + beta KL": 2 * beta_eff,
    }
