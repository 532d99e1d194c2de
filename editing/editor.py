"""The interface to a trained model: faces are encoded to codes, codes are changed and decoded.

A family implements `encode`, `decode`, `target_code` and `draw_codes`. All modes use only these.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import Faces, FaceSet, build_faces
from data.emotions import class_order
from data.labels import label_names, label_table, requested_labels
from data.photo import load_face
from data.request import Request, parse_request
from editing.subjects import SPLITS, Code, Subjects, expand_folders, face_number, join, load_each
from engine import UserError, load
from latents.paths import lerp

PHOTO_PERCENTILE = 0.99  # quantile of the errors of validation faces
TYPICAL_LIMIT = "typical_limit.json"  # in the run directory of a release: sha256 of the checkpoint, and the limit
PHOTO_MARGIN = 1.2  # a photo with a larger multiple of this error is reported


@dataclass(frozen=True)
class NoOptions:
    """The options of a family without options."""


class Editor:
    """A trained run, opened for use.

    Attributes:
        method: the trained method in evaluation mode. meta: metadata of its data. device: its device.
        classes, attributes: the names that a request may use.
        conditioned_on: labels that `draw_codes` uses; other requests are edits of the generated face.
        options: an instance of `options_class`. `encode` must not depend on it.
    """

    config_class: Any
    method_class: Any
    options_class: type = NoOptions
    batch_size = 256
    slow_encode = False  # encoding a face takes seconds, because its code is found by optimisation
    unsupported: dict[str, str] = {}  # operation (read | edit | draw | mix): reason
    label_source = "read from its code"  # source of labels that the data do not have
    training_only: tuple[str, ...] = ()  # prefixes of weights that edits do not need; a release leaves them out
    num_reference = 256  # validation faces that the atypicality of a photo is compared with

    def __init__(
        self,
        run_dir: str | Path,
        options: Any = None,
        *,
        step: int | None = None,
        device: str = "auto",
        data_root: str | Path | None = None,
    ) -> None:
        self.run_dir, self.data_root = Path(run_dir), data_root
        self.cache_dir = self.run_dir  # a family keeps codes of single faces here
        self.method = load(self.run_dir, self.config_class, self.method_class, step, device)
        self.meta, self.device = self.method.meta, self.method.device
        self.options = options if options is not None else self.options_class()
        self.classes, self.attributes = list(self.meta["classes"]), list(self.meta["attributes"])
        self.conditioned_on: list[str] = []

    @classmethod
    def of(cls, run_dir: str | Path) -> "type[Editor]":
        """The editor class of a run; a family with several systems overrides it."""
        return cls

    # Implemented by a family.

    def encode(self, batch: dict[str, Tensor]) -> Code:
        """Codes of a batch on the device. Unknown labels of the batch are predicted or set to a default here."""
        raise UserError(self.unsupported["read"])

    def decode(self, code: Code) -> Tensor:
        """Images (n, C, H, H) in [-1, 1] of codes on the device."""
        raise TypeError(f"{type(self).__name__} has no decode(code)")

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        """The code at strength 1, on the CPU: `code | {changed entries}`; other entries must be the same objects."""
        raise UserError(self.unsupported["edit"])

    def target_code_like(self, code: Code, faces: Subjects, reference: Subjects) -> Code:
        """The code at strength 1 of an edit to the expression of `reference`: one face, or one for each face."""
        raise UserError("--like: this family cannot use another face as the target; give a name, as --attr happy")

    def draw_codes(self, seeds: Sequence[int], labels: Tensor) -> Code:
        """Codes of N generated faces. Row i depends only on seeds[i] and labels[i]; labels (N, L), NaN = free."""
        raise UserError(self.unsupported["draw"])

    def interpolate(self, a: Code, b: Code, t: Tensor, drawn: bool) -> Code:
        """Codes between a and b (N rows each) at t (T,): T x N rows. `drawn`: both are samples of the prior."""
        return {key: along(lerp, a[key], b[key], t) for key in a}

    def predict_labels(self, faces: Subjects) -> Tensor:
        """Labels (N, L): known labels, predictions of the model for the others, NaN = no prediction."""
        return self.labels(faces)

    def atypicality(self, faces: Subjects) -> Tensor:
        """Outlier score (N,), high for a face unlike the training crops; default: error of the reconstruction (MSE)."""
        return (self.reconstruct(faces) - faces.images).square().flatten(1).mean(1)

    def facts(self, request: Request | None = None) -> dict[str, Any]:
        """Entries of the JSON file of an image: the options that were used."""
        return asdict(self.options)

    def fitted(self) -> list[Path]:
        """Files of the run directory that edits need besides the weights; they are made if they are missing."""
        return []

    def guides(self) -> dict[str, str]:
        """{name: sha256} of every other network that was used for training or for the images."""
        return {}

    # Faces.

    @cached_property
    def faces(self) -> Faces:
        """The data of the run, from `data_root` if given."""
        cfg = self.method.cfg.data
        faces = build_faces(replace(cfg, root=str(self.data_root)) if self.data_root else cfg)
        if faces.meta["fingerprint"] != self.meta["fingerprint"]:
            print(f"note: {self.run_dir}: the data differ from those of the training")
        return faces

    def split(self, name: str) -> FaceSet:
        """The train, val or test split of the data of the run; of two alternating sets the first one."""
        part = getattr(self.faces, name)
        return part.sets[0] if hasattr(part, "sets") else part

    def spread(self, split: str, n: int) -> list[str]:
        """Names of n faces of a split (0 = all), evenly spaced, expressions in turn."""
        faces = self.split(split)
        places = range(len(faces)) if not n or n >= len(faces) else faces.spread_places(n).tolist()
        return [f"{split}:{place}" for place in places]

    def take(self, split: str, places: Sequence[int]) -> Subjects:
        """Faces of the data of the run by their indices in a split."""
        batch = self.split(split).take(np.asarray(list(places), np.int64))
        return Subjects({k: v.cpu() for k, v in batch.items()}, [f"{split}:{place}" for place in places])

    def from_images(self, images: Tensor, names: Sequence[str] | None = None) -> Subjects:
        """Faces of images (N, C, H, H) in [-1, 1], without labels.

        Raises:
            UserError: another size or number of channels.
        """
        size, channels = self.meta["image_size"], self.meta["channels"]
        if tuple(images.shape[1:]) != (channels, size, size):
            shape = " x ".join(str(v) for v in images.shape[1:])
            raise UserError(f"{self.run_dir}: expected images of {channels} x {size} x {size}, got {shape}")
        n, batch = len(images), {"image": images.float()}
        if self.meta["classes"]:
            batch["label"] = torch.full((n,), -1)
        if self.meta["attributes"]:
            batch["attr"] = torch.full((n, len(self.meta["attributes"])), torch.nan)
        if self.meta.get("landmarks"):
            batch["landmarks"] = torch.full((n, self.meta["landmarks"], 2), torch.nan)
        batch["index"] = torch.full((n,), -1)
        return Subjects(batch, list(names) if names else [f"image:{i}" for i in range(n)])

    def from_batch(self, batch: dict[str, Tensor], meta: dict, names: Sequence[str]) -> Subjects:
        """Faces of another data set, with their landmarks and the labels whose names this run knows."""
        faces = self.from_images(batch["image"], names)
        faces.batch["index"] = batch["index"]
        if self.meta.get("landmarks") and meta.get("landmarks") == self.meta["landmarks"]:
            faces.batch["landmarks"] = batch["landmarks"].float()
        if self.meta["classes"] and meta["classes"]:
            known = [self.meta["classes"].index(c) if c in self.meta["classes"] else -1 for c in meta["classes"]]
            faces.batch["label"] = torch.tensor([*known, -1])[batch["label"]]
        for column, name in enumerate(self.meta["attributes"]):
            if name in meta["attributes"]:
                faces.batch["attr"][:, column] = batch["attr"][:, meta["attributes"].index(name)].float()
        return faces

    def subjects(self, names: Sequence[str], eyes: Any = None, source: str | None = None) -> Subjects:
        """Faces by name: `test:12`, `seed:7`, a photo, or a folder of photos.

        A photo that cannot be used is reported and skipped.

        Args:
            eyes: see `data.photo.load_face`; coordinates are for one photo only.
            source: current labels of the faces as a request (`--from`); they replace known labels.

        Raises:
            UserError: a name is not valid, or no photo can be used.
        """
        names = expand_folders(names)
        files = [n for n in names if self._by_number(n) is None]
        if files and "read" in self.unsupported:
            raise UserError(f"{files[0]}: {self.unsupported['read']}")
        if len(files) > 1 and eyes is not None and eyes != "whole":
            raise UserError(f"--eyes {eyes}: expected one photo for these coordinates, got {len(files)}")
        photos = dict(load_each(files, lambda name: load_face(name, self.meta, eyes))) if files else {}
        parts = []
        for name in names:
            if name in photos:
                parts.append(replace(self.from_images(photos[name].image, [name]), photos=[photos[name]]))
            elif name not in files:
                parts.append(self._numbered(*self._by_number(name)))
        if any(part.code is not None for part in parts):  # a generated face keeps its code, so all faces need one
            for part in parts:
                self.codes(part)
        faces = join(parts)
        if source is not None:
            faces = self._relabel(faces, source)
        self._warn_of_photos(faces)
        return faces

    def _by_number(self, name: str) -> tuple[str, int] | None:
        for kind in (*SPLITS, "seed"):
            if (number := face_number(name, kind)) is not None:
                return kind, number
        return None

    def _numbered(self, kind: str, number: int) -> Subjects:
        if kind == "seed":
            return self.draw([number])
        if "read" in self.unsupported:
            raise UserError(f"{kind}:{number}: {self.unsupported['read']}; give a generated face, as seed:0")
        if number >= len(self.split(kind)):
            raise UserError(f"{kind}:{number}: expected {kind}:0 to {kind}:{len(self.split(kind)) - 1}")
        return self.take(kind, [number])

    def _relabel(self, faces: Subjects, source: str) -> Subjects:
        """The same faces with the labels of --from; other labels are kept."""
        labels = requested_labels(self.parse(source), self.labels(faces), self.meta)
        batch, split = dict(faces.batch), len(self.meta["attributes"])
        if split:
            batch["attr"] = labels[:, :split]
        if self.meta["classes"]:
            y = labels[:, split:]
            batch["label"] = torch.where(y.isnan().any(1), -1, y.nan_to_num().argmax(1))
            if "label_soft" in batch:
                batch["label_soft"] = torch.where(y.isnan(), batch["label_soft"], y)
        return Subjects(batch, faces.names, faces.photos, given=True)

    def _warn_of_photos(self, faces: Subjects) -> None:
        rows = [i for i, photo in enumerate(faces.photos) if photo is not None]
        if not rows:
            return
        for i, value in zip(rows, self.atypicality(faces.select(rows)).tolist(), strict=True):
            if value > PHOTO_MARGIN * self.typical_limit:
                print(
                    f"{faces.names[i]}: does not look like the training crops; check the eyes with --eyes x1,y1,x2,y2, "
                    "or use a run that was trained on such photos",
                    file=sys.stderr,
                )

    @cached_property
    def typical_limit(self) -> float:
        """The 0.99 quantile of the atypicality of validation faces; infinite if the data are missing.

        A release holds it in `TYPICAL_LIMIT`, so that a photo needs no data set.
        """
        path = self.run_dir / TYPICAL_LIMIT
        if path.is_file():
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["sha256"] == self.method.origin.sha256:
                return held["typical_limit"]
        try:
            faces = self.split("val")
        except UserError as error:
            print(f"note: photos are not compared with the training crops: {error}", file=sys.stderr)
            return float("inf")
        sample = self.take("val", faces.spread_places(min(len(faces), self.num_reference)).tolist())
        return torch.quantile(self.atypicality(sample), PHOTO_PERCENTILE).item()

    def labels(self, faces: Subjects) -> Tensor:
        """Known labels (N, L) in {0, 1, NaN = unknown}, `data.labels.label_table`."""
        return label_table(faces.batch, self.meta)

    def label_names(self) -> list[str]:
        """The names of the columns of `labels`."""
        return label_names(self.meta)

    # Requests.

    def parse(self, text: str | Sequence[str]) -> Request:
        """Parse a request; names must be classes or attributes of this run."""
        return parse_request(text, self.classes, self.attributes)

    def targets(self) -> list[Request]:
        """The default targets of a strip or an export: each class, or without classes each attribute flipped."""
        if self.classes:
            return [self.parse(self.classes[i]) for i in class_order(self.classes)]
        return [self.parse(f"{name}=flip") for name in self.attributes]

    # Operations: without gradients, in batches, results on the CPU.

    @torch.no_grad()
    def codes(self, faces: Subjects) -> Code:
        """Codes of faces; computed once and stored in `faces.code`."""
        if faces.code is None:
            parts = [
                {k: v.cpu() for k, v in self.encode(part).items()} for part in self._batches(faces.batch, len(faces))
            ]
            faces.code = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return faces.code

    @torch.no_grad()
    def images(self, code: Code) -> Tensor:
        """Images (N, C, H, H) in [-1, 1] of codes."""
        n = len(next(iter(code.values())))
        return torch.cat([self.decode(part).cpu() for part in self._batches(code, n)])

    def _batches(self, rows: dict[str, Tensor], n: int) -> Iterator[dict[str, Tensor]]:
        for start in range(0, n, self.batch_size):
            yield {k: v[start : start + self.batch_size].to(self.device) for k, v in rows.items()}

    @torch.no_grad()
    def reconstruct(self, faces: Subjects) -> Tensor:
        """Reconstructions (N, C, H, H) in [-1, 1]; equal to an edit at strength 0."""
        return self.images(self.codes(faces))

    @torch.no_grad()
    def target(self, faces: Subjects, to: Request | Subjects) -> Code:
        """The code at strength 1."""
        code = self.codes(faces)
        return self.target_code(code, faces, to) if isinstance(to, Request) else self.target_code_like(code, faces, to)

    @torch.no_grad()
    def edit(self, faces: Subjects, to: Request | Subjects, strengths: Sequence[float] = (1.0,)) -> Tensor:
        """Edits (S, N, C, H, H) in [-1, 1]; strength 0 = reconstruction, 1 = full edit, above 1 = extrapolation."""
        code, target = self.codes(faces), self.target(faces, to)
        return torch.stack([self.images(partway(code, target, strength)) for strength in strengths])

    @torch.no_grad()
    def draw(self, seeds: Sequence[int], to: Request | None = None) -> Subjects:
        """Generated faces, one per seed. Labels in `conditioned_on` condition them; others are edited afterwards."""
        free = torch.full((len(seeds), len(self.label_names())), torch.nan)
        conditions = [item for item in to or () if item.name in self.conditioned_on and item.form == "set"]
        rest = [item for item in to or () if item not in conditions]  # also amounts
        labels = requested_labels(Request(tuple(conditions)), free, self.meta) if conditions else free
        code = self.draw_codes(list(seeds), labels)
        images = self.images(code)
        faces = replace(self.from_images(images, [f"seed:{seed}" for seed in seeds]), code=code)
        if not rest:
            return faces
        code = self.target(faces, Request(tuple(rest)))
        return replace(self.from_images(self.images(code), faces.names), code=code)

    @torch.no_grad()
    def mix(self, faces: Subjects, n: int) -> Tensor:
        """Interpolations: (1, n, C, H, H) between two faces, or (n, n, C, H, H) with four faces in the corners."""
        if len(faces) not in (2, 4):
            raise UserError(f"interpolate: expected two or four faces, got {len(faces)}")
        if "mix" in self.unsupported:
            raise UserError(self.unsupported["mix"])
        code, t = self.codes(faces), torch.linspace(0, 1, n)
        drawn = all(name.startswith("seed:") for name in faces.names)
        corner = lambda i: {key: value[i : i + 1] for key, value in code.items()}  # noqa: E731
        if len(faces) == 2:
            return self.images(self.interpolate(corner(0), corner(1), t, drawn))[None]
        left, right = self.interpolate(corner(0), corner(2), t, drawn), self.interpolate(corner(1), corner(3), t, drawn)
        images = self.images(self.interpolate(left, right, t, drawn)).unflatten(0, (n, n))  # (column, row, ...)
        return images.transpose(0, 1)


def partway(code: Code, target: Code, strength: float) -> Code:
    """code + strength * (target - code). Entries that the target does not change stay bit for bit equal."""
    if strength == 0:
        return code
    result = {}
    for key, value in code.items():
        if target[key] is value or strength == 1:
            result[key] = target[key]
        else:
            result[key] = value + strength * (target[key] - value)
    return result


def along(path: Callable, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """`path` (lerp or slerp) between rows of a and b, (N, ...) each, at t (T,): (T x N, ...)."""
    return path(a.flatten(1), b.flatten(1), t[:, None]).flatten(0, 1).unflatten(-1, a.shape[1:])
