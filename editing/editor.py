"""The interface to a trained model. A picture is a decoded code; a family says how codes are made and where they go.

A family writes `encode`, `decode`, `target_code` and `draw_codes`. Everything else follows from them, once.
"""

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

PHOTO_PERCENTILE = 0.99  # of the validation faces' errors
PHOTO_MARGIN = 2.0  # times that: a photo beyond it does not look like the training crops


@dataclass(frozen=True)
class NoOptions:
    """A family without options of its own."""


class Editor:
    """A trained run, opened for use.

    Attributes:
        method: the trained method in evaluation mode; `meta`: what its data were; `device`.
        classes, attributes: what a request may name.
        conditioned_on: labels that `draw_codes` can be told; any other request is aimed at after drawing.
        options: an instance of `options_class`. `encode` must not depend on it.
    """

    config_class: Any
    method_class: Any
    options_class: type = NoOptions
    batch_size = 256
    unsupported: dict[str, str] = {}  # verb (read | edit | draw | mix) -> why, in one sentence
    label_source = "read from its code"  # where labels come from that the data do not know

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
        self.method = load(self.run_dir, self.config_class, self.method_class, step, device)
        self.meta, self.device = self.method.meta, self.method.device
        self.options = options if options is not None else self.options_class()
        self.classes, self.attributes = list(self.meta["classes"]), list(self.meta["attributes"])
        self.conditioned_on: list[str] = []

    @classmethod
    def of(cls, run_dir: str | Path) -> "type[Editor]":
        """The editor class of a run; a family with several systems chooses here."""
        return cls

    # What a family writes.

    def encode(self, batch: dict[str, Tensor]) -> Code:
        """Codes of a batch on the device. Labels that the batch does not know are predicted or assumed here."""
        raise UserError(self.unsupported["read"])

    def decode(self, code: Code) -> Tensor:
        """Codes on the device -> pictures (n, C, H, H) in [-1, 1]."""
        raise TypeError(f"{type(self).__name__} has no decode(code)")

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        """Where strength 1 leads, on the CPU: `code | {what changes}`. What stays must be the same object."""
        raise UserError(self.unsupported["edit"])

    def target_code_like(self, code: Code, faces: Subjects, reference: Subjects) -> Code:
        """Where the expression of a reference face leads. `reference` has one face, or one for each face."""
        raise UserError("--like: this family takes no expression from another face; ask by name, as --attr happy")

    def draw_codes(self, seeds: Sequence[int], labels: Tensor) -> Code:
        """Codes of generated faces. Row i depends on seeds[i] alone; labels (N, L) with NaN = free."""
        raise UserError(self.unsupported["draw"])

    def interpolate(self, a: Code, b: Code, t: Tensor, drawn: bool) -> Code:
        """Codes on the way from a to b (N rows each) at t (T,): T x N rows. `drawn`: both are draws of the prior."""
        return {key: along(lerp, a[key], b[key], t) for key in a}

    def predict_labels(self, faces: Subjects) -> Tensor:
        """Labels (N, L): those that are known, and the others as the model reads them; NaN where it reads none."""
        return self.labels(faces)

    def atypicality(self, faces: Subjects) -> Tensor:
        """How little each face (N,) looks like a training crop: here the mean squared error of its reconstruction."""
        return (self.reconstruct(faces) - faces.images).square().flatten(1).mean(1)

    def facts(self, request: Request | None = None) -> dict[str, Any]:
        """What goes into the JSON beside a picture: the options, as they were used."""
        return asdict(self.options)

    def guides(self) -> dict[str, str]:
        """{name: sha256} of every other network that shaped the weights or the pictures."""
        return {}

    # Faces.

    @cached_property
    def faces(self) -> Faces:
        """The run's data, from `data_root` where they have moved."""
        cfg = self.method.cfg.data
        faces = build_faces(replace(cfg, root=str(self.data_root)) if self.data_root else cfg)
        if faces.meta["fingerprint"] != self.meta["fingerprint"]:
            print(f"note: {self.run_dir} was trained on other data (another root, or drawings of another version)")
        return faces

    def split(self, name: str) -> FaceSet:
        """train, val or test of the run's data; of two sets that alternate the first."""
        part = getattr(self.faces, name)
        return part.sets[0] if hasattr(part, "sets") else part

    def spread(self, split: str, n: int) -> list[str]:
        """Names of n faces of a split (0 = all): spread over it, expressions in turn; none is chosen by hand."""
        faces = self.split(split)
        places = range(len(faces)) if not n or n >= len(faces) else faces.spread_places(n).tolist()
        return [f"{split}:{place}" for place in places]

    def take(self, split: str, places: Sequence[int]) -> Subjects:
        """Faces of the run's data by their places in a split."""
        batch = self.split(split).take(np.asarray(list(places), np.int64))
        return Subjects({k: v.cpu() for k, v in batch.items()}, [f"{split}:{place}" for place in places])

    def from_images(self, images: Tensor, names: Sequence[str] | None = None) -> Subjects:
        """Faces (N, C, H, H) in [-1, 1] about which nothing is known."""
        size, channels = self.meta["image_size"], self.meta["channels"]
        if tuple(images.shape[1:]) != (channels, size, size):
            shape = " x ".join(str(v) for v in images.shape[1:])
            raise UserError(f"{self.run_dir}: takes faces of {channels} x {size} x {size}, got {shape}")
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
        """Faces of another data set with the labels that this run knows by the same names."""
        faces = self.from_images(batch["image"], names)
        faces.batch["index"] = batch["index"]
        if self.meta["classes"] and meta["classes"]:
            known = [self.meta["classes"].index(c) if c in self.meta["classes"] else -1 for c in meta["classes"]]
            faces.batch["label"] = torch.tensor([*known, -1])[batch["label"]]
        for column, name in enumerate(self.meta["attributes"]):
            if name in meta["attributes"]:
                faces.batch["attr"][:, column] = batch["attr"][:, meta["attributes"].index(name)].float()
        return faces

    def subjects(self, names: Sequence[str], eyes: Any = None, source: str | None = None) -> Subjects:
        """Faces by name: `test:12`, `seed:7`, a photo, or a folder of photos.

        A photo that cannot be used is reported and skipped. eyes: see `data.photo.load_face`; coordinates are of one
        photo. source: a request that says what the faces show now (`--from`); it replaces known labels.

        Raises:
            UserError: a name that is no face, or no photo that can be used.
        """
        names = expand_folders(names)
        files = [n for n in names if self._by_number(n) is None]
        if files and "read" in self.unsupported:
            raise UserError(f"{files[0]}: {self.unsupported['read']}")
        if len(files) > 1 and eyes is not None and eyes != "whole":
            raise UserError(f"--eyes {eyes}: are the eyes of one photo, and {len(files)} were given; edit it alone")
        photos = dict(load_each(files, lambda name: load_face(name, self.meta, eyes))) if files else {}
        parts = []
        for name in names:
            if name in photos:
                parts.append(replace(self.from_images(photos[name].image, [name]), photos=[photos[name]]))
            elif name not in files:
                parts.append(self._numbered(*self._by_number(name)))
        if any(part.code is not None for part in parts):  # a drawn face keeps its code, so the others need theirs
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
            raise UserError(f"{kind}:{number}: {self.unsupported['read']}; name a generated face, as seed:0")
        if number >= len(self.split(kind)):
            raise UserError(f"{kind}:{number}: expected {kind}:0 to {kind}:{len(self.split(kind)) - 1}")
        return self.take(kind, [number])

    def _relabel(self, faces: Subjects, source: str) -> Subjects:
        """The same faces with the labels that --from gives. Labels that it does not name stay."""
        labels = requested_labels(self.parse(source), self.labels(faces), self.meta)
        batch, split = dict(faces.batch), len(self.meta["attributes"])
        if split:
            batch["attr"] = labels[:, :split]
        if self.meta["classes"]:
            shown = labels[:, split:]
            batch["label"] = torch.where(shown.isnan().any(1), -1, shown.nan_to_num().argmax(1))
            if "label_soft" in batch:
                batch["label_soft"] = torch.where(shown.isnan(), batch["label_soft"], shown)
        return Subjects(batch, faces.names, faces.photos, given=True)

    def _warn_of_photos(self, faces: Subjects) -> None:
        rows = [i for i, photo in enumerate(faces.photos) if photo is not None]
        if not rows:
            return
        for i, value in zip(rows, self.atypicality(faces.select(rows)).tolist(), strict=True):
            if value > PHOTO_MARGIN * self.typical_limit:
                print(
                    f"{faces.names[i]}: does not look like the training crops; check the eyes with --eyes x1,y1,x2,y2",
                    file=sys.stderr,
                )

    @cached_property
    def typical_limit(self) -> float:
        """The atypicality that 99 of 100 validation faces stay below; infinite where the data are not there."""
        try:
            faces = self.split("val")
        except UserError as absent:
            print(f"note: photos are not compared with the training crops: {absent}", file=sys.stderr)
            return float("inf")
        sample = self.take("val", faces.spread_places(min(len(faces), 256)).tolist())
        return torch.quantile(self.atypicality(sample), PHOTO_PERCENTILE).item()

    def labels(self, faces: Subjects) -> Tensor:
        """Known labels (N, L) in {0, 1, NaN = unknown}, `data.labels.label_table`."""
        return label_table(faces.batch, self.meta)

    def label_names(self) -> list[str]:
        """The columns of `labels`."""
        return label_names(self.meta)

    # Requests.

    def parse(self, text: str | Sequence[str]) -> Request:
        """Read a request against what this run can be asked for."""
        return parse_request(text, self.classes, self.attributes)

    def targets(self) -> list[Request]:
        """What a strip or an export asks for by default: each class in turn, else each attribute flipped."""
        if self.classes:
            return [self.parse(self.classes[i]) for i in class_order(self.classes)]
        return [self.parse(f"{name}=flip") for name in self.attributes]

    # Verbs: no_grad, in batches, results on the CPU.

    @torch.no_grad()
    def codes(self, faces: Subjects) -> Code:
        """Codes of faces, made once and kept."""
        if faces.code is None:
            parts = [
                {k: v.cpu() for k, v in self.encode(part).items()} for part in self._batches(faces.batch, len(faces))
            ]
            faces.code = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return faces.code

    @torch.no_grad()
    def images(self, code: Code) -> Tensor:
        """Codes -> pictures (N, C, H, H) in [-1, 1]."""
        n = len(next(iter(code.values())))
        return torch.cat([self.decode(part).cpu() for part in self._batches(code, n)])

    def _batches(self, rows: dict[str, Tensor], n: int) -> Iterator[dict[str, Tensor]]:
        for start in range(0, n, self.batch_size):
            yield {k: v[start : start + self.batch_size].to(self.device) for k, v in rows.items()}

    @torch.no_grad()
    def reconstruct(self, faces: Subjects) -> Tensor:
        """(N, C, H, H): exactly an edit of strength 0."""
        return self.images(self.codes(faces))

    @torch.no_grad()
    def target(self, faces: Subjects, to: Request | Subjects) -> Code:
        """The code to which strength 1 leads."""
        code = self.codes(faces)
        return self.target_code(code, faces, to) if isinstance(to, Request) else self.target_code_like(code, faces, to)

    @torch.no_grad()
    def edit(self, faces: Subjects, to: Request | Subjects, strengths: Sequence[float] = (1.0,)) -> Tensor:
        """(S, N, C, H, H): at 0 the reconstruction, at 1 what was asked for; beyond 1 it extrapolates."""
        code, target = self.codes(faces), self.target(faces, to)
        return torch.stack([self.images(partway(code, target, strength)) for strength in strengths])

    @torch.no_grad()
    def draw(self, seeds: Sequence[int], to: Request | None = None) -> Subjects:
        """Generated faces, one a seed. What the run is conditioned on is drawn so; the rest is edited afterwards."""
        free = torch.full((len(seeds), len(self.label_names())), torch.nan)
        told = [item for item in to or () if item.name in self.conditioned_on and item.form == "set"]
        rest = [item for item in to or () if item not in told]  # also amounts: of what the drawn face shows
        labels = requested_labels(Request(tuple(told)), free, self.meta) if told else free
        code = self.draw_codes(list(seeds), labels)
        images = self.images(code)
        faces = replace(self.from_images(images, [f"seed:{seed}" for seed in seeds]), code=code)
        if not rest:
            return faces
        code = self.target(faces, Request(tuple(rest)))
        return replace(self.from_images(self.images(code), faces.names), code=code)

    @torch.no_grad()
    def mix(self, faces: Subjects, n: int) -> Tensor:
        """Between two faces (1, n, C, H, H), or a sheet between four (n, n, C, H, H) with the faces in its corners."""
        if len(faces) not in (2, 4):
            raise UserError(f"interpolate: takes two or four faces, got {len(faces)}")
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
    """The code at a strength on the way from `code` to `target`. What the target left alone stays bit for bit."""
    if strength == 0:
        return code
    moved = {}
    for key, value in code.items():
        if target[key] is value or strength == 1:
            moved[key] = target[key]
        else:
            moved[key] = value + strength * (target[key] - value)
    return moved


def along(path: Callable, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """`path` (lerp or slerp) from rows a to rows b, (N, ...) each, at t (T,): (T x N, ...)."""
    return path(a.flatten(1), b.flatten(1), t[:, None]).flatten(0, 1).unflatten(-1, a.shape[1:])
