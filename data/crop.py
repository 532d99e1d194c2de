"""One picture of a set: the square that is cut out of it, what it is told apart by, and whether it shows anything."""

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

FLAT_STD = 2.0  # grey levels; under this a picture shows nothing (a real face has 20 and more)
FINE, UNREADABLE, BLACK, FLAT, REFUSED = range(5)
FAULTS = ("fine", "unreadable", "all black", "flat", "refused by its set")
# Powers of an odd number: blocks that differ in one word never share a value.
_POWERS = np.cumprod(np.full(512, 0x9E3779B97F4A7C15, np.uint64))


def crop_box(
    width: int, height: int, crop: str | int | tuple[int, int, int, int], reference: int | None = None
) -> tuple[float, ...]:
    """(left, top, right, bottom) of a square in px of a picture; it may reach beyond the picture for `full`.

    reference: the width in px that numbers in `crop` refer to, so that 148 of CelebA's 178 means the same share of a
    larger copy.
    """
    scale = width / reference if reference else 1.0
    if isinstance(crop, tuple):
        return tuple(round(edge * scale) for edge in crop)
    if crop == "centre":
        side = min(width, height)
    elif crop == "full":
        side = max(width, height)
    else:
        side = int(crop) * scale
    # Whole pixels, as torchvision's CenterCrop has them.
    side = round(side)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return left, top, left + side, top + side


def cut(picture: np.ndarray, box: tuple[float, ...], size: int, channels: int) -> np.ndarray:
    """Cut `box` out of (H, W, 1|3), antialias to (channels, size, size) uint8; beyond the edges they are repeated.

    Bicubic with antialiasing, on what the box holds and nothing beside it: within a grey level torchvision's and
    Pillow's. torch's takes a third of Pillow's time, but knows whole pixels only.
    """
    height, width = picture.shape[:2]
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > width or bottom > height:
        pad = [max(0, int(np.ceil(v))) for v in (-top, bottom - height, -left, right - width)]
        picture = np.pad(picture, (pad[:2], pad[2:], (0, 0)), mode="edge")
        left, right, top, bottom = left + pad[2], right + pad[2], top + pad[0], bottom + pad[0]
    rows, columns = slice(int(np.floor(top)), int(np.ceil(bottom))), slice(int(np.floor(left)), int(np.ceil(right)))
    picture = picture[rows, columns]
    if picture.shape[2] == 3 and channels == 1:
        picture = np.asarray(Image.fromarray(np.ascontiguousarray(picture)).convert("L"))[:, :, None]
    inner = (left - columns.start, top - rows.start, right - columns.start, bottom - rows.start)
    if inner != (0, 0, *picture.shape[1::-1]):
        image = Image.fromarray(np.ascontiguousarray(picture).squeeze(2) if picture.shape[2] == 1 else picture)
        picture = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=inner)).reshape(size, size, -1)
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # (C, h, w)
    if x.shape[1:] != (size, size):
        x = F.interpolate(x[None], (size, size), mode="bicubic", antialias=True)[0]
    return x.expand(channels, -1, -1).numpy()


def fault_of(picture: np.ndarray) -> int:
    """FINE, or why a picture (H, W, C) that was read shows no face: BLACK or FLAT."""
    low, high = int(picture.min()), int(picture.max())
    if high == 0:
        return BLACK
    # A cheap bound first: the deviation cannot exceed half the range.
    return FLAT if high - low < 64 and picture.std(dtype=np.float64) < FLAT_STD else FINE


def pixel_hash(picture: np.ndarray) -> int:
    """64 bits of a picture: each block of 4 KB as a polynomial modulo 2^64, then SHA-1 of these and of what is left.

    Twice as fast as SHA-1 of everything; nobody forges copies here.
    """
    data = np.ascontiguousarray(picture).reshape(-1)
    whole = len(data) // (8 * len(_POWERS)) * (8 * len(_POWERS))
    blocks = data[:whole].view(np.uint64).reshape(-1, len(_POWERS)) @ _POWERS
    digest_of = hashlib.sha1(repr(picture.shape).encode(), usedforsecurity=False)
    digest_of.update(blocks.data)
    digest_of.update(data[whole:].data)
    return int.from_bytes(digest_of.digest()[:8], "little")
