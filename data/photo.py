"""Align a user's photo with a model's training faces, and paste the edited face back at the photo's own size.

Coordinates are continuous pixels: a picture of width W spans 0 .. W, and the centre of its first pixel is 0.5.
`load_face` finds the eyes (or gets them as an argument). It rotates and scales the photo so that the eyes have the
positions of the training faces. `paste` inverts this. Pixels that an edit does not change keep the photo's values.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data.crop import cut
from data.decode import FAULTY_FILE, BadImage, decode, plain_mode
from engine.errors import UserError

MIN_SIDE = 16  # px; the shorter side of a photo
MIN_EYES = 4.0  # px; the distance of the eyes
MIN_SCALE = 0.7  # px of the photo per px of the crop; a smaller scale gives a blurred face and a warning
MAX_ASPECT = 1.25  # longer by shorter side; up to this value the whole photo may be used as the face
DEFAULT_EYES = ((-0.35, -0.2), (0.35, -0.2))  # mean of 127 faces of FER2013, for sets without eye positions
CHANGE = 0.1  # in units of [-1, 1], mean over channels; a pixel that changes by more is replaced completely
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"


@dataclass(frozen=True)
class AlignedFace:
    """A photo, aligned with a model's training faces."""

    image: Tensor  # (1, C, H, H) in [-1, 1], on the grid of 256 grey levels
    matrix: np.ndarray  # (2, 3): photo px -> px of `image`, both continuous
    photo: Image.Image  # the whole photo, upright, RGB
    note: str = ""  # how the face was found
    path: Path | None = None  # the photo's file; None if the source was an open picture


def load_face(source: str | Path | Image.Image, meta: dict, eyes: str | Sequence[float] | None = None) -> AlignedFace:
    """Align the face of a photo: `meta["image_size"]` px, `meta["channels"]` channels, the eyes at `meta["eyes"]`.

    Args:
        source: a file, or an open picture, which must be upright.
        eyes: None: find the face with OpenCV (extra `photo`); without OpenCV, an almost square photo is used whole.
            "x1,y1,x2,y2" or four numbers: both eyes in px of the upright photo. "whole": the photo, cut to a square.

    `note` tells how the face was found, and is printed on stderr.

    Raises:
        UserError: the file is missing, damaged or too small; there is no face, or more than one; `eyes` is invalid.
    """
    path = None if isinstance(source, Image.Image) else Path(source)
    photo = _rgb(source) if isinstance(source, Image.Image) else open_photo(source)
    name = path or "the photo"
    size, grey = int(meta["image_size"]), int(meta["channels"]) == 1
    given = _given_eyes(eyes, photo, name)
    if given is not None:
        note = "the given eyes are used"
    elif eyes == "whole":
        note = "the whole photo is used"
    else:
        given, note = _look_for_eyes(photo, name)
    print(f"{name}: {note}", file=sys.stderr)
    if given is None:
        return replace(_whole(photo, size, grey, note), path=path)
    target = (np.asarray(meta.get("eyes") or DEFAULT_EYES, np.float64) + 1) / 2 * size
    matrix = similarity(given, target)
    _warn_if_tiny(1 / math.hypot(matrix[0, 0], matrix[1, 0]))
    return AlignedFace(_to_tensor(_sample(photo, matrix, size), grey), matrix, photo, note, path)


def open_photo(path: str | Path) -> Image.Image:
    """Open any image file as an upright RGB picture. `data.decode` handles EXIF, transparency and 16-bit values."""
    path = Path(path)
    if not os.path.isfile(path):
        raise UserError(f"{path}: this file does not exist; expected a photo")
    try:
        pixels = decode(path, str(path))
    except BadImage as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: this picture cannot be read ({reason}); save it again as JPEG or PNG") from None
    height, width = pixels.shape[:2]
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{path}: the photo has {width} x {height} px; expected at least {MIN_SIDE} px on each side")
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3))))


def change_mask(before: Tensor, after: Tensor) -> Tensor:
    """A mask (N, 1, H, W) in [0, 1] of the pixels that an edit changes: 0 keeps the photo, 1 uses the edit.

    before, after: (N, C, H, W) in [-1, 1], the model's pictures of the face without and with the edit.

    m = blur(dilate(clamp(mean_c |after - before| / 0.1, 0, 1))). Both windows have a radius of H / 32 px, at least 1.
    Equal pictures give exactly 0.
    """
    radius = max(1, round(before.shape[-2] / 32))
    change = (after.float() - before.float()).abs().mean(1, keepdim=True)
    mask = F.max_pool2d((change / CHANGE).clamp(0, 1), 2 * radius + 1, stride=1, padding=radius)
    return F.avg_pool2d(mask, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def paste(aligned: AlignedFace, edited: Tensor, mask: Tensor | None = None) -> Image.Image:
    """Paste an edited face into the photo, at the photo's own size: (1 - m) photo + m edit.

    Args:
        edited: (1, C, H, H) in [-1, 1].
        mask: (1, 1, H, H) in [0, 1], from `change_mask`; None = the whole crop.

    Both are resampled bicubically. The mask fades out at borders of the crop that are inside the photo. A grey edit
    (C = 1) changes the luminance and keeps the colours. Pixels with mask 0 keep the photo's exact values.
    """
    planes = edited.detach().float().cpu().reshape(-1, *edited.shape[-2:]).numpy()  # (C, H, H)
    size = planes.shape[-1]
    full = np.ones((size, size), np.float32)
    m = full if mask is None else mask.detach().float().cpu().reshape(size, size).numpy()
    box = box_in_photo(aligned, size)
    if box is None or not m.any():
        return aligned.photo.copy()
    m = np.clip(_back(m * border_fade(aligned, size), aligned.matrix, box), 0, 1)[..., None]  # (h, w, 1)
    colours = [np.clip(_back((channel + 1) * 127.5, aligned.matrix, box), 0, 255) for channel in planes]
    pixels = np.array(aligned.photo)
    left, top, right, bottom = box
    old = pixels[top:bottom, left:right].astype(np.float32)
    if len(colours) == 1:
        change = colours[0][..., None] - (old @ np.asarray(LUMA, np.float32))[..., None]
    else:
        change = np.stack(colours, -1) - old
    pixels[top:bottom, left:right] = np.clip(np.rint(old + m * change), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def crop_of(photo: Image.Image, aligned: AlignedFace, side: int) -> Tensor:
    """The aligned face (3, side, side) in [-1, 1] of a photo of the size of `aligned.photo`, such as its edit."""
    scale = side / aligned.image.shape[-1]
    return _to_tensor(_sample(photo, aligned.matrix * scale, side), False)[0]


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity transform (2, 3), without reflection, that maps two points (2, 2) to two others."""
    p, q = (points[:, 0] + 1j * points[:, 1] for points in (np.asarray(source, float), np.asarray(target, float)))
    a = (q[1] - q[0]) / (p[1] - p[0])
    b = q[0] - a * p[0]
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a (2, 3) matrix to points (..., 2)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a (2, 3) matrix."""
    back = np.linalg.inv(matrix[:, :2])
    return np.concatenate([back, -(back @ matrix[:, 2])[:, None]], 1)


# --- align ---------------------------------------------------------------------------------------------------------


def _rgb(picture: Image.Image) -> Image.Image:
    """An open picture of any mode as RGB, with the same pixels as `open_photo`."""
    try:
        return plain_mode(picture).convert("RGB")
    except FAULTY_FILE as error:
        raise UserError(f"the photo: this picture cannot be read ({error}); save it again as JPEG or PNG") from None


def _given_eyes(eyes: str | Sequence[float] | None, photo: Image.Image, path: str | Path) -> np.ndarray | None:
    """Two points (2, 2), the eye at the left first, or None if `eyes` is None or "whole"."""
    if eyes is None or (isinstance(eyes, str) and eyes == "whole"):
        return None
    form = "expected four numbers x1,y1,x2,y2: both eyes in px of the upright photo"
    try:
        numbers = [float(v) for v in (eyes.split(",") if isinstance(eyes, str) else eyes)]
    except (TypeError, ValueError):
        raise UserError(f"--eyes {eyes}: {form}") from None
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise UserError(f"--eyes {eyes}: {form}")
    points = np.array(numbers).reshape(2, 2)
    if (points < 0).any() or (points > photo.size).any():
        raise UserError(f"--eyes {eyes}: outside of {path}, which has {photo.width} x {photo.height} px; {form}")
    points = points[np.argsort(points[:, 0], kind="stable")]
    if np.linalg.norm(points[1] - points[0]) < MIN_EYES:
        raise UserError(f"--eyes {eyes}: the distance of the eyes is less than {MIN_EYES:.0f} px; {form}")
    return points


def _look_for_eyes(photo: Image.Image, path: str | Path) -> tuple[np.ndarray | None, str]:
    """The eyes of the only face in the photo, or None for the whole photo; and how they were found."""
    try:
        from data.face_finder import find_faces
    except ImportError:
        advice = "pip install 'opencv-python-headless>=4.10,<5', or give --eyes x1,y1,x2,y2"
        if max(photo.size) <= MAX_ASPECT * min(photo.size):
            return None, f"no face detector is installed, so the whole photo is used; {advice}"
        raise UserError(f"{path}: no face detector is installed, and the photo is not square; {advice}") from None
    faces = find_faces(np.asarray(photo.convert("L")))
    if not faces:
        raise UserError(
            f"{path}: no face was found; give --eyes x1,y1,x2,y2, or --eyes whole if the photo shows only the face"
        )
    if len(faces) > 1:
        choices = " or ".join(",".join(f"{v:.0f}" for v in face.eyes.ravel()) for face in faces[:4])
        raise UserError(f"{path}: {len(faces)} faces were found; choose one with --eyes {choices}")
    face = faces[0]
    position = ",".join(f"{v:.0f}" for v in face.eyes.ravel())
    how = "face found, eyes at" if face.seen else "face found, eyes not visible, assumed at"
    return face.eyes, f"{how} {position}; if this is wrong, give --eyes"


def _whole(photo: Image.Image, size: int, grey: bool, note: str) -> AlignedFace:
    """The largest square in the middle of the photo, resized in the same way as a pack's pictures."""
    side = min(photo.size)
    _warn_if_tiny(side / size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    x8 = cut(np.asarray(photo), (left, top, left + side, top + side), size, 1 if grey else 3)
    scale = size / side
    matrix = np.array([[scale, 0.0, -left * scale], [0.0, scale, -top * scale]])
    return AlignedFace(torch.from_numpy(x8.copy()).float()[None] / 127.5 - 1, matrix, photo, note)


def _warn_if_tiny(scale: float) -> None:
    """scale: photo px per px of the crop."""
    if scale < MIN_SCALE:
        print(
            f"warning: the face is small: it is enlarged by {1 / scale:.1f}, so the edit will be blurred; use a larger "
            "photo of the face",
            file=sys.stderr,
        )


def _sample(photo: Image.Image, matrix: np.ndarray, size: int) -> Image.Image:
    """The crop (size, size), sampled at a higher resolution and reduced. Outside the photo, its edge is repeated."""
    back = inverse(matrix)
    corners = transform(np.array([[0, 0], [size, 0], [0, size], [size, size]], float), back)
    left, top = np.floor(corners.min(0)).astype(int) - 3
    right, bottom = np.ceil(corners.max(0)).astype(int) + 3
    region = _region(photo, left, top, right, bottom)
    scale = math.hypot(back[0, 0], back[1, 0])  # photo px per px of the crop
    shrink = max(1, int(scale // 2))  # a large photo is averaged first, to make the sampling cheap
    if shrink > 1:
        region = region.reduce(shrink)
    fine = max(1, math.ceil(scale / shrink))
    to_region = back.copy()
    to_region[:, :2] /= fine
    to_region[:, 2] -= (left, top)
    to_region /= shrink
    crop = region.transform(
        (size * fine, size * fine), Image.Transform.AFFINE, to_region.ravel().tolist(), Image.Resampling.BICUBIC
    )
    return crop if fine == 1 else crop.resize((size, size), Image.Resampling.LANCZOS)


def _region(photo: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    """A box of the photo. Outside the photo, its edge is repeated."""
    xs = np.clip(np.arange(left, right), 0, photo.width - 1)
    ys = np.clip(np.arange(top, bottom), 0, photo.height - 1)
    inside = np.asarray(photo.crop((int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)))
    if len(xs) > 40 * photo.width or len(ys) > 40 * photo.height:
        raise UserError("--eyes: the eyes are too far apart for the width of the photo; check --eyes")
    return Image.fromarray(inside[ys - ys[0]][:, xs - xs[0]])


def _to_tensor(crop: Image.Image, grey: bool) -> Tensor:
    x8 = np.asarray(crop.convert("L"))[None] if grey else np.asarray(crop).transpose(2, 0, 1)
    return torch.from_numpy(x8.copy()).float()[None] / 127.5 - 1


# --- paste ---------------------------------------------------------------------------------------------------------


def box_in_photo(aligned: AlignedFace, size: int) -> tuple[int, int, int, int] | None:
    """The part of the photo that the crop covers, in integer px; None if they do not overlap."""
    return part_in_photo(aligned, (0, 0), (size, size))


def part_in_photo(
    aligned: AlignedFace, low: Sequence[float], high: Sequence[float]
) -> tuple[int, int, int, int] | None:
    """The part of the photo, in integer px, that covers a rectangle of the crop; None if they do not overlap."""
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [low[0], high[1]], [high[0], high[1]]], float)
    corners = transform(corners, inverse(aligned.matrix))
    left, top = np.floor(corners.min(0)).astype(int).clip(0)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int), aligned.photo.size)
    return (int(left), int(top), int(right), int(bottom)) if right > left and bottom > top else None


def border_fade(aligned: AlignedFace, size: int) -> np.ndarray:
    """A window (H, H): 1 in the crop, fading to 0 at borders that are inside the photo, to avoid a visible seam."""
    ramp = np.clip((np.arange(size) + 0.5) / max(2.0, size / 16), 0, 1).astype(np.float32)
    window = np.ones((size, size), np.float32)
    middle = size / 2
    sides = {"left": (0, middle), "right": (size, middle), "top": (middle, 0), "bottom": (middle, size)}
    for side, place in sides.items():
        x, y = transform(np.array(place, float), inverse(aligned.matrix))
        if not (1 < x < aligned.photo.width - 1 and 1 < y < aligned.photo.height - 1):
            continue
        fade = ramp if side in ("left", "top") else ramp[::-1]
        window *= fade[None, :] if side in ("left", "right") else fade[:, None]
    return window


def _back(values: np.ndarray, matrix: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """One plane (H, H) of the crop, resampled bicubically at the photo's pixels in `box`; 0 outside the crop."""
    left, top, right, bottom = box
    fine = max(1, math.ceil(math.hypot(matrix[0, 0], matrix[1, 0]) - 1e-6))  # > 1 if the photo is coarser: average
    to_crop = matrix.copy()
    to_crop[:, 2] += matrix[:, :2] @ np.array([left, top], float)
    to_crop[:, :2] /= fine
    plane = Image.fromarray(np.ascontiguousarray(values, np.float32)).transform(
        ((right - left) * fine, (bottom - top) * fine),
        Image.Transform.AFFINE,
        to_crop.ravel().tolist(),
        Image.Resampling.BICUBIC,
    )
    return np.asarray(plane if fine == 1 else plane.reduce(fine))
