"""The one decoder of image files: packs, own photos and the judge read the same pixels from the same file.

A file becomes (H, W, 1 or 3) uint8: upright as its EXIF orientation says, transparent parts on white, 16-bit and float
grey levels scaled to 0 .. 255, every other mode as RGB. Of an animation the first picture counts.
"""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

SMALL = 2**20  # bytes of a JPEG that is decoded without asking how many pixels it claims (at most some 100 million)
# What Pillow's plugins raise for files that are damaged, cut short or written by odd programs.
FAULTY_FILE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError),
    *(AssertionError, NotImplementedError, RecursionError, MemoryError, struct.error, zlib.error),
)
ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(Exception):
    """A picture that cannot be read; the pack leaves it out, names it and counts it."""


def decode(source: bytes | Path, name: str, draft: int = 0) -> np.ndarray:
    """Decode one image file to (H, W, 1|3) uint8.

    draft: a JPEG may be decoded at a half, quarter or eighth of its size while its shorter side stays >= `draft` px.

    Raises:
        BadImage: the file is empty, cut short, no image, or has values that are no grey levels.
    """
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise BadImage(f"{name}: cannot be read ({error.strerror or error})") from None
    if not data:
        raise BadImage(f"{name}: the file is empty (0 bytes)")
    # A JPEG with EXIF goes through Pillow, so that one reader decides about its orientation.
    if data[:3] == b"\xff\xd8\xff" and not draft and len(data) < SMALL and b"Exif\0" not in data[:65_536]:
        array = _small_jpeg(data)
        if array is not None:
            return array
    try:
        with Image.open(io.BytesIO(data)) as image:
            if draft:
                image.draft(None, (draft, draft))
            image.load()
            array = np.asarray(plain_mode(upright(image)))
    except UnidentifiedImageError:
        raise BadImage(f"{name}: is no image of a known format") from None
    except Image.DecompressionBombError:
        raise BadImage(f"{name}: is too large to open; scale it down to less than 150 megapixels") from None
    except FAULTY_FILE as error:
        raise BadImage(f"{name}: cannot be decoded ({_first_line(error)})") from None
    return array if array.ndim == 3 else array[:, :, None]


def upright(image: Image.Image) -> Image.Image:
    """Turned as the EXIF orientation says; as stored where that tag is absent or has no meaning."""
    orientation = None
    with contextlib.suppress(*FAULTY_FILE):  # an EXIF block that cannot be read turns nothing
        orientation = TURNS.get(image.getexif().get(ORIENTATION, 0))
    return image if orientation is None else image.transpose(orientation)


def plain_mode(image: Image.Image) -> Image.Image:
    """Any mode as L or RGB.

    Raises:
        ValueError: float or integer grey levels below zero, or a mode that cannot become RGB.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image, np.float64), image.mode == "F"))
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        grey = image.mode in ("1", "L", "LA", "La")
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)  # out of premultiplied alpha first
        image = image.convert(straight).convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("L" if grey else "RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(values: np.ndarray, may_be_shares: bool) -> np.ndarray:
    """Grey levels of 0 .. 1 (floats only), 0 .. 255 or 0 .. 65535, told apart by the largest, as uint8; NaN is 0."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = values.min(initial=0), values.max(initial=0)
    if low < -0.01 * high:
        raise ValueError(f"grey levels from {low:g} to {high:g}; expected 0 .. 1, 0 .. 255 or 0 .. 65535")
    top = 1.0 if may_be_shares and high <= 1 else 255.0 if high <= 255 else max(65_535.0, high)
    return np.rint(values.clip(0) / top * 255).astype(np.uint8)


def is_grey(path: Path) -> bool | None:
    """Whether the file's header says that it has one channel; None where there is no readable header."""
    try:
        with Image.open(path) as image:
            return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    except (*FAULTY_FILE, Image.DecompressionBombError):
        return None


def _small_jpeg(data: bytes) -> np.ndarray | None:
    """A grey or RGB JPEG as (H, W, C) uint8 by torchvision: Pillow's pixels, without holding the interpreter's lock.

    None where it has anything to object: then Pillow decides, and says why.
    """
    from torchvision.io import decode_jpeg  # a second to import: not before a set of JPEGs is packed

    try:
        x = torch.as_tensor(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)))
    except RuntimeError:
        return None
    return x.permute(1, 2, 0).contiguous().numpy() if len(x) in (1, 3) else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
