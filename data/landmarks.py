"""Landmarks: read from files, found in pictures (optional), carried from a photo into a crop.

68 points are in iBUG's order (jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67; "left" is the picture's
left), 5 points in CelebA's (eyes, nose, corners of the mouth). In a batch they lie in [-1, 1] from edge to edge, NaN
where unknown; here also in px of a picture, continuous: the middle of the first pixel is 0.5.

    python -m data.landmarks --config FILE [--from FOLDER] [data.key=value ...]

writes `landmarks.npz` beside the pack of that config, for `data.landmarks: file`: points found by mediapipe, or read
from FOLDER, one file (.npy, .csv, .pts) per image under the image's name.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from data.batches import mirror_points
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_write

__all__ = [
    "GROUPS",
    "detect",
    "find_mediapipe",
    "five_from_68",
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

Points = TypeVar("Points", np.ndarray, Tensor)


def five_from_68(points: Points) -> Points:
    """CelebA's five of 68 points (..., 68, 2) -> (..., 5, 2): middles of the eyes, nose, corners of the mouth."""
    eyes = [points[..., first : first + 6, :].mean(-2, keepdims=True) for first in (36, 42)]
    rest = [points[..., k : k + 1, :] for k in (30, 48, 54)]
    if isinstance(points, Tensor):
        import torch

        return torch.cat([*eyes, *rest], -2)
    return np.concatenate([*eyes, *rest], -2)


def to_unit(points: np.ndarray, width: float, height: float) -> np.ndarray:
    """Continuous px (..., 2) -> [-1, 1] from edge to edge."""
    return np.asarray(points) / (width, height) * 2 - 1


def in_crop(points: np.ndarray, matrix: np.ndarray, image_size: int) -> np.ndarray:
    """Points of a photo in px (..., 2) -> [-1, 1] of its crop; `matrix` and size are those of `photo.AlignedFace`."""
    return to_unit(points @ matrix[:, :2].T + matrix[:, 2], image_size, image_size)


def read_landmarks(path: str | Path) -> np.ndarray:
    """The 68 or 5 points of one picture, (68 | 5, 2) float64 in continuous px.

    .npy: an array (68 | 5, 2) (or flat), 0 the middle of the first pixel; .csv: two columns x, y (a header is passed
    over), or one row of all numbers, the same origin; .pts: iBUG's files, whose first pixel is 1.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of landmarks")
    readers = {".npy": _read_npy, ".csv": _read_csv, ".pts": _read_pts}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: expected a file of landmarks that ends in {', '.join(readers)}")
    try:
        numbers = np.asarray(readers[path.suffix.lower()](path), np.float64).ravel()
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a file of landmarks ({error})") from None
    if numbers.size not in (10, 136):
        raise UserError(f"{path}: expected 68 or 5 points, found {numbers.size / 2:g}")
    first = 1.0 if path.suffix.lower() == ".pts" else 0.0
    return numbers.reshape(-1, 2) - first + 0.5


def detect(images: np.ndarray, find: Callable[[np.ndarray], np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks of pictures (N, C, H, W) uint8 -> points (N, 68, 2) in [-1, 1], NaN where not found; found (N,) bool.

    find: one RGB picture (H, W, 3) uint8 -> (68, 2) in continuous px, or None (`find_mediapipe()` gives one).
    """
    points = np.full((len(images), 68, 2), np.nan, np.float32)
    for k, image in enumerate(images):
        rgb = np.ascontiguousarray(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0))
        place = find(rgb)
        if place is not None:
            points[k] = to_unit(place, image.shape[2], image.shape[1])
    return points, np.isfinite(points).all((1, 2))


def find_mediapipe() -> Callable[[np.ndarray], np.ndarray | None]:
    """A finder for `detect` by mediapipe's face mesh (optional). Small pictures are scaled up to 256 px.

    Raises:
        UserError: mediapipe is not installed.
    """
    try:
        import mediapipe
    except ImportError:
        raise UserError(
            "landmarks: no detector is installed; pip install --no-deps mediapipe==0.10.14 and pip install absl-py "
            "attrs flatbuffers opencv-python-headless 'protobuf>=4.25.3,<5' (Python up to 3.12), or give "
            "the points as files"
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
    """What the mesh is shown: at least 256 px wide, framed by 64 px of repeated edge; and the scale used."""
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
        raise ValueError("its points do not stand between { and }")
    return [float(number) for number in text.split("{", 1)[1].split("}", 1)[0].split()]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# --- beside a pack -------------------------------------------------------------------------------------------------


def write_beside(pack: object, points: np.ndarray, source: str) -> list[str]:
    """Write `landmarks.npz` beside a pack (`data.pack.Pack`) and return lines that say where points are missing."""
    found = np.isfinite(points).all((1, 2))
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
    """Points (N, 68 | 5, 2) in [-1, 1] of the pack's crops, from one file per image name, NaN where there is none.

    names: the images' names or paths within the set; boxes (N, 4): left, top, right, bottom of each crop in px.
    """
    read: list[np.ndarray | None] = []
    taken: dict[Path, str] = {}
    for name in names:
        stems = (folder / name).with_suffix(""), folder / Path(name).stem
        files = [Path(f"{stem}{suffix}") for stem in stems for suffix in (".npy", ".csv", ".pts")]
        file = next((f for f in files if f.is_file()), None)
        if file in taken:
            raise UserError(
                f"{file}: would be of two images, {taken[file]} and {name}; put it into folders as the images"
            )
        if file is not None:
            taken[file] = name
        read.append(None if file is None else read_landmarks(file))
    counts = {len(points) for points in read if points is not None}
    if len(counts) != 1:
        raise UserError(f"{folder}: expected files of landmarks named like the images, all of 68 or all of 5 points")
    points = np.full((len(names), counts.pop(), 2), np.nan)
    for k, own in enumerate(read):
        if own is not None:
            left, top, right, bottom = boxes[k]
            points[k] = to_unit(own - (left, top), right - left, bottom - top)
    return points


def main(argv: Sequence[str] | None = None) -> None:
    """The command line in this module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m data.landmarks", description="Find landmarks for a pack, once.")
    parser.add_argument("--config", required=True, help="a YAML file with a data block, as train.py reads it")
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
    from engine.config import load_config  # the command line alone reads configs

    cfg = load_config(DataBlock, arguments.config, arguments.overrides, only="data").data
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
        points, _ = detect(pack.images, find_mediapipe())
        source = BACKEND
    print("\n".join(write_beside(pack, points, source)))


if __name__ == "__main__":
    main()
