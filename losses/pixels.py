"""Pixel weights that emphasize eyes and mouth. A smile is only about 2 % of the squared error of a face image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.precision import raised

# Landmarks of each box: eye at the left of the image, eye at the right, mouth.
BOXES_68 = (tuple(range(36, 42)), tuple(range(42, 48)), tuple(range(48, 68)))  # 68 points in the order of iBUG 300-W
BOXES_5 = ((0,), (1,), (3, 4))  # 5 points of CelebA: two eyes, nose, two corners of the mouth
GROW = 0.35  # margin of a box on every side, in distances between the eyes
# The mouth of a mean face, in distances between the eyes: center below the eyes, half width, half height.
MOUTH_DOWN, MOUTH_WIDE, MOUTH_HIGH = 1.05, 0.43, 0.15


def face_weight(
    image_size: int,
    lambda_face: float,
    landmarks: Tensor | None = None,
    boxes: Sequence[Sequence[float]] | Tensor | None = None,
    grow: float = GROW,
) -> Tensor:
    """Pixel weights W = 1 + lambda_face M, divided by the image's mean of W. M is 1 in the boxes of eyes and mouth.

    A 3 x 3 mean filter softens the edges of M. With mean 1, sigma and beta keep their units.

    Args:
        image_size: H, in px.
        lambda_face: additional weight inside the boxes; 0 = all weights are 1.
        landmarks: (N, 68 or 5, 2) in [-1, 1], NaN where unknown. The boxes enclose eyes and mouth.
        boxes: [[left, top, right, bottom], ...] as fractions of the side, for images without landmarks.
        grow: margin of the boxes from landmarks, in distances between the eyes.

    Returns:
        (N, 1, H, H), or (1, 1, H, H) from boxes alone. An image without landmarks and boxes has weight 1 everywhere.
    """
    if landmarks is None and boxes is None:
        raise ValueError("face_weight: expected landmarks or boxes, got neither")
    mask = torch.zeros(())
    if boxes is not None:
        device = None if landmarks is None else landmarks.device
        fixed = 2 * torch.as_tensor(boxes, dtype=torch.float32, device=device) - 1  # fractions -> [-1, 1]
        mask = box_mask(fixed[None], image_size)  # (1, 1, H, H)
    if landmarks is not None:
        own, known = _boxes_of(raised(landmarks), grow)  # (N, 3, 4), (N,)
        mask = torch.where(known[:, None, None, None], box_mask(own, image_size), mask.to(own))
    soft = F.avg_pool2d(mask, 3, stride=1, padding=1, count_include_pad=False)
    weight = 1 + lambda_face * soft
    return weight / weight.mean((2, 3), keepdim=True)


def boxes_from_eyes(eyes: Sequence[Sequence[float]], grow: float = GROW) -> list[list[float]]:
    """Boxes of both eyes and the mouth for `face_weight`, from the mean eye positions of an aligned data set.

    Args:
        eyes: [[x, y], [x, y]] in [-1, 1] (`meta["eyes"]`).
        grow: margin of the boxes, in distances between the eyes.

    Returns:
        Three boxes [left, top, right, bottom] as fractions of the side. The mouth is that of a mean face.
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
    """From landmarks (N, 68 or 5, 2): boxes (N, 3, 4) as left, top, right, bottom in [-1, 1], and known rows (N,)."""
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


def box_mask(boxes: Tensor, image_size: int) -> Tensor:
    """Mask (N, 1, H, H) with 1 at pixels whose center is in one of the boxes (N, B, 4), given in [-1, 1]."""
    centres = (torch.arange(image_size, dtype=boxes.dtype, device=boxes.device) + 0.5) * (2 / image_size) - 1
    left, top, right, bottom = boxes.unbind(-1)  # (N, B) each
    in_x = (centres >= left[..., None]) & (centres <= right[..., None])  # (N, B, W)
    in_y = (centres >= top[..., None]) & (centres <= bottom[..., None])  # (N, B, H)
    inside = in_y[..., :, None] & in_x[..., None, :]  # (N, B, H, W)
    return inside.any(1, keepdim=True).to(boxes.dtype)
