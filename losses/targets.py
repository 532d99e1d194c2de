"""Random target labels for generated images, and wrong labels for an image critic.

Labels y (N, K) are one-hot classes, mixtures of classes, or attributes in {-1, +1} (`data.labels.conditions`).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Request:
    """Targets of a batch of N images; row i of each tensor belongs to image i."""

    y_target: Tensor  # (N, K)
    x_match: Tensor  # (N, C, H, H), real images with the label y_target
    y_wrong: Tensor  # (N, K), another label than the image's own


def draw_request(x: Tensor, y: Tensor, own: bool, attributes: bool) -> Request:
    """Draw targets for images x (N, C, H, H) with labels y (N, K).

    The targets are a random permutation of y, so the number of images per class stays the same; x_match is permuted
    in the same way. With `own`, the targets are y itself. `attributes`: as in `wrong_labels`.
    """
    if own:
        return Request(y, x, wrong_labels(y, attributes))
    p = torch.randperm(len(y), device=y.device)
    return Request(y[p], x[p], wrong_labels(y, attributes))


def wrong_labels(y: Tensor, attributes: bool) -> Tensor:
    """A random wrong label for each row of y (N, K), of the same shape.

    One-hot row: another class. Mixture: the label of another row with another largest class. Attributes: one random
    attribute changes its sign.
    """
    n, k = y.shape
    if attributes:
        flipped = F.one_hot(torch.randint(k, (n,), device=y.device), k).to(y.dtype)
        return y * (1 - 2 * flipped)
    shift = torch.randint(1, k, (n, 1), device=y.device)
    places = (torch.arange(k, device=y.device) + shift) % k
    rolled = y.gather(1, places)  # its largest class is another one
    largest = y.argmax(1)
    differs = largest[:, None] != largest[None]  # (N, N)
    other = (torch.rand(n, n, device=y.device) * differs).argmax(1)
    hard = (y.amax(1) == 1) | ~differs.any(1)
    return torch.where(hard[:, None], rolled, y[other])


def mix_labels(y: Tensor, y_target: Tensor, share: float) -> Tensor:
    """Targets (N, K). A random `share` of the rows becomes (1 - t) y + t y_target with t ~ U(0, 1)."""
    t = torch.rand(len(y), 1, device=y.device)
    chosen = torch.rand(len(y), 1, device=y.device) < share
    return torch.where(chosen, torch.lerp(y, y_target, t), y_target)
