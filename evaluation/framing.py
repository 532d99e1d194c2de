"""Bring aligned faces into the framing that a classifier was trained on, so that it reads faces of another data set."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.photo import DEFAULT_EYES, similarity
from evaluation.classifier import Classifier

Eyes = Sequence[Sequence[float]]
OVERSAMPLING = 2  # samples per pixel and axis before averaging, against aliasing


def reframe(images8: Tensor, eyes: Eyes | None, target: Eyes | None, size: int) -> Tensor:
    """Turn, scale and shift images so that the eyes move from `eyes` to `target`.

    Args:
        images8: (N, C, H, H) uint8.
        eyes, target: [[x, y], [x, y]] in [-1, 1], the eye at the left of the image first; None = those of FER2013.
        size: side of the result, px.

    Returns:
        (N, C, size, size) uint8. Beyond the image its edge is repeated.
    """
    source, aim = (np.asarray(e or DEFAULT_EYES, np.float64) for e in (eyes, target))
    theta = torch.from_numpy(similarity(aim, source)).float()  # place in the result -> place in the image
    fine, parts = size * OVERSAMPLING, []
    for part in images8.split(256):
        grid = F.affine_grid(theta.expand(len(part), 2, 3), [len(part), 1, fine, fine], align_corners=False)
        moved = F.grid_sample(part.float(), grid, "bilinear", "border", align_corners=False)
        parts.append(F.avg_pool2d(moved, OVERSAMPLING).round().clamp(0, 255).byte())
    return torch.cat(parts)


def probabilities(net: Classifier, images8: Tensor, eyes: Eyes | None) -> Tensor:
    """Probabilities (N, len(net.names)), on the CPU, of faces (N, C, H, H) uint8 with the eyes at `eyes`."""
    framed = reframe(images8, eyes, net.meta.get("eyes"), net.meta["image_size"])
    return net.probabilities(net.logits(framed)).cpu()
