"""A user's own photo: into the framing that a model was trained on, and back at its own size.

Coordinates are continuous pixels: a picture of width W spans 0..W and the middle of its first pixel is 0.5.
`load_face` finds the eyes (or is told), turns and scales the photo so that they stand where the training faces have
them, and `paste` takes the way back. What an edit does not change stays the photo's own pixels.
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

MIN_SIDE = 16  # px of a photo; smaller ones show no face
MIN_EYES = 4.0  # px between the eyes
TINY = 0.7  # px of the photo for each px of the crop; below it the model is shown a magnified, blurred face
SQUARE = 1.25  # longer to shorter side: up to here a photo may be taken whole
DEFAULT_EYES = ((-0.35, -0.2), (0.35, -0.2))  # FER2013's mean (127 faces, by `face_finder`); for sets that know none
CHANGE = 0.1  # of [-1, 1], mean over channels: from here on a pixel is replaced altogether
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"


@dataclass(frozen=True)
class AlignedFace:
    """A photo, brought to a model's framing."""

    image: Tensor  # (1, C, H, H) in [-1, 1], on the grid of 256 grey levels
    matrix: np.ndarray  # (2, 3): photo px -> px of `image`, both continuous
    photo: Image.Image  # the whole photo, upright, RGB
    note: str = ""  # how the face was found
    path: Path | None = None  # the photo's file; None for a picture that was handed over


def load_face(source: str | Path | Image.Image, meta: dict, eyes: str | Sequence[float] | None = None) -> AlignedFace:
    """The face of a photo as a model's input: `meta["image_size"]`, `meta["channels"]`, its eyes at `meta["eyes"]`.

    source: a file, or a picture that is open already (upright).

    eyes: None looks for the face (OpenCV, the optional extra `photo`; without it a squarish photo is taken whole);
    "x1,y1,x2,y2" or four numbers are the two eyes in px of the upright photo; "whole" takes the whole photo, cut to
    a square. How the face was found is said on stderr and kept in `note`.

    Raises UserError, one sentence each: the file is missing, damaged, tiny; no face, several faces; eyes that are no
    places in the photo.
    """
    path = None if isinstance(source, Image.Image) else Path(source)
    photo = _rgb(source) if isinstance(source, Image.Image) else open_photo(source)
    name = path or "the photo"
    size, grey = int(meta["image_size"]), int(meta["channels"]) == 1
    given = _given_eyes(eyes, photo, name)
    if given is not None:
        note = "eyes as given"
    elif eyes == "whole":
        note = "the whole photo"
    else:
        given, note = _look_for_eyes(photo, name)
    print(f"{name}: {note}", file=sys.stderr)
    if given is None:
        return replace(_whole(photo, size, grey, note), path=path)
    target = (np.asarray(meta.get("eyes") or DEFAULT_EYES, np.float64) + 1) / 2 * size
    matrix = similarity(given, target)
    return AlignedFace(_to_tensor(_sample(photo, matrix, size), grey), matrix, photo, note, path)


def open_photo(path: str | Path) -> Image.Image:
    """Any image file as an upright RGB picture: EXIF rotation applied, transparency over white, 16 bits to 8."""
    path = Path(path)
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such photo")
    try:
        pixels = decode(path, str(path))
    except BadImage as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: not a readable picture ({reason}); save it again as JPEG or PNG") from None
    height, width = pixels.shape[:2]
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{path}: {width} x {height} px show no face; at least {MIN_SIDE} px are needed")
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3))))


def change_mask(before: Tensor, after: Tensor) -> Tensor:
    """Where an edit really changes the face: 0 keeps the photo, 1 takes the edit. (N, C, H, W) twice -> (N, 1, H, W)

    before, after: the model's picture of the face without and with the edit, both in [-1, 1]. m = blur(dilate(clamp(
    mean_c |after - before| / 0.1, 0, 1))), 3 x 3 each at 32 px and growing with H / 32. Equal pictures give 0 exactly.
    """
    radius = max(1, round(before.shape[-2] / 32))
    change = (after.float() - before.float()).abs().mean(1, keepdim=True)
    mask = F.max_pool2d((change / CHANGE).clamp(0, 1), 2 * radius + 1, stride=1, padding=radius)
    return F.avg_pool2d(mask, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def paste(aligned: AlignedFace, edited: Tensor, mask: Tensor | None = None) -> Image.Image:
    """The photo with the edited face in its place, at the photo's own size: (1 - m) photo + m edit.

    edited: (1, C, H, H) in [-1, 1]; mask: (1, 1, H, H) in [0, 1] as from `change_mask`, None = all of the crop. Both
    are scaled up bicubically; the mask fades out where the crop's border lies inside the photo. A grey model (C = 1)
    changes luminance only and leaves the colours. Where the mask is 0, pixels are the photo's own, bit for bit.
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


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The turn, scale and shift (2, 3) that carries two points (2, 2) onto two others; no mirroring."""
    p, q = (points[:, 0] + 1j * points[:, 1] for points in (np.asarray(source, float), np.asarray(target, float)))
    a = (q[1] - q[0]) / (p[1] - p[0])
    b = q[0] - a * p[0]
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (..., 2) through a (2, 3) matrix."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix of the way back."""
    back = np.linalg.inv(matrix[:, :2])
    return np.concatenate([back, -(back @ matrix[:, 2])[:, None]], 1)


# --- in ------------------------------------------------------------------------------------------------------------


def _rgb(picture: Image.Image) -> Image.Image:
    """A picture that is open already, in any mode, with the pixels that `open_photo` gives for its file."""
    try:
        return plain_mode(picture).convert("RGB")
    except FAULTY_FILE as error:
        raise UserError(f"the photo: not a readable picture ({error}); save it again as JPEG or PNG") from None


def _given_eyes(eyes: str | Sequence[float] | None, photo: Image.Image, path: str | Path) -> np.ndarray | None:
    """Two places (2, 2), image-left eye first, or None if none are given."""
    if eyes is None or (isinstance(eyes, str) and eyes == "whole"):
        return None
    form = "expected four numbers x1,y1,x2,y2, the two eyes in px of the upright photo"
    try:
        numbers = [float(v) for v in (eyes.split(",") if isinstance(eyes, str) else eyes)]
    except (TypeError, ValueError):
        raise UserError(f"--eyes {eyes}: {form}") from None
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise UserError(f"--eyes {eyes}: {form}")
    points = np.array(numbers).reshape(2, 2)
    if (points < 0).any() or (points > photo.size).any():
        raise UserError(f"--eyes {eyes}: outside {path}, which is {photo.width} x {photo.height} px")
    points = points[np.argsort(points[:, 0], kind="stable")]
    if np.linalg.norm(points[1] - points[0]) < MIN_EYES:
        raise UserError(f"--eyes {eyes}: the eyes are less than {MIN_EYES:.0f} px apart; {form}")
    return points


def _look_for_eyes(photo: Image.Image, path: str | Path) -> tuple[np.ndarray | None, str]:
    """The eyes of the one face in the photo, or None for the whole photo, and how they were found."""
    try:
        from data.face_finder import find_faces
    except ImportError:
        if max(photo.size) <= SQUARE * min(photo.size):
            return (
                None,
                "no face detector is installed, so the whole photo is taken; "
                "pip install 'opencv-python-headless>=4.10,<5', or give --eyes x1,y1,x2,y2",
            )
        raise UserError(
            f"{path}: no face detector is installed and the photo is not square; "
            "pip install 'opencv-python-headless>=4.10,<5', or give --eyes x1,y1,x2,y2"
        ) from None
    faces = find_faces(np.asarray(photo.convert("L")))
    if not faces:
        raise UserError(f"{path}: no face was found; give --eyes x1,y1,x2,y2, or --eyes whole if it is cut to the face")
    if len(faces) > 1:
        places = " or ".join(",".join(f"{v:.0f}" for v in face.eyes.ravel()) for face in faces[:4])
        raise UserError(f"{path}: {len(faces)} faces were found; choose one with --eyes {places}")
    face = faces[0]
    place = ",".join(f"{v:.0f}" for v in face.eyes.ravel())
    how = "face found, eyes at" if face.seen else "face found, eyes hidden, taken to be at"
    return face.eyes, f"{how} {place}; if that is wrong give --eyes"


def _whole(photo: Image.Image, size: int, grey: bool, note: str) -> AlignedFace:
    """The largest square in the middle of the photo, resized as packs are."""
    side = min(photo.size)
    _warn_if_tiny(side / size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    x8 = cut(np.asarray(photo), (left, top, left + side, top + side), size, 1 if grey else 3)
    scale = size / side
    matrix = np.array([[scale, 0.0, -left * scale], [0.0, scale, -top * scale]])
    return AlignedFace(torch.from_numpy(x8.copy()).float()[None] / 127.5 - 1, matrix, photo, note)


def _warn_if_tiny(scale: float) -> None:
    """scale: photo px per px of the crop."""
    if scale < TINY:
        print(
            f"warning: the face is small: each pixel of the photo becomes {1 / scale:.1f} of the model's, so the edit "
            "will be blurred; give a larger photo of the face",
            file=sys.stderr,
        )


def _sample(photo: Image.Image, matrix: np.ndarray, size: int) -> Image.Image:
    """The crop (size, size): finely sampled, then antialiased to size. Beyond the photo its edge is repeated."""
    back = inverse(matrix)
    corners = transform(np.array([[0, 0], [size, 0], [0, size], [size, size]], float), back)
    left, top = np.floor(corners.min(0)).astype(int) - 3
    right, bottom = np.ceil(corners.max(0)).astype(int) + 3
    region = _region(photo, left, top, right, bottom)
    scale = math.hypot(back[0, 0], back[1, 0])  # photo px per px of the crop
    _warn_if_tiny(scale)
    shrink = max(1, int(scale // 2))  # large photos: box-averaged first, so that sampling stays cheap
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
    """A box of the photo that may reach beyond it; the photo's edge is repeated there."""
    xs = np.clip(np.arange(left, right), 0, photo.width - 1)
    ys = np.clip(np.arange(top, bottom), 0, photo.height - 1)
    inside = np.asarray(photo.crop((int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)))
    if len(xs) > 40 * photo.width or len(ys) > 40 * photo.height:
        raise UserError("the eyes lie so far apart that the photo is a speck in the crop; check --eyes")
    return Image.fromarray(inside[ys - ys[0]][:, xs - xs[0]])


def _to_tensor(crop: Image.Image, grey: bool) -> Tensor:
    x8 = np.asarray(crop.convert("L"))[None] if grey else np.asarray(crop).transpose(2, 0, 1)
    return torch.from_numpy(x8.copy()).float()[None] / 127.5 - 1


# --- back ----------------------------------------------------------------------------------------------------------


def box_in_photo(aligned: AlignedFace, size: int) -> tuple[int, int, int, int] | None:
    """The part of the photo that the crop covers, in whole px; None if they do not meet."""
    corners = transform(np.array([[0, 0], [size, 0], [0, size], [size, size]], float), inverse(aligned.matrix))
    left, top = np.floor(corners.min(0)).astype(int).clip(0)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int), aligned.photo.size)
    return (int(left), int(top), int(right), int(bottom)) if right > left and bottom > top else None


def border_fade(aligned: AlignedFace, size: int) -> np.ndarray:
    """1 in the crop, fading to 0 at those of its sides that cross the photo: no seam. (H, H)"""
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
    """One plane (H, H) of the crop, resampled bicubically at the photo's pixels in `box`; 0 beyond the crop."""
    left, top, right, bottom = box
    fine = max(1, math.ceil(math.hypot(matrix[0, 0], matrix[1, 0]) - 1e-6))  # a photo coarser than the crop: averaged
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
