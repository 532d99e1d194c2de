"""The real faces that stand beside every figure: a data set's test split, or a folder."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
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
from evaluation.folder import read_images
from evaluation.manifest import MANIFEST, read_manifest

MAX_TRAIN = 20_000  # training faces among which neighbours are looked for


@dataclass
class Real:
    """Real faces: those that figures stand beside (`images`), others of the same kind (`train`), and labels."""

    name: str  # "synthetic test", part of the figures' names
    images: Tensor  # (N, C, H, W) uint8
    train: Tensor  # (M, C, H, W) uint8; of a folder its other half
    has_train: bool  # whether `train` is what models were trained on
    label: Tensor  # (N,) long, -1 unknown, numbers of `classes`
    attr: Tensor  # (N, A) float, NaN unknown, columns of `attributes`
    identity: Tensor  # (N,) long, -1 unknown
    landmarks: Tensor  # (N, P, 2) in [-1, 1], NaN unknown; P may be 0
    classes: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)

    def of_class(self, name: str) -> Tensor:
        """(n,) long: faces that show the expression."""
        return (
            torch.nonzero(self.label == self.classes.index(name))[:, 0]
            if name in self.classes
            else torch.empty(0).long()
        )


def open_real(where: str | Path | None, fallback: DataConfig, most: int, split: str = "test") -> Real:
    """Real faces from a run directory or YAML file (its data block), a pack's folder, or a folder of images.

    Args:
        where: None takes `fallback`, the data that the first judge was trained on.
        most: at most so many test faces, evenly spread; 0 = all.
        split: whose faces become `images`; "train" for what may be learnt from (not of a folder, which has no split).

    Raises:
        UserError: nothing of the kind is there.
    """
    if where is None:
        return from_config(fallback, most, split)
    path = Path(where)
    if path.suffix in (".yaml", ".yml"):
        return from_config(_data_block(path), most, split)
    if (path / "config.yaml").is_file():
        return from_config(_data_block(path / "config.yaml"), most, split)
    if (path / "images.npy").is_file():
        return from_pack(path, most, split)
    if path.is_dir():
        return from_folder(path, most)
    raise UserError(f"--real {path}: expected a run directory, a YAML file, a pack's folder or a folder of images")


def _data_block(path: Path) -> DataConfig:
    return load_config(DataBlock, path, only="data").data


def from_config(cfg: DataConfig, most: int, split: str = "test") -> Real:
    """Faces of a split (and training faces) of a data set, unflipped."""
    plain = {f.name: getattr(cfg, f.name) for f in fields(cfg)} | {
        "augment_crop": 0.0,
        "augment_shift": 0.0,
        "labels": "hard",
    }
    plain |= {"augment_brightness": 0.0, "balanced": False, "pair": False}
    faces = build_faces(DataConfig(**plain))
    test, train = getattr(faces, split), faces.train
    places = _spread(len(test), most)
    labels = {key: torch.as_tensor(value[places]) for key, value in test.labels.items()}
    return Real(
        f"{faces.meta['dataset']} {split}",
        _bytes(test, places),
        _bytes(train, _spread(len(train), MAX_TRAIN)),
        True,
        **_labels(labels, len(places)),
        classes=list(faces.meta["classes"]),
        attributes=list(faces.meta["attributes"]),
    )


def from_pack(folder: Path, most: int, split: str = "test") -> Real:
    """Rows of a split of a pack, as it lies in the cache."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="c")
        with np.load(folder / "labels.npz") as stored:
            labels = {key: stored[key] for key in stored.files}
        if not isinstance(meta, dict) or "split" not in labels:
            raise ValueError("no meta or no split")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"--real {folder}: is no whole pack ({error}); delete it, it is made again") from None
    test, train = (np.flatnonzero(labels["split"] == part) for part in (2, 0))
    test = train if split == "train" else test if len(test) else np.flatnonzero(labels["split"] == 1)
    rows, others = test[_spread(len(test), most)], train[_spread(len(train), MAX_TRAIN)]
    known = {k: torch.as_tensor(labels[k][rows]) for k in ("label", "attr", "identity", "landmarks") if k in labels}
    if "attr" in known:
        known["attr"] = torch.where(known["attr"].float() < 0, torch.nan, known["attr"].float())
    pictures = torch.from_numpy(images[rows].copy()), torch.from_numpy(images[others].copy())
    names = {key: list(meta.get(key) or []) for key in ("classes", "attributes")}
    return Real(f"{folder.name} {split}", *pictures, True, **_labels(known, len(rows)), **names)


def from_folder(folder: Path, most: int) -> Real:
    """Images of a folder; labels from a manifest's `target` or `source_label` where there is one."""
    told: list[str] = []
    if (folder / MANIFEST).is_file():
        rows = sorted(read_manifest(folder), key=lambda row: row.file)
        paths, told = [folder / row.file for row in rows], [row.target or row.source_label for row in rows]
    else:
        paths, note = list_images(folder)
        if note:
            print(f"note: --real: {note}")
    if len(paths) < 4:
        raise UserError(f"--real {folder}: holds {len(paths)} images; expected four at least, two in each half")
    # Two halves stand in for two real sets; only what is looked at is decoded.
    first, second = (np.arange(start, len(paths), 2) for start in (0, 1))
    first, second = (half[_spread(len(half), most)] for half in (first, second))
    images = read_images([paths[i] for i in (*first, *second)])
    labels: dict[str, Tensor] = {}
    classes = sorted({name for name in told if name and "=" not in name})
    if told:
        labels["label"] = torch.tensor([classes.index(told[i]) if told[i] in classes else -1 for i in first])
    n = len(first)
    return Real(f"{folder.name} half", images[:n], images[n:], False, **_labels(labels, n), classes=classes)


def _labels(known: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {
        "label": known.get("label", torch.full((n,), -1)).long(),
        "attr": known.get("attr", torch.empty(n, 0)).float(),
        "identity": known.get("identity", torch.full((n,), -1)).long(),
        "landmarks": known.get("landmarks", torch.empty(n, 0, 2)).float(),
    }


def _spread(count: int, most: int) -> np.ndarray:
    return np.arange(count) if not most or count <= most else np.arange(most) * count // most


def _bytes(faces: object, places: np.ndarray) -> Tensor:
    parts = [
        ((faces.take(p)["image"] + 1) * 127.5).round().byte() for p in np.array_split(places, len(places) // 1024 + 1)
    ]
    return torch.cat(parts)


def at_size(images: Tensor, size: Sequence[int], channels: int) -> Tensor:
    """uint8 faces at another size (antialiased) and colour, for figures that compare pixels."""
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
    """The data block of a run directory or a YAML file, without augmentation: whose test faces are to be edited."""
    path = Path(where)
    block = _data_block(path / "config.yaml" if path.is_dir() else path)
    return replace(block, augment_crop=0.0, augment_shift=0.0, augment_brightness=0.0, balanced=False, pair=False)
