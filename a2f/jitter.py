"""Sketches as strangers draw them: other pens, thinner and thicker strokes, shaky hands, gaps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from data.sketch import dodge, ink

THICKNESS, GAMMA, WARP = (0.7, 1.4), (0.6, 1.6), 1 / 64  # of sigma; of the grey values; of the side


def jitter(x: Tensor, s: Tensor, sigma: float) -> Tensor:
    """s (N, 1, H, H), the sketches of photos x (N, C, H, H), changed at random; [-1, 1], no gradient needed.

    A quarter stays as it is. Of the others each is drawn anew as `dodge` or `ink` with one sigma for the batch in
    [0.7, 1.4] times `sigma`, gamma in [0.6, 1.6], a smooth warp of at most a 64th of the side, up to two erased boxes.
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
    """Each point moved by a smooth field, at most a 64th of the side each way."""
    n, side = len(s), s.shape[-1]
    field = 2 * torch.rand(n, 2, 4, 4, device=s.device) - 1
    field = 2 * WARP * F.interpolate(field, size=(side, side), mode="bilinear", align_corners=True)  # units of [-1, 1]
    eye = torch.eye(2, 3, device=s.device).expand(n, -1, -1)
    grid = F.affine_grid(eye, list(s.shape), align_corners=False) + field.permute(0, 2, 3, 1)
    return F.grid_sample(s, grid, padding_mode="border", align_corners=False)


def erased(s: Tensor) -> Tensor:
    """Up to two boxes, each of up to a fifth of the side, become paper (white)."""
    n, side = len(s), s.shape[-1]
    place = torch.arange(side, device=s.device) / side
    for _ in range(2):
        x, y = torch.rand(2, n, 1, device=s.device)
        w, h = 0.2 * torch.rand(2, n, 1, device=s.device)
        inside = ((place - y).abs() < h / 2)[:, :, None] & ((place - x).abs() < w / 2)[:, None, :]
        use = torch.rand(n, 1, 1, device=s.device) < 0.5
        s = torch.where((inside & use)[:, None], torch.ones_like(s), s)
    return s
