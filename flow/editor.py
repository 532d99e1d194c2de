"""The flow's `Editor`: encodes faces, and edits codes along directions or by decoding under another label."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from data.labels import label_names, label_table, requested_labels
from data.request import Request, parse_names
from editing import editor
from editing.editor import along
from editing.subjects import Code, Subjects
from engine import UserError
from flow.config import Config
from flow.density import fit_run_directions, image_bits_of, most_likely_labels
from flow.directions import Directions, directions_path, load_directions
from flow.edit import decode_photo, encode_photo, level_mask
from flow.latent_editor import LatentEditor
from flow.train import Glow
from latents.paths import lerp, slerp

GAIN = 1.6  # default step along a direction, as in openai/glow
LABEL_GAIN = 1.5  # default for label edits; 1 is the target label, more extrapolates


@dataclass(frozen=True)
class Options:
    """Options of edits and samples."""

    kind: Literal["auto", "label", "ols", "mean"] = "auto"  # decode under another label, or move along a direction
    gain: str = ""  # step size: a number, or auto (per face, by its reader); default 1.5 for label, 1.6 for directions
    keep: tuple[str, ...] = ()  # labels to keep: their directions are projected out of the edit
    levels: str = ""  # levels that an edit may change, 1 = finest, as 2,3; default all
    temperature: float = 0.7  # standard deviation of sampled codes


class Editor(editor.Editor):
    """Codes {eps (N, D), coarsest level first; lost (N, C, H, H), the bits that n_bits < 8 drops; y (N, K) if
    conditional}."""

    config_class, method_class, options_class = Config, Glow, Options
    training_only = ("flow.", "noise")
    batch_size = 64
    method: Glow
    options: Options

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.flow, self.y_labels, self.n_bits = self.method.ema.module, self.method.labels, self.method.cfg.loss.n_bits
        self.conditioned_on = self.y_labels.names

    def encode(self, batch: dict[str, Tensor]) -> Code:
        y = self.y_of(batch["image"], label_table({k: v.cpu() for k, v in batch.items()}, self.meta))
        photo = encode_photo(self.flow, batch["image"], self.n_bits, None if y is None else y.to(self.device))
        return {"eps": photo.code.flat(), "lost": photo.lost} | ({} if y is None else {"y": y})

    def y_of(self, x: Tensor, table: Tensor) -> Tensor | None:
        """y (N, K) of faces with labels (N, L). An unknown class or bit gets its most likely value."""
        if not len(self.y_labels):
            return None
        known = table[:, [label_names(self.meta).index(name) for name in self.y_labels.names]]
        unknown = known.isnan().any(1)
        if unknown.any():
            bits = None if self.y_labels.are_classes else self.centred(known[unknown])
            guess = most_likely_labels(self, x[unknown.to(x.device)], bits).to(known)
            known[unknown] = torch.where(known[unknown].isnan(), guess, known[unknown])
        if self.y_labels.are_classes:
            return self.y_labels.encode(known.argmax(1).to(self.device)).cpu()
        return self.centred(known)

    def centred(self, bits: Tensor) -> Tensor:
        """Attribute bits (N, K) on the CPU, NaN = unknown -> y (N, K)."""
        return torch.nan_to_num(bits - self.y_labels.frequency.cpu(), nan=0.0)

    def decode(self, code: Code) -> Tensor:
        lost = code["lost"]
        lost = lost.round().to(torch.int32) if lost.is_floating_point() else lost
        return decode_photo(self.flow, self.flow.unflatten(code["eps"]), self.n_bits, code.get("y"), lost)

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        if self.kind_for(request) == "label":
            if self.options.keep or self.options.levels:
                raise UserError(
                    "--keep and --levels work along directions only; this edit changes the label; use --kind ols"
                )
            if (gain := self.gain(LABEL_GAIN)) is None:
                raise UserError("--gain auto: works along directions only; this edit changes the label, give a number")
            return code | {"y": code["y"] + gain * (self.target_labels(code["y"], request) - code["y"])}
        return code | {"eps": code["eps"] + self.latent_editor().step(code["eps"], self.labels(faces), request)}

    def kind_for(self, request: Request) -> str:
        """The kind of edit. `auto` is `label` if the run was trained with all labels of the request, else `ols`."""
        kind = self.options.kind
        if kind == "auto":
            kind = "label" if len(self.y_labels) and set(request.names) <= set(self.y_labels.names) else "ols"
        if kind == "label" and not len(self.y_labels):
            raise UserError(f"--kind label: {self.run_dir} was trained without labels; use --kind ols")
        return kind

    def gain(self, default: float) -> float | None:
        """--gain as a number; None for auto."""
        if self.options.gain == "auto":
            return None
        try:
            return float(self.options.gain or default)
        except ValueError:
            raise UserError(f"--gain {self.options.gain}: expected a number or auto") from None

    def target_labels(self, y: Tensor, request: Request) -> Tensor:
        """Target labels (N, K) of a request, for faces with labels y (N, K)."""
        names = self.y_labels.names
        for item in request:
            if item.name not in names:
                raise UserError(f"{item.name}: the run was trained with {', '.join(names)} only; use --kind ols")
        if self.y_labels.are_classes:
            return requested_labels(request, y, {"classes": names, "attributes": []})
        bits = (y + self.y_labels.frequency.cpu()).round()
        target = requested_labels(request, bits, {"classes": [], "attributes": names})
        named = torch.tensor([name in request for name in names])
        return torch.where(named, self.centred(target), y)

    def draw_codes(self, seeds: Sequence[int], labels: Tensor) -> Code:
        rows, ys = [], []
        for seed, row in zip(seeds, labels, strict=True):
            generator = torch.Generator().manual_seed(seed)
            rows.append(self.options.temperature * self.flow.noise(1, generator).cpu())
            ys.append(self.sample_label(row, generator))
        eps, (c, size) = torch.cat(rows), (self.meta["channels"], self.meta["image_size"])
        code = {"eps": eps, "lost": torch.zeros(len(eps), c, size, size, dtype=torch.int32)}
        return code | {"y": torch.cat(ys)} if len(self.y_labels) else code

    def sample_label(self, row: Tensor, generator: torch.Generator) -> Tensor:
        """y (1, K) for labels (L,). NaN = free: a free class is sampled with the training frequencies."""
        labels = self.y_labels
        if not len(labels):
            return torch.zeros(1, 0)
        known = row[[label_names(self.meta).index(name) for name in labels.names]][None]
        if not labels.are_classes:
            return self.centred(known)
        if not known.isnan().any():
            return known
        return labels.encode(torch.multinomial(labels.frequency.cpu(), 1, generator=generator).to(self.device)).cpu()

    def interpolate(self, a: Code, b: Code, t: Tensor, drawn: bool) -> Code:
        """Slerp per level, since N(0, I) lies near a sphere. Labels and lost bits: linear."""
        sizes = [level[0].numel() for level in self.flow.unflatten(a["eps"][:1])][::-1]
        levels = zip(a["eps"].split(sizes, 1), b["eps"].split(sizes, 1), strict=True)
        code = {"eps": torch.cat([along(slerp, x, y, t) for x, y in levels], 1)}
        code["lost"] = along(lerp, a["lost"].float(), b["lost"].float(), t)
        return code | ({"y": along(lerp, a["y"], b["y"], t)} if "y" in a else {})

    def predict_labels(self, faces: Subjects) -> Tensor:
        code, labels = self.codes(faces), self.labels(faces).clone()
        if "y" in code:
            columns = [self.label_names().index(name) for name in self.y_labels.names]
            y = code["y"] if self.y_labels.are_classes else (code["y"] + self.y_labels.frequency.cpu()).round()
            labels[:, columns] = torch.where(labels[:, columns].isnan(), y, labels[:, columns])
        return self.latent_editor().read(code["eps"], labels) if labels.isnan().any() else labels

    def atypicality(self, faces: Subjects) -> Tensor:
        """Bits per dimension (N,)."""
        return image_bits_of(self, faces.images, self.codes(faces).get("y"), generator=torch.Generator().manual_seed(0))

    # Directions.

    def latent_editor(self) -> LatentEditor:
        """The editor along directions, set up from the options."""
        directions = self.directions("mean" if self.options.kind == "mean" else "ols")
        keep = parse_names(self.options.keep, self.classes, self.attributes)
        return LatentEditor(self.flow, directions, self.meta, self.gain(GAIN), keep, self.level_mask)

    @property
    def level_mask(self) -> Tensor | None:
        """(D,): 1 where --levels lets a code change; None for all levels."""
        levels, count = self.options.levels.split(",") if self.options.levels else [], len(self.flow.levels)
        if not set(word.strip() for word in levels) <= {str(n) for n in range(1, count + 1)}:
            raise UserError(
                f"--levels {self.options.levels}: expected numbers from 1 (finest) to {count}, as 1,{count}"
            )
        return level_mask(self.flow, [int(word) for word in levels], torch.device("cpu")) if levels else None

    @cached_property
    def _directions(self) -> dict[str, Directions]:
        return {}

    def directions(self, kind: str) -> Directions:
        """The run's directions, read from its directory. If missing, they are fitted and saved, with a message."""
        if kind not in self._directions:
            path = directions_path(self.run_dir, kind)
            if path.is_file():
                self._directions[kind] = found = load_directions(path, self.provenance())
                if found.provenance["max"]:
                    print(f"{path}: fitted to {found.provenance['max']} training faces only")
            else:
                print(f"no {path} yet: fitting {kind} directions on the training faces")
                self._directions[kind] = fit_run_directions(self, kind)
        return self._directions[kind]

    def fitted(self) -> list[Path]:
        """The directions and readers of default edits."""
        self.directions("ols")
        return [directions_path(self.run_dir, "ols")]

    def provenance(self) -> dict[str, Any]:
        """Provenance of directions. `max`: number of training faces they were fitted to, 0 = all."""
        origin = self.method.origin
        facts = {"dataset": self.meta["dataset"], "split": "train", "n_bits": self.n_bits, "max": 0}
        return facts | {"run": origin.run, "step": origin.step, "sha256": origin.sha256}

    def facts(self, request: Request | None = None) -> dict[str, Any]:
        return super().facts(request) | {"n_bits": self.n_bits}
