"""The real faces that every metric is compared with: the test split of a data set, or a folder of images."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data import DataConfig, build_faces
from data.config import DataBlock
from data.scan import list_images
from engine.config import load_config
from engine.errors import UserError
from evaluation.folder import evenly_spaced, read_images
from evaluation.manifest import MANIFEST, read_manifest
from losses.quantise import to_bytes

MAX_TRAIN = 20_000  # training faces, for the distance to the nearest one


@dataclass
class Real:
    """Real test faces (`images`) with their labels, and training faces (`train`)."""

    name: str  # as "synthetic test"; part of the names of metrics
    images: Tensor  # (N, C, H, W) uint8
    train: Tensor  # (M, C, H, W) uint8; for a folder, the other half of its images
    has_train: bool  # True if `train` are faces that models were trained on
    label: Tensor  # (N,) long, indices into `classes`, -1 = unknown
    attr: Tensor  # (N, A) float in {0, 1}, columns as `attributes`, NaN = unknown
    identity: Tensor  # (N,) long, -1 = unknown
    landmarks: Tensor  # (N, P, 2) in [-1, 1], NaN = unknown; P may be 0
    classes: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)

    def of_class(self, name: str) -> Tensor:
        """(n,) long: indices of the faces with this expression."""
        return (
            torch.nonzero(self.label == self.classes.index(name))[:, 0]
            if name in self.classes
            else torch.empty(0).long()
        )


def open_real(where: str | Path | None, fallback: DataConfig, max_images: int, split: str = "test") -> Real:
    """Real faces from a run directory or YAML file (its data block), or from a folder of images.

    Args:
        where: run directory, YAML file or folder; None uses `fallback`.
        max_images: maximum number of faces in `images`, evenly spaced; 0 = all.
        split: split of the data set for `images`, "test" or "train"; a folder has no splits.

    Raises:
        UserError: `where` is none of these.
    """
    if where is None:
        return from_config(fallback, max_images, split)
    path = Path(where)
    if path.suffix in (".yaml", ".yml"):
        return from_config(_data_block(path), max_images, split)
    if (path / "config.yaml").is_file():
        return from_config(_data_block(path / "config.yaml"), max_images, split)
    if path.is_dir():
        return from_folder(path, max_images)
    raise UserError(f"--real {path}: expected a run directory, a YAML file or a folder of images")


def _data_block(path: Path) -> DataConfig:
    return load_config(DataBlock, path, only="data").data


def from_config(cfg: DataConfig, max_images: int, split: str = "test") -> Real:
    """Faces of one split, and training faces, of a data set; without augmentation."""
    faces = build_faces(replace(without_augmentation(cfg), labels="hard"))
    test, train = getattr(faces, split), faces.train
    places = _indices(len(test), max_images)
    labels = {key: torch.as_tensor(value[places]) for key, value in test.labels.items()}
    return Real(
        f"{faces.meta['dataset']} {split}",
        _bytes(test, places),
        _bytes(train, _indices(len(train), MAX_TRAIN)),
        True,
        **_labels(labels, len(places)),
        classes=list(faces.meta["classes"]),
        attributes=list(faces.meta["attributes"]),
    )


def from_folder(folder: Path, max_images: int) -> Real:
    """Images of a folder; labels from a manifest's `target` or `source_label` where there is one."""
    names: list[str] = []
    if (folder / MANIFEST).is_file():
        rows = sorted(read_manifest(folder), key=lambda row: row.file)
        paths, names = [folder / row.file for row in rows], [row.target or row.source_label for row in rows]
    else:
        paths, note = list_images(folder)
        if note:
            print(f"note: --real: {note}")
    if len(paths) < 4:
        raise UserError(f"--real {folder}: this folder has {len(paths)} images; expected 4 or more")
    # Every second image is in `train`. Only the images that are used are decoded.
    first, second = (np.arange(start, len(paths), 2) for start in (0, 1))
    first, second = (half[_indices(len(half), max_images)] for half in (first, second))
    images = read_images([paths[i] for i in (*first, *second)])
    labels: dict[str, Tensor] = {}
    classes = sorted({name for name in names if name and "=" not in name})
    if names:
        labels["label"] = torch.tensor([classes.index(names[i]) if names[i] in classes else -1 for i in first])
    n = len(first)
    return Real(f"{folder.name} half", images[:n], images[n:], False, **_labels(labels, n), classes=classes)


def _labels(known: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {
        "label": known.get("label", torch.full((n,), -1)).long(),
        "attr": known.get("attr", torch.empty(n, 0)).float(),
        "identity": known.get("identity", torch.full((n,), -1)).long(),
        "landmarks": known.get("landmarks", torch.empty(n, 0, 2)).float(),
    }


def _indices(count: int, n: int) -> np.ndarray:
    return evenly_spaced(count, n).numpy()


def _bytes(faces: object, places: np.ndarray) -> Tensor:
    return torch.cat([to_bytes(faces.take(p)["image"]) for p in np.array_split(places, len(places) // 1024 + 1)])


def at_size(images: Tensor, size: Sequence[int], channels: int) -> Tensor:
    """Images (N, C, H, W) uint8 at another size (bilinear, antialiased) and number of channels."""
    from evaluation.network import LUMA

    x = images
    if channels == 1 and x.shape[1] == 3:
        x = (x.float() * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True).round().byte()
    elif channels == 3 and x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    if tuple(x.shape[-2:]) != tuple(size):
        parts = [F.interpolate(p.float(), tuple(size), mode="bilinear", antialias=True) for p in x.split(1024)]
        x = torch.cat([p.round().clamp(0, 255).byte() for p in parts])
    return x


def data_config(where: str | Path) -> DataConfig:
    """The data block of a run directory or a YAML file, without augmentation."""
    path = Path(where)
    return without_augmentation(_data_block(path / "config.yaml" if path.is_dir() else path))


def without_augmentation(cfg: DataConfig) -> DataConfig:
    """The same faces, one by one, as they are in the pack."""
    return replace(cfg, augment_crop=0.0, augment_shift=0.0, augment_brightness=0.0, balanced=False, pair=False)
