"""Companion sketches: pictures of the same names as a set's faces, cut and resized with them.

`data.sketch: FOLDER` adds `batch["sketch"]` (N, 1, H, W) in [-1, 1], mirrored with the face. The sketch of `a/b.jpg` is
`FOLDER/a/b.png` (or .jpg, .jpeg, .webp, .bmp), of the photo's proportions at any size.
"""

from pathlib import Path

import numpy as np

from data.config import DataConfig, home_path
from data.crop import crop_box, cut
from data.decode import BadImage, decode
from data.pack import Pack, resolve_crop
from data.raw import RawFaces, digest, rank_zero_info
from data.scan import list_images
from engine.errors import UserError
from engine.files import atomic_write, lock

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def open_sketches(cfg: DataConfig, pack: Pack, reader: RawFaces) -> tuple[np.ndarray, np.ndarray]:
    """Sketches (N, 1, H, W) uint8 of a pack's rows, memory-mapped, and (N,) bool: there is one.

    Made on first use and kept beside the pack.

    Raises:
        UserError: the folder is missing, or holds no sketch of any face.
    """
    folder = home_path(cfg.sketch, "data.sketch")
    if not folder.is_dir():
        raise UserError(f"data.sketch: {folder} is no folder; expected sketches with the names of the faces in it")
    files: dict[str, Path] = {}
    for path in list_images(folder)[0]:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix.lower() not in SUFFIXES:
            continue
        if name in files:
            raise UserError(f"data.sketch: {files[name]} and {path} are both the sketch of one face; keep one of them")
        files[name] = path
    stats = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files.items()]
    key = digest([str(folder.resolve()), stats, pack.meta["fingerprint"]])
    path, shape = pack.folder / f"sketch_{key}.npy", (pack.meta["count"], 1, *pack.images.shape[2:])
    with lock(path.with_suffix(".lock"), wait=True, message="is being filled"):
        if not path.is_file():
            _make(path, files, shape, cfg, reader)
    sketches = np.load(path, mmap_mode="c")
    # A sketch is never all zero: paper is white. Rows of zeros stand for sketches that are not there.
    return sketches, sketches.reshape(len(sketches), -1).any(1)


def _make(path: Path, files: dict[str, Path], shape: tuple[int, ...], cfg: DataConfig, reader: RawFaces) -> None:
    crop, sketches, bad = resolve_crop(cfg, type(reader)), np.zeros(shape, np.uint8), []
    taken: dict[Path, str] = {}
    for row in range(len(reader)):
        file = files.get(Path(reader.name(row)).with_suffix("").as_posix())
        if file is None:
            continue
        if file in taken:
            raise UserError(
                f"data.sketch: {file} would be the sketch of two faces, {taken[file]} and {reader.name(row)}; "
                "give them names that differ in more than the suffix"
            )
        taken[file] = reader.name(row)
        try:
            picture = decode(file, file.name)
        except BadImage as error:
            bad.append(str(error))
            continue
        height, width = picture.shape[:2]
        sketches[row] = cut(picture, crop_box(width, height, crop, reader.crop_width), shape[-1], 1)
    if not sketches.any():
        raise UserError(
            f"data.sketch: {cfg.sketch} has no sketch of any face; expected names as {reader.name(0)} with one of "
            f"{', '.join(SUFFIXES)}"
        )
    for text in bad:
        rank_zero_info(f"data.sketch: {text}")
    with atomic_write(path) as target:
        np.save(target, sketches)
