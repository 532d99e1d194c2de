"""Bits per dimension of simple models, as baselines for a flow. numpy and Pillow only.

k (N, C, H, H): levels 0 .. 2^n - 1. Training levels come in batches and are never all in memory.
"""

import io
import math
from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor

SHEET_COLUMNS = 37
MAX_GAUSSIAN = 3072  # dimensions; a larger covariance matrix costs too much for a baseline
CHUNK = 512


class BaselineStats:
    """Sums over training images, batch by batch, from which the baselines are fitted."""

    def __init__(self, batches: Iterable[Tensor], shape: torch.Size, n_bits: int) -> None:
        self.n_bits, self.faces = n_bits, 0
        self.counts = torch.ones(shape[0], 2**n_bits, dtype=torch.float64)  # per channel and level, add-one smoothing
        # Sum of the cell centres (D,), and sum of their outer products (D, D).
        self.total: Tensor | float = 0.0
        self.products: Tensor | None = None
        if shape.numel() <= MAX_GAUSSIAN:
            self.products = torch.zeros(shape.numel(), shape.numel(), dtype=torch.float64)
        for k in batches:
            self.add(k)

    def add(self, k: Tensor) -> None:
        """Add a batch to the sums."""
        self.faces += len(k)
        for channel, counts in enumerate(self.counts):
            counts += torch.bincount(k[:, channel].flatten().long(), minlength=2**self.n_bits)
        if self.products is not None:
            x = cells(k, self.n_bits).double()
            self.total = self.total + x.sum(0)
            self.products.addmm_(x.T, x)


def density_baselines(train: Iterable[Tensor], test: Tensor, n_bits: int) -> dict[str, float]:
    """All baselines that apply, in bits/dim of the test images. Fitted ones use the batches of train."""
    stats = BaselineStats(train, test[0].shape, n_bits)
    found = {
        "training faces": stats.faces,
        "independent pixels": histogram_bits(stats, test),
        "png": sheet_bits(test, "PNG"),
        "webp lossless": sheet_bits(test, "WEBP"),
    }
    if stats.products is not None:
        bits = gaussian_bits(stats, test)
        found["gaussian, full covariance"] = bits.mean().item()
        found["gaussian, 95 % interval +-"] = 1.96 * bits.std().item() / math.sqrt(len(bits))
    return found


def histogram_bits(stats: BaselineStats, test: Tensor) -> float:
    """Independent pixels: a histogram of levels per channel over all training pixels, with add-one smoothing."""
    codes = -(stats.counts / stats.counts.sum(1, keepdim=True)).log2()
    bits = [code[test[:, channel].long()].mean().item() for channel, code in enumerate(codes)]
    return sum(bits) / len(bits)


def gaussian_bits(stats: BaselineStats, test: Tensor) -> Tensor:
    """A Gaussian with full covariance, fitted to the training levels plus the variance of the dequantisation noise ->
    (N,).

    The dequantisation bound, averaged over the noise in closed form: the quadratic form at the cell centre, plus the
    trace of the precision times the noise variance.
    """
    n_bits, dims = stats.n_bits, test[0].numel()
    noise, mean = 4.0**-n_bits / 12, stats.total / stats.faces
    covariance = stats.products / stats.faces - torch.outer(mean, mean) + noise * torch.eye(dims, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance)
    log_det = 2 * factor.diagonal().log().sum()
    trace = torch.linalg.solve_triangular(factor, torch.eye(dims, dtype=torch.float64), upper=False).square().sum()
    nats = []
    for part in cells(test, n_bits).split(CHUNK):
        white = torch.linalg.solve_triangular(factor, (part.double() - mean).T, upper=False)
        nats.append(0.5 * (white.square().sum(0) + noise * trace + log_det + dims * math.log(2 * math.pi)))
    return torch.cat(nats) / (dims * math.log(2)) + n_bits


def cells(k: Tensor, n_bits: int) -> Tensor:
    """Levels -> the centres of their cells, (N, D)."""
    return ((k.float() + 0.5) / 2**n_bits - 0.5).flatten(1)


def sheet_bits(k: Tensor, kind: str) -> float:
    """Bits per dimension of the levels, stored as one sheet of images in a lossless file. `kind`: PNG or WEBP.

    A sheet has up to 37 x 30 images in whole rows, so that the file header does not count.
    """
    columns = min(SHEET_COLUMNS, len(k))
    rows = max(1, min(30, len(k) // columns))
    used = k[: rows * columns]
    n, c, h, w = used.shape
    sheet = used.view(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    pixels = sheet.to(torch.uint8).numpy()
    picture = Image.fromarray(pixels[..., 0] if c == 1 else pixels)
    file = io.BytesIO()
    options = {"optimize": True} if kind == "PNG" else {"lossless": True, "quality": 100, "method": 6}
    picture.save(file, kind, **options)
    return 8 * file.tell() / used.numel()
