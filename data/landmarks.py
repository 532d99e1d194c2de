"""Landmarks: read them from files, detect them (optional), convert their coordinates.

68 points are in the order of iBUG 300-W: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67. "Left" is the
left of the image. 5 points are in the order of CelebA: eyes, nose, corners of the mouth. In a batch, coordinates are in
[-1, 1] from edge to edge, and NaN where unknown. Some functions here use px of an image; the center of the first pixel
is 0.5.

    python -m data.landmarks [--config FILE] [--root DIR] [--from FOLDER] [data.key=value ...]

writes `landmarks.npz` into the folder of the pack, for `data.landmarks: file` and `found`. The points come from
mediapipe, or from FOLDER with one file (.npy, .csv, .pts) per image, named like the image. DIR is `data.root`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from data.batches import mirror_points
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_write

if TYPE_CHECKING:
    from data.pack import Pack
__all__ = [
    "GROUPS",
    "detect",
    "find_mediapipe",
    "in_crop",
    "mirror_points",
    "read_landmarks",
    "to_unit",
]

GROUPS = {
    "jaw": range(0, 17),
    "brows": range(17, 27),
    "nose": range(27, 36),
    "eyes": range(36, 48),
    "mouth": range(48, 68),
}
# Mediapipe's 468-point mesh -> iBUG's 68.
MESH = {
    "jaw": "162 234 93 58 172 136 149 148 152 377 378 365 397 288 323 454 389",
    "brows": "71 63 105 66 107 336 296 334 293 301",
    "nose": "168 197 5 4 75 97 2 326 305",
    "eyes": "33 160 158 133 153 144 362 385 387 263 373 380",
    "mouth": "61 39 37 0 267 269 291 405 314 17 84 181 78 82 13 312 308 317 14 87",
}
MESH_68 = [int(number) for part in MESH.values() for number in part.split()]
MESH_SIDE, MESH_PAD, MESH_CONFIDENCE = 256, 64, 0.2  # small pictures are scaled up, and framed by their own edge
BACKEND = "mediapipe 0.10.14"


def to_unit(points: np.ndarray, width: float, height: float) -> np.ndarray:
    """Convert px (..., 2) to [-1, 1] from edge to edge."""
    return np.asarray(points) / (width, height) * 2 - 1


def in_crop(points: np.ndarray, matrix: np.ndarray, image_size: int) -> np.ndarray:
    """Convert points of a photo in px (..., 2) to [-1, 1] of its crop. `matrix` is that of `photo.AlignedFace`."""
    return to_unit(points @ matrix[:, :2].T + matrix[:, 2], image_size, image_size)


def read_landmarks(path: str | Path) -> np.ndarray:
    """Read the landmarks of one image: (68 or 5, 2) float64 in px.

    .npy: an array (68 or 5, 2), or flat. .csv: two columns x, y with or without a header, or one row with all numbers.
    In both, the center of the first pixel is 0. .pts: files of iBUG 300-W, where it is 1.

    Raises:
        UserError: the file is missing, has another format, or does not have 68 or 5 points.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: this file does not exist; expected a file of landmarks")
    readers = {".npy": _read_npy, ".csv": _read_csv, ".pts": _read_pts}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: expected a file of landmarks that ends in {', '.join(readers)}")
    try:
        numbers = np.asarray(readers[path.suffix.lower()](path), np.float64).ravel()
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a file of landmarks ({error}); expected x and y of 68 or 5 points") from None
    if numbers.size not in (10, 136):
        raise UserError(f"{path}: expected 68 or 5 points, found {numbers.size / 2:g}")
    first = 1.0 if path.suffix.lower() == ".pts" else 0.0
    return numbers.reshape(-1, 2) - first + 0.5


def detect(
    images: np.ndarray, find: Callable[[np.ndarray], np.ndarray | None], progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Detect landmarks in images (N, C, H, W) uint8.

    find: a function from an RGB image (H, W, 3) uint8 to points (68, 2) in px, or None (`find_mediapipe()`).
    progress: show a progress bar, if stderr is a terminal.
    Returns points (N, 68, 2) in [-1, 1], NaN where not found, and found (N,) bool.
    """
    points = np.full((len(images), 68, 2), np.nan, np.float32)
    for k, image in enumerate(tqdm(images, "landmarks", unit="face", disable=None if progress else True)):
        rgb = np.ascontiguousarray(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0))
        place = find(rgb)
        if place is not None:
            points[k] = to_unit(place, image.shape[2], image.shape[1])
    return points, np.asarray(np.isfinite(points).all((1, 2)))


def find_mediapipe() -> Callable[[np.ndarray], np.ndarray | None]:
    """A function for `detect` that uses mediapipe's face mesh (optional). Small images are enlarged to 256 px.

    Raises:
        UserError: mediapipe is not installed.
    """
    try:
        import mediapipe  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "landmarks: no detector is installed. Run pip install --no-deps mediapipe==0.10.14 and pip install absl-py "
            "attrs flatbuffers opencv-python-headless 'protobuf>=4.25.3,<5' (Python up to 3.12), or use files with "
            "landmarks."
        ) from None
    mesh = mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1, min_detection_confidence=MESH_CONFIDENCE
    )

    def find(rgb: np.ndarray) -> np.ndarray | None:
        framed, scale = enlarge(rgb)
        found = mesh.process(framed).multi_face_landmarks
        if not found:
            return None
        height, width = framed.shape[:2]
        points = np.array([[p.x * width, p.y * height] for p in found[0].landmark])
        return (points[MESH_68] - MESH_PAD) / scale

    return find


def enlarge(rgb: np.ndarray) -> tuple[np.ndarray, float]:
    """The input of the face mesh: enlarged to at least 256 px, with a 64 px repeated border; and the scale."""
    from PIL import Image

    scale = max(1.0, MESH_SIDE / min(rgb.shape[:2]))
    size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
    large = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
    return np.pad(large, ((MESH_PAD, MESH_PAD), (MESH_PAD, MESH_PAD), (0, 0)), mode="edge"), scale


def _read_npy(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _read_csv(path: Path) -> list[float]:
    rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    return [float(cell) for row in rows for cell in row]


def _read_pts(path: Path) -> list[float]:
    text = path.read_text(encoding="utf-8")
    if "{" not in text or "}" not in text:
        raise ValueError("the points are not between { and }")
    return [float(number) for number in text.split("{", 1)[1].split("}", 1)[0].split()]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# --- write into a pack's folder ------------------------------------------------------------------------------------


def write_landmarks(pack: Pack, points: np.ndarray, source: str) -> list[str]:
    """Write `landmarks.npz` into the folder of a pack. Returns lines with the number of faces without landmarks."""
    found = np.asarray(np.isfinite(points).all((1, 2)))
    with atomic_write(pack.landmarks_file) as file:
        np.savez(
            file, points=points.astype(np.float32), found=found, backend=source, fingerprint=pack.meta["fingerprint"]
        )
    lines = [f"{found.sum()} of {len(found)} faces have landmarks ({source}), in {pack.landmarks_file}"]
    for k, name in enumerate(pack.meta["classes"]):
        own = pack.labels["label"] == k
        if own.any():
            lines.append(f"{name}: {(own & ~found).sum()} of {own.sum()} not found")
    return lines


def points_from_folder(folder: Path, names: Sequence[str], boxes: np.ndarray) -> np.ndarray:
    """Read landmarks (N, 68 or 5, 2) in [-1, 1] of the pack's crops, one file per image; NaN without a file.

    names: names or paths of the images within the data set. boxes (N, 4): left, top, right, bottom of each crop in px.
    """
    read: list[np.ndarray | None] = []
    taken: dict[Path, str] = {}
    for name in names:
        stems = (folder / name).with_suffix(""), folder / Path(name).stem
        files = [Path(f"{stem}{suffix}") for stem in stems for suffix in (".npy", ".csv", ".pts")]
        file = next((f for f in files if f.is_file()), None)
        if file in taken:
            raise UserError(
                f"{file}: belongs to two images, {taken[file]} and {name}; use the same folders as for the images"
            )
        if file is not None:
            taken[file] = name
        read.append(None if file is None else read_landmarks(file))
    counts = {len(points) for points in read if points is not None}
    if len(counts) != 1:
        raise UserError(
            f"{folder}: expected files of landmarks named like the images, all with 68 or all with 5 points"
        )
    points = np.full((len(names), counts.pop(), 2), np.nan)
    for k, own in enumerate(read):
        if own is not None:
            left, top, right, bottom = boxes[k]
            points[k] = to_unit(own - (left, top), right - left, bottom - top)
    return points


def main(argv: Sequence[str] | None = None) -> None:
    """The command line in this module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m data.landmarks", description="Find landmarks for a pack, once.")
    parser.add_argument("--config", help="a YAML file with a data block, as train.py reads it; none: the defaults")
    parser.add_argument("--root", help="folder with the raw files, as data.root")
    parser.add_argument(
        "--from", dest="folder", help="folder with one .npy, .csv or .pts per image, instead of mediapipe"
    )
    parser.add_argument("overrides", nargs="*", metavar="data.key=value", help="as train.py reads them")
    arguments = parser.parse_intermixed_args(argv)
    with exit_on_user_error():
        _run(arguments)


def _run(arguments: argparse.Namespace) -> None:
    from data.config import DataBlock
    from data.crop import crop_box
    from data.pack import open_pack, resolve_crop
    from engine.config import load_config  # only the command line reads configs

    overrides = [*arguments.overrides, *([f"data.root={arguments.root}"] if arguments.root else [])]
    if not arguments.config and not any(text.startswith("data.dataset=") for text in overrides):
        raise UserError(
            "landmarks: of which set? Give --config FILE, or data.dataset=celeba (or fer2013, folder, ...) and the "
            "data.image_size of your run"
        )
    cfg = load_config(DataBlock, arguments.config, overrides, only="data").data
    pack = open_pack(cfg)
    if arguments.folder:
        from data import READERS
        from data.decode import BadImage

        reader = READERS[cfg.dataset](cfg)
        boxes = np.zeros((len(reader), 4))
        for k in range(len(reader)):
            try:
                height, width = reader.read(k).shape[:2]
            except BadImage:
                continue
            boxes[k] = crop_box(width, height, resolve_crop(cfg, type(reader)), reader.crop_width)
        points = points_from_folder(Path(arguments.folder), [reader.name(k) for k in range(len(reader))], boxes)
        source = f"files in {arguments.folder}"
    else:
        points, _ = detect(pack.images, find_mediapipe(), progress=True)
        source = BACKEND
    print("\n".join(write_landmarks(pack, points, source)))


if __name__ == "__main__":
    main()
