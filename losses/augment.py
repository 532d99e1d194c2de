"""DiffAugment: random differentiable augmentation of a critic's inputs, both real and fake.

Use it for small data sets, because a critic memorizes them without it. Source: Zhao et al., "Differentiable
Augmentation for Data-Efficient GAN Training" (arXiv 2006.10738). `jitter` is for the inputs of a guide (a classifier in
a loss).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("color", "translation", "cutout", "noise")
SHIFT = 1 / 8  # largest shift in each direction, as a share of the side
CUT = 1 / 2  # side of the cutout, as a share of the side
NOISE = 0.1  # standard deviation of the added noise


def diff_augment(x: Tensor, kinds: str) -> Tensor:
    """x (N, C, H, H) in [-1, 1]; kinds: "color,translation,cutout" or some of them, "" = nothing."""
    for kind in filter(None, kinds.split(",")):
        x = {"color": color, "translation": translation, "cutout": cutout, "noise": noise}[kind](x)
    return x


def color(x: Tensor) -> Tensor:
    """Random brightness (added value in [-0.5, 0.5]), saturation (factor 0 .. 2) and contrast (factor 0.5 .. 1.5)."""
    u = torch.rand(3, len(x), 1, 1, 1, device=x.device)
    x = x + (u[0] - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * 2 * u[1]
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (u[2] + 0.5)


def translation(x: Tensor) -> Tensor:
    """Random shift by whole pixels, up to 1/8 of the side. New pixels are 0."""
    return shifted(x, round(x.shape[-1] * SHIFT), "constant")


def noise(x: Tensor) -> Tensor:
    """Add white noise, which hides the grain of images from the critic.

    Source: Sonderby et al., "Amortised MAP Inference for Image Super-resolution", section 3 (instance noise).
    """
    return x + NOISE * torch.randn_like(x)


def cutout(x: Tensor) -> Tensor:
    """Set a random square with half the side of the image to 0. It may cross the border."""
    n, side = len(x), x.shape[-1]
    half = round(side * CUT) // 2
    centre = torch.randint(side, (2, n, 1), device=x.device)
    place = torch.arange(side, device=x.device)
    rows, columns = ((place >= c - half) & (place < c + half) for c in centre)  # (N, H)
    return x * ~(rows[:, :, None] & columns[:, None, :])[:, None]


def jitter(x: Tensor, noise: float = 0.03) -> Tensor:
    """Random shift by up to 1/24 of the side, plus Gaussian noise. It makes adversarial patterns less effective."""
    return shifted(x, max(1, x.shape[-1] // 24), "replicate") + noise * torch.randn_like(x)


def shifted(x: Tensor, reach: int, mode: str) -> Tensor:
    """Shift each image by a random whole number of pixels in -reach .. reach, per axis. `mode`: padding of `F.pad`."""
    n, c, height, width = x.shape
    padded = F.pad(x, [reach] * 4, mode=mode)
    offset = torch.randint(2 * reach + 1, (2, n, 1), device=x.device)
    rows = offset[0] + torch.arange(height, device=x.device)  # (N, H)
    columns = offset[1] + torch.arange(width, device=x.device)  # (N, W)
    padded = padded.gather(2, rows[:, None, :, None].expand(n, c, height, padded.shape[3]))
    return padded.gather(3, columns[:, None, None, :].expand(n, c, height, width))
