"""Sketch files that belong to the faces of a set by name. They are cropped and resized in the same way.

`data.sketch: FOLDER` adds `batch["sketch"]` (N, 1, H, W) in [-1, 1], flipped with the face. The sketch of `a/b.jpg` is
`FOLDER/a/b.png` (or .jpg, .jpeg, .webp, .bmp). It may have any size, but the aspect ratio of the photo.
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
    """Sketches (N, 1, H, W) uint8 of a pack's rows, memory-mapped, and (N,) bool: the row has a sketch.

    They are made on first use and stored in the folder of the pack.

    Raises:
        UserError: the folder is missing, no face has a sketch, or the names of sketches are ambiguous.
    """
    folder = home_path(cfg.sketch, "data.sketch")
    if not folder.is_dir():
        raise UserError(f"data.sketch: {folder} is not a folder; expected a folder of sketches with the faces' names")
    files: dict[str, Path] = {}
    for path in list_images(folder)[0]:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix.lower() not in SUFFIXES:
            continue
        if name in files:
            raise UserError(f"data.sketch: {files[name]} and {path} belong to the same face; remove one of them")
        files[name] = path
    stats = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files.items()]
    key = digest([str(folder.resolve()), stats, pack.meta["fingerprint"]])
    path, shape = pack.folder / f"sketch_{key}.npy", (pack.meta["count"], 1, *pack.images.shape[2:])
    with lock(path.with_suffix(".lock"), wait=True, message="is being filled"):
        if not path.is_file():
            _make(path, files, shape, cfg, reader)
    sketches = np.load(path, mmap_mode="c")
    # A sketch is never completely black, because paper is white. So a row of zeros means: no sketch.
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
                f"data.sketch: {file} belongs to two faces, {taken[file]} and {reader.name(row)}; rename one of them, "
                "so that they differ in more than the suffix"
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
            f"data.sketch: {cfg.sketch} has no sketch of any face; expected the names of the faces, such as "
            f"{reader.name(0)}, with a suffix of {', '.join(SUFFIXES)}"
        )
    for text in bad:
        rank_zero_info(f"data.sketch: {text}")
    with atomic_write(path) as target:
        np.save(target, sketches)
