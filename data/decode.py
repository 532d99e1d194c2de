"""Decode image files. Packs, own photos and the judge use this decoder, so they get the same pixels from a file.

The result is (H, W, 1 or 3) uint8. The EXIF orientation is applied, transparent parts become white, 16-bit and float
grey levels are scaled to 0 .. 255, and every other mode becomes RGB. An animation gives its first frame.
"""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

SMALL = 2**20  # bytes; a smaller JPEG cannot have more than about 100 million pixels, so its size needs no check
# Exceptions that Pillow's plugins raise for damaged, truncated or unusual files.
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
    """A picture that cannot be read. The pack leaves it out, and reports its name."""


def decode(source: bytes | Path, name: str, draft: int = 0) -> np.ndarray:
    """Decode one image file to (H, W, 1|3) uint8.

    draft: decode a JPEG at 1/2, 1/4 or 1/8 of its size if its shorter side still has at least `draft` px. 0: full size

    Raises:
        BadImage: the file is empty, truncated or not an image, or its values are not grey levels.
    """
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise BadImage(f"{name}: cannot be read ({error.strerror or error})") from None
    if not data:
        raise BadImage(f"{name}: the file is empty (0 bytes)")
    # Pillow decodes a JPEG with EXIF, so that the orientation is applied in one place only.
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
        raise BadImage(f"{name}: not an image of a known format") from None
    except Image.DecompressionBombError:
        raise BadImage(f"{name}: the image is too large; scale it down to less than 150 megapixels") from None
    except FAULTY_FILE as error:
        raise BadImage(f"{name}: cannot be decoded ({_first_line(error)})") from None
    return array if array.ndim == 3 else array[:, :, None]


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. The picture stays as stored if the tag is absent or invalid."""
    orientation = None
    with contextlib.suppress(*FAULTY_FILE):  # an unreadable EXIF block is ignored
        orientation = TURNS.get(image.getexif().get(ORIENTATION, 0))
    return image if orientation is None else image.transpose(orientation)


def plain_mode(image: Image.Image) -> Image.Image:
    """Convert any mode to L or RGB.

    Raises:
        ValueError: a float or integer grey level is negative, or the mode cannot be converted to RGB.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image, np.float64), image.mode == "F"))
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        grey = image.mode in ("1", "L", "LA", "La")
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)  # undo premultiplied alpha first
        image = image.convert(straight).convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("L" if grey else "RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(values: np.ndarray, may_be_shares: bool) -> np.ndarray:
    """Convert grey levels to uint8; NaN becomes 0.

    The largest value decides the range: 0 .. 1 (with `may_be_shares`, for floats), 0 .. 255 or 0 .. 65535.
    """
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = values.min(initial=0), values.max(initial=0)
    if low < -0.01 * high:
        raise ValueError(f"expected grey levels in 0 .. 1, 0 .. 255 or 0 .. 65535, got {low:g} .. {high:g}")
    top = 1.0 if may_be_shares and high <= 1 else 255.0 if high <= 255 else max(65_535.0, high)
    return np.rint(values.clip(0) / top * 255).astype(np.uint8)


def is_grey(path: Path) -> bool | None:
    """Whether an image file has one channel, by its header; None if the header cannot be read."""
    try:
        with Image.open(path) as image:
            return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    except (*FAULTY_FILE, Image.DecompressionBombError):
        return None


def _small_jpeg(data: bytes) -> np.ndarray | None:
    """Decode a grey or RGB JPEG to (H, W, C) uint8 with torchvision.

    The pixels equal Pillow's, and torchvision releases Python's lock while it decodes. Returns None if it fails; then
    Pillow decodes the file or reports the reason.
    """
    from torchvision.io import decode_jpeg  # this import takes a second, so it waits until a JPEG is packed

    try:
        x = torch.as_tensor(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)))
    except RuntimeError:
        return None
    return x.permute(1, 2, 0).contiguous().numpy() if len(x) in (1, 3) else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
