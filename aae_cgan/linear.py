"""The linear path: a frozen PCA in parallel with encoder and generator. PCA is the best linear autoencoder.

The networks learn only the residual. Codes of training faces have mean 0 and covariance I from the start, and the
untrained model already reconstructs. The PCA must not be trained: one step of Adam changes a code by up to
lr |x - mean|_1, which is 0.2 standard deviations at lr 2e-4 and 48 px.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from engine import fp32

MAX_EXACT_DIM = 4096  # dimensions up to which the covariance is decomposed exactly
MAX_FACES = 20_000  # faces for the randomised decomposition
MIN_SCALE = 1e-3  # least standard deviation, for directions without variance


@dataclass
class PCAFit:
    """mean (D,), basis (D, Z) orthonormal, scale (Z,) standard deviations, `psnr` of its reconstructions in dB."""

    mean: Tensor
    basis: Tensor
    scale: Tensor
    psnr: float


class LinearPath(nn.Module):
    """encode: whitened PCA coefficients; decode: back to pixels. Buffers only; a deep copy returns the same object."""

    def __init__(self, channels: int, image_size: int, latent_dim: int) -> None:
        super().__init__()
        self.shape = (channels, image_size, image_size)
        dims = channels * image_size**2
        self.register_buffer("mean", torch.zeros(dims))
        self.register_buffer("basis", torch.zeros(dims, latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))

    def __deepcopy__(self, memo: dict) -> "LinearPath":
        return self

    def set(self, fit: PCAFit) -> None:
        """Copy a fit into the buffers."""
        for name in ("mean", "basis", "scale"):
            getattr(self, name).copy_(getattr(fit, name))

    def encode(self, x: Tensor) -> Tensor:
        """(N, C, H, H) -> (N, Z)."""
        with fp32():
            return (x.float().flatten(1) - self.mean) @ self.basis / self.scale

    def decode(self, z: Tensor) -> Tensor:
        """(N, Z) -> (N, C, H, H)."""
        with fp32():
            return ((z.float() * self.scale) @ self.basis.T + self.mean).unflatten(1, self.shape)


def fit_linear(batches: Iterable[Tensor], latent_dim: int, mirrored: bool = True) -> PCAFit:
    """PCA of images, given in batches (N, C, H, W) in [-1, 1]; `mirrored`: of them and their mirror images.

    Exact and in float64 up to 4096 dimensions; above, randomised (seeded) on the first 20,000 faces.
    """
    batches = iter(batches)
    first = next(batches)
    shape, dims = first.shape[1:], first[0].numel()
    assert latent_dim <= dims, (latent_dim, dims)
    if dims > MAX_EXACT_DIM:
        return _fit_randomised(first, batches, latent_dim, mirrored)
    count, total = 0, torch.zeros(dims, dtype=torch.float64, device=first.device)
    products = torch.zeros(dims, dims, dtype=torch.float64, device=first.device)
    for x in chain([first], batches):
        rows = x.flatten(1).double()
        count, total, products = count + len(rows), total + rows.sum(0), products.addmm_(rows.T, rows)
    mean, second = total / count, products / count
    if mirrored:  # moments of the mirror images: the same with permuted pixels
        place = torch.arange(dims, device=first.device).view(shape).flip(-1).flatten()
        mean, second = (mean + mean[place]) / 2, (second + second[place][:, place]) / 2
    values, vectors = torch.linalg.eigh(second - torch.outer(mean, mean))
    values, basis = values.flip(0).clamp_min(0), vectors.flip(1)[:, :latent_dim]
    return _pca_fit(mean, basis, values[:latent_dim], float(values[latent_dim:].sum() / dims))


def _fit_randomised(first: Tensor, batches: Iterable[Tensor], latent_dim: int, mirrored: bool) -> PCAFit:
    parts, count = [], 0
    for x in chain([first], batches):
        if mirrored and len(parts) % 2:
            x = x.flip(-1)
        parts.append(x.flatten(1).float())
        count += len(x)
        if count >= MAX_FACES:
            break
    rows = torch.cat(parts)[:MAX_FACES]
    mean = rows.mean(0)
    rows = rows - mean
    with torch.random.fork_rng(devices=[rows.device] if rows.is_cuda else []):
        torch.manual_seed(0)
        _, singular, basis = torch.pca_lowrank(rows, q=min(latent_dim + 16, *rows.shape), center=False, niter=4)
    values = (singular.square() / len(rows)).double()
    left = rows.square().sum(1).mean().double() - values[:latent_dim].sum()
    return _pca_fit(mean, basis[:, :latent_dim], values[:latent_dim], float(left / rows.shape[1]))


def _pca_fit(mean: Tensor, basis: Tensor, variances: Tensor, error: float) -> PCAFit:
    # The sign of an eigenvector is arbitrary: make its largest entry positive.
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    scale = variances.sqrt().clamp_min(MIN_SCALE)
    psnr = 10 * torch.log10(torch.tensor(4 / max(error, 1e-10))).item()
    return PCAFit(mean.float(), (basis * largest.sign()).float(), scale.float(), psnr)
