"""Bits per dimension without a network: what a flow's figure must be read beside. numpy and Pillow only.

k (N, C, H, H): levels 0 .. 2^n - 1.
"""

import io
import math

import torch
from PIL import Image
from torch import Tensor

SHEET_COLUMNS = 37
MAX_GAUSSIAN = 3072  # dimensions; beyond, a covariance matrix is no yardstick but a computation
CHUNK = 512


def yardsticks(train: Tensor, test: Tensor, n_bits: int) -> dict[str, float]:
    """Every yardstick that applies, of the test images; those that learn, learn from train."""
    found = {
        "independent pixels": histogram_bits(train, test, n_bits),
        "png": sheet_bits(test, "PNG"),
        "webp lossless": sheet_bits(test, "WEBP"),
    }
    if test[0].numel() <= MAX_GAUSSIAN:
        bits = gaussian_bits(train, test, n_bits)
        found["gaussian, full covariance"] = bits.mean().item()
        found["gaussian, 95 % interval +-"] = 1.96 * bits.std().item() / math.sqrt(len(bits))
    return found


def histogram_bits(train: Tensor, test: Tensor, n_bits: int) -> float:
    """Each channel's levels counted over all training pixels (one added to each count), pixels independent."""
    bits = 0.0
    for channel in range(test.shape[1]):
        counts = torch.bincount(train[:, channel].flatten().long(), minlength=2**n_bits).double() + 1
        code = -(counts / counts.sum()).log2()
        bits += code[test[:, channel].long()].mean().item()
    return bits / test.shape[1]


def gaussian_bits(train: Tensor, test: Tensor, n_bits: int) -> Tensor:
    """One Gaussian with full covariance, fitted to the training levels with the noise's variance added -> (N,).

    The bound of a dequantised density, its mean over the noise taken exactly: the middle of the cell's quadratic form
    plus the trace of the precision times the noise's variance.
    """
    noise = 4.0**-n_bits / 12
    x, dims = cells(train, n_bits), test[0].numel()
    mean = x.mean(0, dtype=torch.float64)
    covariance = torch.zeros(dims, dims, dtype=torch.float64)
    for part in x.split(CHUNK * 8):
        part = part.double() - mean
        covariance += part.T @ part
    covariance = covariance / len(x) + noise * torch.eye(dims, dtype=torch.float64)
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
