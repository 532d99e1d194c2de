"""Put a decoded edit into its input: warp, blend or decode; and save the edited photo."""

import contextlib
import functools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageChops
from torch import Tensor

from data.decode import FAULTY_FILE
from data.photo import AlignedFace, change_mask, paste
from editing.warp import INSTALL, opencv, warp_crop, warp_photo
from engine import UserError
from engine.files import atomic_write
from engine.grids import to_pil

ORIENTATION = 0x0112  # the EXIF tag
DETAILS = ("warp", "blend", "decode")
DETAIL_HELP = (
    "warp: move the photo as the model's face moves (OpenCV); blend: keep the input outside the edit; decode: output "
    "of the model; default: warp for photos, {} for other faces"
)
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


def detail_of(detail: str | None, photo: AlignedFace | None, otherwise: str) -> str:
    """The detail of one face: as requested, else `warp` for a photo and `otherwise` for another face.

    Without OpenCV, which `warp` needs, the default for a photo is `blend`; this is printed once.
    """
    if detail is not None:
        return detail
    return _photo_detail() if photo is not None else otherwise


@functools.cache
def _photo_detail() -> str:
    try:
        opencv()
    except UserError:
        print(
            "OpenCV is not installed, so edits are blended into the photos and are blurred (--detail blend); for edits "
            f"as sharp as the photo: {INSTALL}",
            file=sys.stderr,
        )
        return "blend"
    return "warp"


def paint(x: Tensor, before: Tensor, after: Tensor, detail: str | Sequence[str]) -> Tensor:
    """The edited images. All (N, C, H, H) in [-1, 1].

    Args:
        x: input. before, after: its reconstruction and its decoded edit.
        detail: one for all faces, or one for each. `decode`: `after`. `blend`: `after` where it differs from `before`,
            and `x` elsewhere. `warp`: `x` moved as `before` moves to become `after`, plus what motion does not explain.

    Raises:
        UserError: `warp` without OpenCV.
    """
    if not isinstance(detail, str):
        rows = [paint(x[i : i + 1], before[i : i + 1], after[i : i + 1], one) for i, one in enumerate(detail)]
        return torch.cat(rows)
    if detail == "decode":
        return after
    if detail == "warp":
        return torch.cat([warp_crop(*rows) for rows in zip(x.split(1), before.split(1), after.split(1), strict=True)])
    mask = change_mask(before, after)  # (N, 1, H, H)
    return torch.where(mask > 0, x + mask * (after - x), x)


def paint_photo(photo: AlignedFace, before: Tensor, after: Tensor, detail: str) -> Image.Image:
    """The edited photo at its own size (warp, blend), or the decoded face. before, after: (1, C, H, H) in [-1, 1]."""
    if detail == "decode":
        return to_pil(after[0])
    return warp_photo(photo, before, after) if detail == "warp" else paste(photo, after, change_mask(before, after))


def photo_suffix(photo: AlignedFace, detail: str) -> str:
    """The suffix of the edited photo: that of the photo if its format can be written, else .png."""
    if photo.path is None or detail == "decode":
        return ".png"
    with Image.open(photo.path) as file:
        return SAVED_AS.get(file.format or "", ".png")


def save_photo(picture: Image.Image, photo: AlignedFace, path: Path) -> None:
    """Write an edited photo in the format of the suffix, with the ICC profile and EXIF data of the original.

    The image is upright, so the EXIF orientation is removed. If no pixel changed, the file is copied.
    """
    if photo.path is None or picture.size != photo.photo.size:
        with atomic_write(path) as file:
            picture.save(file, format="PNG")
        return
    unchanged = ImageChops.difference(picture, photo.photo).getbbox() is None
    if unchanged and path.suffix == photo_suffix(photo, "blend") and not _is_rotated(photo.path):
        with atomic_write(path) as file, open(photo.path, "rb") as original:
            shutil.copyfileobj(original, file)
        return
    name = next((name for name, suffix in SAVED_AS.items() if suffix == path.suffix), "PNG")
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(name, {})
    with atomic_write(path) as file:
        picture.save(file, format=name, **options, **_metadata(photo.path))


def _is_rotated(path: Path) -> bool:
    with Image.open(path) as file, contextlib.suppress(*FAULTY_FILE):
        return file.getexif().get(ORIENTATION, 1) != 1
    return False


def _tiff_exif(file: Image.Image) -> Image.Exif:
    """The EXIF tags of a TIFF file that describe the photo; the others describe the layout of the file."""
    found, exif = file.getexif(), Image.Exif()
    for tag in TIFF_TAGS:
        if tag in found:
            exif[tag] = found[tag]
    return exif


def _metadata(path: Path) -> dict[str, bytes]:
    """`icc_profile` and `exif` of a photo, as arguments of `Image.save`.

    The orientation and an EXIF block that cannot be read are left out.
    """
    with Image.open(path) as file:
        found = {"icc_profile": file.info.get("icc_profile") if file.mode == "RGB" else None}
        with contextlib.suppress(*FAULTY_FILE):
            exif = _tiff_exif(file) if file.format == "TIFF" else file.getexif()
            exif.pop(ORIENTATION, None)
            found["exif"] = exif.tobytes() if exif else None
    return {key: value for key, value in found.items() if value}
