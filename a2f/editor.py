"""The editors of the four systems: codes from noise or from a sketch, and edits of both."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from a2f.config import CONFIGS
from a2f.requests import ATTRIBUTE_TABLE, MIN_SUPPORT, AttributeTable, signed
from a2f.rough import decoded, from_prior
from a2f.train import METHODS
from data.labels import requested_labels
from data.request import Request
from editing import editor
from editing.subjects import Code, Subjects
from engine import UserError
from engine.config import read_system
from engine.precision import seed_of
from evaluation.manifest import weights_sha256
from latents.paths import lerp, slerp


@dataclass(frozen=True)
class Options:
    """Options of all systems."""

    truncation: float = 1.0  # factor on the noise of generated faces, 0 .. 2; below 1: more typical, less varied


class Editor(editor.Editor):
    """Base class. It completes requests from the joint distribution of the training faces' attributes.

    Every code has `attr` (N, A) in [0, 1]: the attributes that this system uses.
    """

    config_class, method_class, options_class = CONFIGS, METHODS, Options
    training_only = ("encoder.", "decoder.", "prior.", "generator.", "critic.", "photo_encoder.")
    label_source = "assumed: the most frequent attributes of training faces that agree with the known ones"

    def __init__(self, run_dir: str | Path, *args: Any, **kwargs: Any) -> None:
        super().__init__(run_dir, *args, **kwargs)
        self.classes, self.attributes = [], self.method.request_names()
        self.conditioned_on = list(self.attributes)
        self.columns = [self.meta["attributes"].index(name) for name in self.attributes]
        if not 0 <= self.options.truncation <= 2:
            raise UserError(f"--truncation {self.options.truncation}: expected a number in 0 .. 2")

    @classmethod
    def of(cls, run_dir: str | Path) -> "type[editor.Editor]":
        return EDITORS[read_system(Path(run_dir) / "config.yaml", (), CONFIGS)]

    @cached_property
    def table(self) -> AttributeTable:
        """The joint distribution of this system's attributes."""
        return AttributeTable.load(self.run_dir / ATTRIBUTE_TABLE).only(self.attributes)

    def fitted(self) -> list[Path]:
        """The table of attributes, which training writes."""
        return [self.run_dir / ATTRIBUTE_TABLE]

    def draw_codes(self, seeds: Sequence[int], labels: Tensor) -> Code:
        return self.codes_for(seeds, self.requests(seeds, labels))

    def codes_for(self, seeds: Sequence[int], attr: Tensor) -> Code:
        """Codes of generated faces for complete attributes (n, A). Row i depends on seeds[i] and attr[i] only."""
        raise NotImplementedError

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Noise (n, noise_dim). Row i depends on seeds[i] only."""
        rows = [torch.Generator().manual_seed(seed_of(seed, 0, 0)) for seed in seeds]
        size = self.method.noise_dim
        return self.options.truncation * torch.stack([torch.randn(size, generator=g) for g in rows])

    def requests(self, seeds: Sequence[int], labels: Tensor) -> Tensor:
        """Complete attributes (n, A): known values of labels (n, L) stay, NaN values are sampled."""
        rows, noted = [], set()
        for seed, row in zip(seeds, labels[:, self.columns], strict=True):
            given = {n: float(v) for n, v in zip(self.attributes, row, strict=True) if not v.isnan()}
            rows.append(torch.from_numpy(self.table.draw(1, given, seed))[0])
            text = " ".join(f"{name}={value:g}" for name, value in given.items())
            if text not in noted and (found := self.table.support(given)) < MIN_SUPPORT:
                print(f"note: only {found} of {self.table.counts.sum():,} training faces have {text}", file=sys.stderr)
            noted.add(text)
        return torch.stack(rows)

    def completed(self, batch: dict[str, Tensor]) -> Tensor:
        """Attributes (n, A) of faces. Unknown ones are filled in by `AttributeTable.complete`."""
        attr = batch["attr"][:, self.columns].cpu()
        return torch.from_numpy(self.table.complete(attr.numpy())) if attr.isnan().any() else attr

    def predict_labels(self, faces: Subjects) -> Tensor:
        labels = self.labels(faces)
        labels[:, self.columns] = self.codes(faces)["attr"]
        return labels

    def requested(self, attr: Tensor, request: Request) -> Tensor:
        """Attributes (n, A) after a request. Attributes that it excludes become 0 (at most one hair colour stays)."""
        wanted = requested_labels(request, attr, {"attributes": self.attributes, "classes": []})
        stated = {item.name: float(item.value) for item in request if item.value is not None}
        self.table.refuse_conflicts(stated)
        rows = wanted.numpy().copy()
        for i in range(len(rows)):
            given = {name: float(rows[i, self.attributes.index(name)]) for name in request.names}
            rows[i] = self.table.repaired(rows[i : i + 1], given)[0]
        return torch.from_numpy(rows)

    def a(self, attr: Tensor) -> Tensor:
        """The networks' input: 2 attr - 1."""
        return signed(attr).to(self.device)

    def interpolate(self, a: Code, b: Code, t: Tensor, drawn: bool) -> Code:
        """Spherical interpolation of the noise of generated faces, which keeps its norm typical; else linear."""
        mixed = {}
        for key in a:
            path = slerp if drawn and key == "z" else lerp
            rows = path(a[key].flatten(1), b[key].flatten(1), t[:, None])
            mixed[key] = rows.flatten(0, 1).unflatten(-1, a[key].shape[1:])
        return mixed


class CGANEditor(Editor):
    """Code {z, attr}."""

    unsupported = {"read": "a CGAN cannot encode a photo; use a run of system face, or a generated face such as seed:0"}

    def decode(self, code: Code) -> Tensor:
        return self.method.draw(self.a(code["attr"]), code["z"])

    def codes_for(self, seeds: Sequence[int], attr: Tensor) -> Code:
        return {"z": self.noise(seeds), "attr": attr}

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        return code | {"attr": self.requested(code["attr"], request)}


class SketchEditor(Editor):
    """Stages 1 and 2, code {z, attr}. The input is a photo's sketch; the output is a sketch in C equal channels."""

    def encode(self, batch: dict[str, Tensor]) -> Code:
        attr = self.completed(batch)
        encoder = self.method.ema_encoder if self.method.cfg.system == "rough" else self.method.chain.encoder
        return {"z": encoder(self.method.picture_of(batch), self.a(attr))[0], "attr": attr}

    def decode(self, code: Code) -> Tensor:
        a, method = self.a(code["attr"]), self.method
        if method.cfg.system == "rough":
            s = decoded(method.ema_decoder, method.cfg.model.prior, code["z"], a)
        else:
            s = method.decode(method.chain.decode(code["z"], a), a, a[:, :0])
        return s.expand(-1, self.meta["channels"], -1, -1)

    def codes_for(self, seeds: Sequence[int], attr: Tensor) -> Code:
        rough = self.method.cfg.system == "rough"
        prior = self.method.ema_prior if rough else self.method.chain.prior
        kind = self.method.cfg.model.prior if rough else self.method.chain.rough_model.prior
        return {"z": from_prior(prior, kind, self.a(attr), self.noise(seeds).to(self.device)).cpu(), "attr": attr}

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        return code | {"attr": self.requested(code["attr"], request)}

    def guides(self) -> dict[str, str]:
        return stages_of(self.method)


class FaceEditor(Editor):
    """Stage 3, code {sketch, attr, colour}. `draw` samples from noise (A2F-noise); `encode` uses a photo's sketch."""

    def encode(self, batch: dict[str, Tensor]) -> Code:
        return {
            "sketch": self.method.sketch_of(batch),
            "attr": self.completed(batch),
            "colour": self.method.code_of(batch["image"]),
        }

    def decode(self, code: Code) -> Tensor:
        return self.method.decode(code["sketch"], self.a(code["attr"]), code["colour"])

    def codes_for(self, seeds: Sequence[int], attr: Tensor) -> Code:
        size = self.method.chain.noise_dim
        z, colour = self.noise(seeds).split([size, self.method.cfg.model.colour_dim], 1)
        parts = [
            self.method.dream(self.a(a), part.to(self.device)).cpu()
            for a, part in zip(attr.split(self.batch_size), z.split(self.batch_size), strict=True)
        ]
        return {"sketch": torch.cat(parts), "attr": attr, "colour": colour.contiguous()}

    def from_sketches(self, s: Tensor, names: Sequence[str], seeds: Sequence[int], request: Request | None) -> Subjects:
        """Faces from sketches s (N, 1, H, H). Attributes outside the request and colour codes are sampled by seed."""
        unknown = torch.full((len(s), len(self.label_names())), torch.nan)
        labels = requested_labels(request, unknown, self.meta) if request else unknown
        code = self.draw_codes(list(seeds), labels) | {"sketch": s}
        faces = self.from_images(self.images(code), names)
        faces.code = code
        return faces

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        """Add to the sketch the difference between stage 2's sketches for the requested and the present attributes.

        So details of this person that stages 1 and 2 cannot draw stay. The colour code does not change.
        """
        attr, columns = self.requested(code["attr"], request), self.method.texture_places
        target = code | {"attr": attr}
        if not torch.equal(attr[:, columns], code["attr"][:, columns]):
            edited = [
                self._edited_sketch(*(part.to(self.device) for part in parts)).cpu()
                for parts in zip(*(v.split(self.batch_size) for v in (code["sketch"], code["attr"], attr)), strict=True)
            ]
            target["sketch"] = torch.cat(edited)
        return target

    def _edited_sketch(self, s: Tensor, attr: Tensor, attr_target: Tensor) -> Tensor:
        chain, own, target = self.method.chain, *(self.method.texture(self.a(v)) for v in (attr, attr_target))
        mu = chain.encoder(s, own)[0]
        change = chain.sharpened(chain.decode(mu, target), target) - chain.sharpened(chain.decode(mu, own), own)
        return (s + change).clamp(-1, 1)

    def guides(self) -> dict[str, str]:
        return stages_of(self.method)


def stages_of(method: Any) -> dict[str, str]:
    """{name: sha256} of the frozen stages in a run's checkpoint."""
    chain = getattr(method, "chain", None)
    return {name: weights_sha256(net) for name, net in chain.named_children()} if chain is not None else {}


EDITORS = {"cgan": CGANEditor, "rough": SketchEditor, "sharp": SketchEditor, "face": FaceEditor}
