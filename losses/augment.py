"""DiffAugment (Zhao et al. 2006.10738): the image critic sees real faces and fakes through the same random changes.

For small sets, where a critic otherwise learns the faces by heart. Gradients pass through. `jitter` is the guide's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 1 / 8  # of the side, each way
CUT = 1 / 2  # of the side


def diff_augment(x: Tensor, kinds: str) -> Tensor:
    """x (N, C, H, H) in [-1, 1]; kinds: "color,translation,cutout" or some of them, "" = nothing."""
    for kind in filter(None, kinds.split(",")):
        x = {"color": color, "translation": translation, "cutout": cutout}[kind](x)
    return x


def color(x: Tensor) -> Tensor:
    """Brightness by up to 0.5 of the range each way, saturation 0 .. 2, contrast 0.5 .. 1.5."""
    u = torch.rand(3, len(x), 1, 1, 1, device=x.device)
    x = x + (u[0] - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * 2 * u[1]
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (u[2] + 0.5)


def translation(x: Tensor) -> Tensor:
    """Shifted by whole pixels, up to an eighth of the side; what comes in is 0."""
    return shifted(x, round(x.shape[-1] * SHIFT), "constant")


def cutout(x: Tensor) -> Tensor:
    """A square of half the side is set to 0, anywhere; it may reach over the edge."""
    n, side = len(x), x.shape[-1]
    half = round(side * CUT) // 2
    centre = torch.randint(side, (2, n, 1), device=x.device)
    place = torch.arange(side, device=x.device)
    rows, columns = ((place >= c - half) & (place < c + half) for c in centre)  # (N, H)
    return x * ~(rows[:, :, None] & columns[:, None, :])[:, None]


def jitter(x: Tensor, noise: float = 0.03) -> Tensor:
    """Shifted by up to a 24th of the side, with a little noise: a fixed pattern fools no network that sees this."""
    return shifted(x, max(1, x.shape[-1] // 24), "replicate") + noise * torch.randn_like(x)


def shifted(x: Tensor, reach: int, mode: str) -> Tensor:
    """Each image by its own whole number of pixels in -reach .. reach, both ways."""
    n, c, height, width = x.shape
    padded = F.pad(x, [reach] * 4, mode=mode)
    offset = torch.randint(2 * reach + 1, (2, n, 1), device=x.device)
    rows = offset[0] + torch.arange(height, device=x.device)  # (N, H)
    columns = offset[1] + torch.arange(width, device=x.device)  # (N, W)
    padded = padded.gather(2, rows[:, None, :, None].expand(n, c, height, padded.shape[3]))
    return padded.gather(3, columns[:, None, None, :].expand(n, c, height, width))
