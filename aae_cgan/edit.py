"""From a face to other expressions: targets, strips, intensities, blended photos. Pure functions of networks."""

from typing import Protocol

import torch
from torch import Tensor

from data.emotions import EMOTIONS, canonical
from data.photo import change_mask
from engine import Grid


class Editor(Protocol):
    """What edits need: names of what can be asked for, a code of a face, a face of a code and a request."""

    names: list[str]
    attributes: bool

    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, z: Tensor, y: Tensor) -> Tensor: ...


def class_order(names: list[str]) -> list[int]:
    """Places of classes in the strip's order: angry, disgust, fear, happy, sad, surprise, neutral, then others."""
    known = {name: i for i, name in enumerate(EMOTIONS)}
    rank = [known.get(canonical(name) or "", len(EMOTIONS)) for name in names]
    return sorted(range(len(names)), key=lambda i: (rank[i], i))


def strip_targets(editor: Editor, y: Tensor) -> tuple[Tensor, list[str]]:
    """What a strip asks of faces with labels y (N, K): requests (N, T, K) and their names.

    Classes: each in turn. Attributes: the face's own with one turned at a time.
    """
    if editor.attributes:
        turned = 1 - 2 * torch.eye(y.shape[1], device=y.device)  # (K, K)
        return y[:, None] * turned, [f"{name} turned" for name in editor.names]
    order = class_order(editor.names)
    asked = torch.eye(len(order), device=y.device)[order]
    return asked.expand(len(y), -1, -1), [editor.names[i].capitalize() for i in order]


def strip_of(editor: Editor, x: Tensor, y: Tensor) -> Grid:
    """The picture of this method: Generation Base, then each expression of the same person, one row a face."""
    targets, names = strip_targets(editor, y)  # (N, T, K)
    n, t = targets.shape[:2]
    z = editor.encode(x).repeat_interleave(t, 0)
    edited = editor.decode(z, targets.flatten(0, 1)).unflatten(0, (n, t))
    return Grid(torch.cat([x[:, None], edited], 1), [], ["Generation Base", *names])


def blend(x: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The photo where the request changes nothing, the edit where it does. All (N, C, H, H); equal pictures give x."""
    mask = change_mask(before, after)
    return (1 - mask) * x + mask * after


def edit(editor: Editor, x: Tensor, y_source: Tensor, y_target: Tensor, strength: float, detail: str) -> Tensor:
    """x (N, C, H, H) with label y(t) = (1 - t) y_source + t y_target, t = strength.

    detail: decode is the generator's picture; blend keeps the photo's own pixels where the two labels agree, so that
    strength 0 is the photo.
    """
    z = editor.encode(x)
    after = editor.decode(z, torch.lerp(y_source, y_target, strength))
    return after if detail == "decode" else blend(x, editor.decode(z, y_source), after)
