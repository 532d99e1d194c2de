"""One picture of a set: its crop, a hash of its pixels, and whether it shows anything."""

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

FLAT_STD = 2.0  # grey levels; a picture with a smaller standard deviation shows nothing (a real face has over 20)
FINE, UNREADABLE, BLACK, FLAT, REFUSED = range(5)
FAULTS = ("fine", "unreadable", "all black", "flat", "refused by its set")
# Powers of an odd number: two blocks that differ in one word have different sums.
_POWERS = np.cumprod(np.full(512, 0x9E3779B97F4A7C15, np.uint64))


def crop_box(
    width: int, height: int, crop: str | int | tuple[int, int, int, int], reference: int | None = None
) -> tuple[float, ...]:
    """The square to cut as (left, top, right, bottom) in px. With `full` it may extend beyond the picture.

    reference: the picture width in px that the numbers in `crop` refer to. For example, 148 with reference 178 cuts
    148/178 of the width of any copy.
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
    # Integer pixels, as in torchvision's CenterCrop.
    side = round(side)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return left, top, left + side, top + side


def cut(picture: np.ndarray, box: tuple[float, ...], size: int, channels: int) -> np.ndarray:
    """Cut `box` out of a picture (H, W, 1|3) uint8 and resize it to (channels, size, size) uint8.

    Outside the picture, its edge pixels are repeated. The resize is bicubic with antialiasing and uses only pixels
    inside the box. It equals torchvision's and Pillow's within one grey level. torch needs a third of Pillow's time,
    but it accepts integer boxes only; Pillow resizes the others.
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
    """BLACK or FLAT if a picture (H, W, C) shows nothing, else FINE."""
    low, high = int(picture.min()), int(picture.max())
    if high == 0:
        return BLACK
    # A cheap test first: a picture with a large range is not flat.
    return FLAT if high - low < 64 and picture.std(dtype=np.float64) < FLAT_STD else FINE


def pixel_hash(picture: np.ndarray) -> int:
    """A 64-bit hash of a picture: a polynomial modulo 2^64 of each 4 KB block, then SHA-1 of these and of the rest.

    This is twice as fast as SHA-1 of all bytes. It need not resist forgery.
    """
    data = np.ascontiguousarray(picture).reshape(-1)
    whole = len(data) // (8 * len(_POWERS)) * (8 * len(_POWERS))
    blocks = data[:whole].view(np.uint64).reshape(-1, len(_POWERS)) @ _POWERS
    digest_of = hashlib.sha1(repr(picture.shape).encode(), usedforsecurity=False)
    digest_of.update(blocks.data)
    digest_of.update(data[whole:].data)
    return int.from_bytes(digest_of.digest()[:8], "little")
