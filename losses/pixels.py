"""Where a pixel counts more: a smile is 2 % of the picture's squared error and all of the expression."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.precision import raised

# Points of each box: image-left eye, image-right eye, mouth.
BOXES_68 = (tuple(range(36, 42)), tuple(range(42, 48)), tuple(range(48, 68)))  # iBUG's order
BOXES_5 = ((0,), (1,), (3, 4))  # CelebA's: two eyes, nose, two corners of the mouth
GROW = 0.35  # of the distance between the eyes, on every side, unless told otherwise
# A mean face's mouth, in eye distances: its centre below the middle of the eyes, half its width, half its height.
MOUTH_DOWN, MOUTH_WIDE, MOUTH_HIGH = 1.05, 0.43, 0.15


def face_weight(
    image_size: int,
    lambda_face: float,
    landmarks: Tensor | None = None,
    boxes: Sequence[Sequence[float]] | Tensor | None = None,
    grow: float = GROW,
) -> Tensor:
    """W = 1 + lambda_face M, scaled to mean 1 over each image; M = 1 in the boxes of mouth and eyes.

    landmarks: (N, 68 | 5, 2) in [-1, 1], NaN where unknown: boxes around eyes and mouth, grown by `grow` eye distances.
    boxes: [[left, top, right, bottom], ...] in fractions of the side, for sets and rows without landmarks.
    Edges are softened by one 3 x 3 mean; a row with neither weighs 1 everywhere. Mean 1 keeps the units of sigma and
    beta. -> (N, 1, H, H), or (1, 1, H, H) from boxes alone.
    """
    if landmarks is None and boxes is None:
        raise ValueError("face_weight needs landmarks or boxes")
    mask = None
    if boxes is not None:
        device = None if landmarks is None else landmarks.device
        fixed = 2 * torch.as_tensor(boxes, dtype=torch.float32, device=device) - 1  # fractions -> [-1, 1]
        mask = _fill(fixed[None], image_size)  # (1, 1, H, H)
    if landmarks is not None:
        own, known = _boxes_of(raised(landmarks), grow)  # (N, 3, 4), (N,)
        blank = torch.zeros((), dtype=own.dtype, device=own.device) if mask is None else mask.to(own.dtype)
        mask = torch.where(known[:, None, None, None], _fill(own, image_size), blank)
    soft = F.avg_pool2d(mask, 3, stride=1, padding=1, count_include_pad=False)
    weight = 1 + lambda_face * soft
    return weight / weight.mean((2, 3), keepdim=True)


def boxes_from_eyes(eyes: Sequence[Sequence[float]], grow: float = GROW) -> list[list[float]]:
    """Fixed boxes of an aligned set from its mean eyes [[x, y], [x, y]] in [-1, 1] (`meta["eyes"]`): two eyes and the
    mouth of a mean face, already grown by `grow` eye distances -> three [left, top, right, bottom] in fractions of the
    side, for `face_weight`.
    """
    (x1, y1), (x2, y2) = eyes
    dist = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1e-6)
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2 + MOUTH_DOWN * dist
    centres = [(x1, y1, 0.0, 0.0), (x2, y2, 0.0, 0.0), (centre_x, centre_y, MOUTH_WIDE * dist, MOUTH_HIGH * dist)]
    boxes = []
    for x, y, half_w, half_h in centres:
        w, h = half_w + grow * dist, half_h + grow * dist
        boxes.append([min(max((v + 1) / 2, 0.0), 1.0) for v in (x - w, y - h, x + w, y + h)])
    return boxes


def _boxes_of(landmarks: Tensor, grow: float) -> tuple[Tensor, Tensor]:
    """(N, 68 | 5, 2) -> boxes (N, 3, 4) as left, top, right, bottom in [-1, 1], and which rows are known (N,)."""
    groups = {68: BOXES_68, 5: BOXES_5}[landmarks.shape[1]]
    known = torch.isfinite(landmarks).all(2).all(1)
    points = torch.where(
        known[:, None, None], landmarks, torch.zeros((), dtype=landmarks.dtype, device=landmarks.device)
    )
    left, right = (points[:, list(g)].mean(1) for g in groups[:2])
    margin = grow * (right - left).norm(dim=1)[:, None]  # (N, 1)
    boxes = [
        torch.cat([points[:, list(g)].amin(1) - margin, points[:, list(g)].amax(1) + margin], 1)  # (N, 4)
        for g in groups
    ]
    return torch.stack(boxes, 1), known


def _fill(boxes: Tensor, image_size: int) -> Tensor:
    """1 at pixels whose centre lies in a box. boxes (N, B, 4) in [-1, 1] -> (N, 1, H, H)."""
    centres = (torch.arange(image_size, dtype=boxes.dtype, device=boxes.device) + 0.5) * (2 / image_size) - 1
    left, top, right, bottom = boxes.unbind(-1)  # (N, B) each
    in_x = (centres >= left[..., None]) & (centres <= right[..., None])  # (N, B, W)
    in_y = (centres >= top[..., None]) & (centres <= bottom[..., None])  # (N, B, H)
    inside = in_y[..., :, None] & in_x[..., None, :]  # (N, B, H, W)
    return inside.any(1, keepdim=True).to(boxes.dtype)
