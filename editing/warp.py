"""Edit a photo by the motion of the decoded face, so that the photo keeps its own pixels (`--detail warp`).

A decoder of 64 px shows where the mouth goes, but not the skin, the hair or the teeth of a photo. With B and E, the
decoded face before and after the edit, and the dense optical flow f with E(x) ~ B(x + f(x)), the edited photo is

    P(x + f(x)) + E(x) - B(x + f(x)),

the photo P moved as the decoded face moved, plus what motion does not explain. Where that rest is large (teeth behind
lips that were closed), E itself is shown. OpenCV (the optional extra `photo`) estimates the flow.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.photo import LUMA, AlignedFace, border_fade, box_in_photo, change_mask, part_in_photo
from engine.errors import UserError
from engine.grids import to_pil

FINE = 256  # px; side of the frame in which the flow is estimated, at least twice that of the model
SMOOTH = 0.75  # px of the model; standard deviation of the Gaussian filter of the flow
REST = (40.0, 90.0)  # grey levels of 255; E replaces the photo where |E - B(x + f)| is larger: from 0 to altogether
STRIP = 128  # rows of a photo that are edited at once, so that the arrays stay in the cache
INSTALL = "pip install 'opencv-python-headless>=4.10,<5'"


@dataclass(frozen=True)
class Motion:
    """An edit in the frame of the crop, K x K px. All arrays are float32; colours are 0 .. 255.

    flow (K, K, 2): x, y in shares of the side. rest (K, K, C): E - B(x + f). after (K, K, C): E. replace (K, K): where
    E replaces the photo, 0 .. 1. weight (K, K): where the photo may change at all, 0 .. 1.
    """

    flow: np.ndarray
    rest: np.ndarray
    after: np.ndarray
    replace: np.ndarray
    weight: np.ndarray


def opencv() -> Any:
    """The module cv2.

    Raises:
        UserError: it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise UserError(
            f"--detail warp: OpenCV is not installed, and it estimates the motion; {INSTALL}, or use --detail blend"
        ) from None
    return cv2


def motion(before: Tensor, after: Tensor) -> Motion:
    """The motion and the rest of an edit. before, after: (1, C, H, H) in [-1, 1], the decoded face without and with it.

    Raises:
        UserError: OpenCV is not installed.
    """
    cv2 = opencv()
    size = before.shape[-1]
    side = size * max(2, round(FINE / size))
    scaled = lambda plane: cv2.resize(plane, (side, side), interpolation=cv2.INTER_CUBIC)  # noqa: E731
    planes = lambda x: (x.detach().float().cpu()[0].permute(1, 2, 0).numpy() + 1) * 127.5  # noqa: E731
    b, e = (np.clip(scaled(planes(x)), 0, 255).reshape(side, side, -1) for x in (before, after))
    grey = lambda x: np.rint(x @ np.asarray(LUMA, np.float32) if x.shape[2] == 3 else x[..., 0]).astype(np.uint8)  # noqa: E731
    estimate = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = estimate.calc(grey(e), grey(b), None)  # (K, K, 2) px: E(x) ~ B(x + flow)
    weight = scaled(change_mask(before, after)[0, 0].numpy()).clip(0, 1)
    sigma = SMOOTH * side / size
    flow = cv2.GaussianBlur(flow, (0, 0), sigma) * weight[..., None]
    at = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).astype(np.float32) + flow
    moved = cv2.remap(b, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(b.shape)
    rest = e - moved
    low, high = REST
    replace = np.clip((np.abs(rest).mean(2) - low) / (high - low), 0, 1)
    return Motion(flow / side, rest, e, cv2.GaussianBlur(replace, (0, 0), sigma), weight)


def warp_photo(photo: AlignedFace, before: Tensor, after: Tensor) -> Image.Image:
    """The edited photo at its own size.

    Where the decoded face does not change, and beyond the crop, pixels are the photo's own, bit for bit. The edit fades
    out at the sides of the crop that lie inside the photo. A grey model moves the colours of the photo.

    Args:
        before, after: (1, C, H, H) in [-1, 1], the decoded face without and with the edit.

    Raises:
        UserError: OpenCV is not installed.
    """
    size = before.shape[-1]
    if torch.equal(before, after) or box_in_photo(photo, size) is None:
        return photo.photo.copy()
    edit = motion(before, after)
    weight = edit.weight * opencv().resize(border_fade(photo, size), edit.weight.shape)
    box = changed_box(photo, weight, size)
    if box is None:
        return photo.photo.copy()
    left, top, right, bottom = box
    pixels = np.array(photo.photo)
    pixels[top:bottom, left:right] = _warped(photo, pixels, edit, weight, box, size)
    return Image.fromarray(pixels)


def warp_crop(x: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The same at the size of the crop, for grids. All (1, C, H, H) in [-1, 1]."""
    if torch.equal(before, after):
        return x
    whole = AlignedFace(x, np.eye(2, 3), to_pil(x[0]).convert("RGB"))
    picture = warp_photo(whole, before, after)
    pixels = np.asarray(picture.convert("L"))[None] if x.shape[1] == 1 else np.asarray(picture).transpose(2, 0, 1)
    return torch.from_numpy(pixels.copy()).float()[None] / 127.5 - 1


def changed_box(photo: AlignedFace, weight: np.ndarray, size: int) -> tuple[int, int, int, int] | None:
    """The part of the photo, in whole px, that contains all of `weight` (K, K) > 0; None if they do not overlap."""
    rows, columns = np.flatnonzero(weight.any(1)), np.flatnonzero(weight.any(0))
    if not len(rows):
        return None
    scale = size / len(weight)
    low, high = np.array([columns[0], rows[0]]) - 1, np.array([columns[-1], rows[-1]]) + 2
    return part_in_photo(photo, low * scale, high * scale)


def _warped(
    photo: AlignedFace, pixels: np.ndarray, edit: Motion, weight: np.ndarray, box: tuple[int, int, int, int], size: int
) -> np.ndarray:
    """The edited pixels (h, w, 3) uint8 of a box of the photo: (1 - w) P + w ((1 - r) (P(x + f) + rest) + r E).

    w is the weight, r is where E replaces the photo. What needs no pixel of P is summed in the K x K frame.
    """
    cv2 = opencv()
    left, top, right, bottom = box
    side, grey = len(weight), edit.after.shape[2] == 1
    replace = edit.replace[..., None]
    added = weight[..., None] * ((1 - replace) * edit.rest + replace * edit.after)  # (K, K, C)
    # A grey model replaces the luminance and keeps the colours of the moved photo.
    kept = weight if grey else weight * (1 - edit.replace)
    turn = np.linalg.inv(photo.matrix[:, :2]).T * size  # shares of the crop's side -> photo px
    maps = np.dstack([edit.flow @ turn, weight, kept]).astype(np.float32)
    # Photo px -> px of the K x K frame; OpenCV puts the middle of the first pixel at 0, `matrix` at 0.5.
    to_frame = photo.matrix * (side / size)
    to_frame[:, 2] += to_frame[:, :2] @ np.array([left + 0.5, top + 0.5]) - 0.5
    flags, columns = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, np.arange(left, right, dtype=np.float32)
    strips = []
    for first in range(top, bottom, STRIP):
        rows = np.arange(first, min(first + STRIP, bottom), dtype=np.float32)[:, None]
        shape = (right - left, len(rows))
        there = lambda values: cv2.warpAffine(values, to_frame, shape, flags=flags)  # noqa: E731, B023 - 0 beyond
        placed = there(maps)
        at = np.dstack([placed[..., 0] + columns, placed[..., 1] + rows])
        moved = cv2.remap(pixels, at, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        old = pixels[first : first + len(rows), left:right]
        new = (1 - placed[..., 2:3]) * old + placed[..., 3:] * moved + _coloured(there(added))
        if grey:
            new -= there(weight * edit.replace)[..., None] * (moved @ np.asarray(LUMA, np.float32))[..., None]
        strips.append(np.clip(np.rint(new), 0, 255).astype(np.uint8))
        to_frame[:, 2] += to_frame[:, 1] * len(rows)
    return np.concatenate(strips)


def _coloured(values: np.ndarray) -> np.ndarray:
    """(h, w) or (h, w, C) as (h, w, 1 or 3)."""
    return values[..., None] if values.ndim == 2 else values
