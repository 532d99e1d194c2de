"""Augmentation of sketches: other pens, thinner and thicker strokes, distortion and gaps, as in users' drawings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from data.sketch import dodge, ink

THICKNESS = (0.7, 1.4)  # factor on sigma
GAMMA = (0.6, 1.6)  # exponent of the grey values
WARP = 1 / 64  # largest shift, as a share of the side


def jitter(x: Tensor, s: Tensor, sigma: float) -> Tensor:
    """Randomly augment the sketches s (N, 1, H, H) of photos x (N, C, H, H), all in [-1, 1].

    A quarter of the sketches does not change. The others are drawn again from their photos as `dodge` or `ink`, with
    one random sigma for the batch. Then follow a random gamma, a smooth warp, and up to two erased boxes.
    """
    n = len(s)
    if not n:
        return s
    low, high = THICKNESS
    width = sigma * (low + (high - low) * torch.rand(()).item())
    pen = torch.rand(n, 1, 1, 1, device=s.device) < 0.5
    drawn = torch.where(pen, dodge(x, width), ink(x, width))
    gamma = GAMMA[0] + (GAMMA[1] - GAMMA[0]) * torch.rand(n, 1, 1, 1, device=s.device)
    drawn = 2 * ((drawn + 1) / 2).clamp(0, 1) ** gamma - 1
    drawn = erased(warped(drawn))
    return torch.where(torch.rand(n, 1, 1, 1, device=s.device) < 0.25, s, drawn)


def warped(s: Tensor) -> Tensor:
    """Shift each point by a smooth random field, at most WARP in each direction."""
    n, side = len(s), s.shape[-1]
    field = 2 * torch.rand(n, 2, 4, 4, device=s.device) - 1
    field = 2 * WARP * F.interpolate(field, size=(side, side), mode="bilinear", align_corners=True)  # units of [-1, 1]
    eye = torch.eye(2, 3, device=s.device).expand(n, -1, -1)
    grid = F.affine_grid(eye, list(s.shape), align_corners=False) + field.permute(0, 2, 3, 1)
    return F.grid_sample(s, grid, padding_mode="border", align_corners=False)


def erased(s: Tensor) -> Tensor:
    """Make up to two random boxes white. Their sides are at most a fifth of the image side."""
    n, side = len(s), s.shape[-1]
    place = torch.arange(side, device=s.device) / side
    for _ in range(2):
        x, y = torch.rand(2, n, 1, device=s.device)
        w, h = 0.2 * torch.rand(2, n, 1, device=s.device)
        inside = ((place - y).abs() < h / 2)[:, :, None] & ((place - x).abs() < w / 2)[:, None, :]
        use = torch.rand(n, 1, 1, device=s.device) < 0.5
        s = torch.where((inside & use)[:, None], torch.ones_like(s), s)
    return s
