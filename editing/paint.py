"""From a decoded edit to a picture: blended with the input, and pasted back into the photo that it came from."""

import contextlib
import shutil
from pathlib import Path

import torch
from PIL import Image, ImageChops
from torch import Tensor

from data.decode import FAULTY_FILE
from data.photo import AlignedFace, change_mask, paste
from engine.files import atomic_write
from engine.grids import to_pil

ORIENTATION = 0x0112  # the EXIF tag
DETAILS = ("blend", "decode")
TIFF_TAGS = (
    0x010E,
    0x010F,
    0x0110,
    0x0131,
    0x0132,
    0x013B,
    0x8298,
)  # title, maker, model, software, date, author, rights
SAVED_AS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}


def paint(x: Tensor, before: Tensor, after: Tensor, detail: str) -> Tensor:
    """The edited picture. All (N, C, H, H) in [-1, 1].

    `decode`: the decoded edit `after`. `blend`: `after` where it differs from the decoded face `before`, and the
    input's own pixels elsewhere. Adding the difference to the input instead would leave a ghost of the old mouth.
    """
    if detail == "decode":
        return after
    mask = change_mask(before, after)  # (N, 1, H, H)
    return torch.where(mask > 0, x + mask * (after - x), x)


def paint_photo(photo: AlignedFace, before: Tensor, after: Tensor, detail: str) -> Image.Image:
    """The photo with the edit in it at the photo's own size (blend), or the decoded face alone. before, after:
    (1, C, H, H)."""
    return to_pil(after[0]) if detail == "decode" else paste(photo, after, change_mask(before, after))


def photo_suffix(photo: AlignedFace, detail: str) -> str:
    """The suffix under which an edited photo is saved: the photo's own format where it can be written, else PNG."""
    if photo.path is None or detail == "decode":
        return ".png"
    with Image.open(photo.path) as file:
        return SAVED_AS.get(file.format or "", ".png")


def save_photo(picture: Image.Image, photo: AlignedFace, path: Path) -> None:
    """Write an edited photo in the format that the suffix says, with the ICC profile and the EXIF of the original.

    The picture is upright, so the EXIF orientation is removed. Where the edit changed no pixel the original's bytes are
    copied, so that nothing is lost by encoding it again.
    """
    if photo.path is None or picture.size != photo.photo.size:
        with atomic_write(path) as file:
            picture.save(file, format="PNG")
        return
    unchanged = ImageChops.difference(picture, photo.photo).getbbox() is None
    if unchanged and path.suffix == photo_suffix(photo, "blend") and not _needs_turning(photo.path):
        with atomic_write(path) as file, open(photo.path, "rb") as original:
            shutil.copyfileobj(original, file)
        return
    name = next((name for name, suffix in SAVED_AS.items() if suffix == path.suffix), "PNG")
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(name, {})
    with atomic_write(path) as file:
        picture.save(file, format=name, **options, **_metadata(photo.path))


def _needs_turning(path: Path) -> bool:
    with Image.open(path) as file, contextlib.suppress(*FAULTY_FILE):
        return file.getexif().get(ORIENTATION, 1) != 1
    return False


def _tiff_exif(file: Image.Image) -> Image.Exif:
    """The tags of a TIFF that describe the picture; the others lay out the file."""
    found, exif = file.getexif(), Image.Exif()
    for tag in TIFF_TAGS:
        if tag in found:
            exif[tag] = found[tag]
    return exif


def _metadata(path: Path) -> dict[str, bytes]:
    """`icc_profile` and `exif` of a photo as `Image.save` takes them.

    The orientation is left out, and so is an EXIF block that cannot be read.
    """
    with Image.open(path) as file:
        found = {"icc_profile": file.info.get("icc_profile") if file.mode == "RGB" else None}
        with contextlib.suppress(*FAULTY_FILE):
            exif = _tiff_exif(file) if file.format == "TIFF" else file.getexif()
            exif.pop(ORIENTATION, None)
            found["exif"] = exif.tobytes() if exif else None
    return {key: value for key, value in found.items() if value}
