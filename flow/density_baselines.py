"""Bits per dimension without a network: what a flow's figure must be read beside. numpy and Pillow only.

k (N, C, H, H): levels 0 .. 2^n - 1. Training levels come in batches and are never held together.
"""

import io
import math
from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor

SHEET_COLUMNS = 37
MAX_GAUSSIAN = 3072  # dimensions; beyond, a covariance matrix is no yardstick but a computation
CHUNK = 512


class BaselineStats:
    """What the baselines that are fitted learn from training images, batch by batch."""

    def __init__(self, batches: Iterable[Tensor], shape: torch.Size, n_bits: int) -> None:
        self.n_bits, self.faces = n_bits, 0
        self.counts = torch.ones(shape[0], 2**n_bits, dtype=torch.float64)  # of levels a channel, one added to each
        self.total: Tensor | float = 0.0  # (D,), the sum of the cells' middles, and (D, D) that of their products
        self.products: Tensor | None = None
        if shape.numel() <= MAX_GAUSSIAN:
            self.products = torch.zeros(shape.numel(), shape.numel(), dtype=torch.float64)
        for k in batches:
            self.add(k)

    def add(self, k: Tensor) -> None:
        """Count a batch."""
        self.faces += len(k)
        for channel, counts in enumerate(self.counts):
            counts += torch.bincount(k[:, channel].flatten().long(), minlength=2**self.n_bits)
        if self.products is not None:
            x = cells(k, self.n_bits).double()
            self.total = self.total + x.sum(0)
            self.products.addmm_(x.T, x)


def density_baselines(train: Iterable[Tensor], test: Tensor, n_bits: int) -> dict[str, float]:
    """Every yardstick that applies, of the test images; those that learn, learn from the batches of train."""
    learnt = BaselineStats(train, test[0].shape, n_bits)
    found = {
        "training faces": learnt.faces,
        "independent pixels": histogram_bits(learnt, test),
        "png": sheet_bits(test, "PNG"),
        "webp lossless": sheet_bits(test, "WEBP"),
    }
    if learnt.products is not None:
        bits = gaussian_bits(learnt, test)
        found["gaussian, full covariance"] = bits.mean().item()
        found["gaussian, 95 % interval +-"] = 1.96 * bits.std().item() / math.sqrt(len(bits))
    return found


def histogram_bits(learnt: BaselineStats, test: Tensor) -> float:
    """Each channel's levels counted over all training pixels (one added to each count), pixels independent."""
    codes = -(learnt.counts / learnt.counts.sum(1, keepdim=True)).log2()
    bits = [code[test[:, channel].long()].mean().item() for channel, code in enumerate(codes)]
    return sum(bits) / len(bits)


def gaussian_bits(learnt: BaselineStats, test: Tensor) -> Tensor:
    """One Gaussian with full covariance, fitted to the training levels with the noise's variance added -> (N,).

    The bound of a dequantised density, its mean over the noise taken exactly: the middle of the cell's quadratic form
    plus the trace of the precision times the noise's variance.
    """
    n_bits, dims = learnt.n_bits, test[0].numel()
    noise, mean = 4.0**-n_bits / 12, learnt.total / learnt.faces
    covariance = learnt.products / learnt.faces - torch.outer(mean, mean) + noise * torch.eye(dims, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance)
    log_det = 2 * factor.diagonal().log().sum()
    trace = torch.linalg.solve_triangular(factor, torch.eye(dims, dtype=torch.float64), upper=False).square().sum()
    nats = []
    for part in cells(test, n_bits).split(CHUNK):
        white = torch.linalg.solve_triangular(factor, (part.double() - mean).T, upper=False)
        nats.append(0.5 * (white.square().sum(0) + noise * trace + log_det + dims * math.log(2 * math.pi)))
    return torch.cat(nats) / (dims * math.log(2)) + n_bits


def cells(k: Tensor, n_bits: int) -> Tensor:
    """Levels -> the middles of their cells, (N, D)."""
    return ((k.float() + 0.5) / 2**n_bits - 0.5).flatten(1)


def sheet_bits(k: Tensor, kind: str) -> float:
    """The levels as one sheet of pictures, in a lossless file: its bits for each dimension. `kind`: PNG or WEBP.

    A sheet of up to 37 x 30 pictures (whole rows), so that headers weigh nothing.
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
