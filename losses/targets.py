"""Target labels of fakes, and wrong labels for the image critic. Pure functions, but for the draws.

A label y (N, K) is a one-hot class, a mixture of classes, or attributes in {-1, +1} (`data.labels.conditions`).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Request:
    """Rows that belong together. `x_match` (N, C, H, H) are real faces that carry `y_target` (N, K)."""

    y_target: Tensor
    x_match: Tensor
    y_wrong: Tensor  # (N, K), never the row's own label


def draw_request(x: Tensor, y: Tensor, own: bool, attributes: bool) -> Request:
    """Another row's label with the face that carries it (so that the batch's class counts stay), or the own ones."""
    if own:
        return Request(y, x, wrong_labels(y, attributes))
    p = torch.randperm(len(y), device=y.device)
    return Request(y[p], x[p], wrong_labels(y, attributes))


def wrong_labels(y: Tensor, attributes: bool) -> Tensor:
    """One-hot rows: one of the other classes. Soft rows: another row with another largest class. Attributes: one bit
    turned."""
    n, k = y.shape
    if attributes:
        turned = F.one_hot(torch.randint(k, (n,), device=y.device), k).to(y.dtype)
        return y * (1 - 2 * turned)
    shift = torch.randint(1, k, (n, 1), device=y.device)
    places = (torch.arange(k, device=y.device) + shift) % k
    rolled = y.gather(1, places)  # a row whose largest class is another one, whatever the batch holds
    largest = y.argmax(1)
    differs = largest[:, None] != largest[None]  # (N, N)
    other = (torch.rand(n, n, device=y.device) * differs).argmax(1)
    hard = (y.amax(1) == 1) | ~differs.any(1)
    return torch.where(hard[:, None], rolled, y[other])


def mix_labels(y: Tensor, y_target: Tensor, share: float) -> Tensor:
    """For a share of the rows a label between the own and the target: (1 - t) y + t y_target, t ~ U(0, 1)."""
    t = torch.rand(len(y), 1, device=y.device)
    chosen = torch.rand(len(y), 1, device=y.device) < share
    return torch.where(chosen, torch.lerp(y, y_target, t), y_target)
