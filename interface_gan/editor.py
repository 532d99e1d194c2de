"""The editor of InterFaceGAN: faces are inverted to ws, and edits are steps across boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from data.request import Request, parse_names
from editing import editor
from editing.subjects import Code, Subjects
from engine import UserError
from engine.checkpoint import load_fields
from evaluation import classifier
from interface_gan.boundary import Boundaries, boundaries_path, load_boundaries
from interface_gan.codes import Stats, draw_z, map_z
from interface_gan.config import Config
from interface_gan.encoder import EncoderMethod, load_encoder
from interface_gan.inversions import invert
from interface_gan.plan import Plan, Samples, plan
from interface_gan.score import log_odds, read_images, read_scores
from interface_gan.train import StyleGAN2
from interface_gan.until import strength_until

REFERENCE_FACES = 64  # number of validation faces for the comparison of a photo's residual


@dataclass(frozen=True)
class Options:
    """Options of edits."""

    move: Literal["least", "paper", "transport", "random"] = "least"  # the kind of step; see interface_gan/plan.py
    keep: tuple[str, ...] = ("auto",)  # attributes that must not change: auto, none, or names
    estimator: Literal["ridge_rank", "svc", "linear_svc", "logreg"] = "ridge_rank"  # the estimator of the boundaries
    layers: str = "all"  # layers that an edit changes, such as 2-5, counted from 0


class Editor(editor.Editor):
    """Codes are {ws (N, L, Z)}, one style per layer.

    The names in requests and in `meta` are those of the guide that scored the codes. So faces without labels can be
    edited too.
    """

    config_class, method_class, options_class = Config, StyleGAN2, Options
    slow_encode = True
    training_only = ("generator.", "path_mean", "grid_z")
    num_reference = REFERENCE_FACES  # inverting one takes a second
    method: StyleGAN2
    options: Options

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.generator = self.method.ema_generator.module
        if self.fits_boundaries():
            held = self.boundaries("w")
            self.meta = self.meta | held.provenance["names"]
            self.classes, self.attributes = held.classes, held.attributes

    def encode(self, batch: dict[str, Tensor]) -> Code:
        return {"ws": self.inverted(batch["image"])}

    def decode(self, code: Code) -> Tensor:
        return self.generator.synthesis(code["ws"]).clamp(-1, 1)

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        rows = self.layers()
        mean = code["ws"][:, rows].mean(1)
        if any(item.form == "probability" for item in request):
            step = self.until(code["ws"], rows, faces, request)
        else:
            step = self.plan(mean, faces, request).step
        return code | {"ws": moved(code["ws"], rows, step)}

    def until(self, ws: Tensor, rows: list[int], faces: Subjects, request: Request) -> Tensor:
        """Steps (N, Z) after which the guide's probability of the requested name has the requested value."""
        if len(request) > 1:
            raise UserError(f"{request}: a request with a probability must have one item only; give them one by one")
        (item,), guide, held = request, self.guide(), self.boundaries("w")
        row, column = held.row(item.name), guide.names.index(item.name)
        mean = ws[:, rows].mean(1)
        one = replace(item, form="step", value=1.0)
        unit = self.plan(mean, faces, Request((one,))).step  # (N, Z), changes the reading by one standard deviation

        def probability(strength: Tensor) -> Tensor:
            images = self.images({"ws": moved(ws, rows, strength[:, None] * unit)})
            return guide.probabilities(read_images(guide, images))[:, column]

        rising = probability(torch.zeros(len(ws))) < item.value
        unit = torch.where(rising[:, None], unit, -unit)
        reading = held.read(mean)[:, row]
        room = torch.where(rising, held.span[row, 1] - reading, reading - held.span[row, 0]) / held.sigma[row]
        strength, reached = strength_until(probability, item.value, room.clamp_min(0), rising)
        for name, done in zip(faces.names, reached.tolist(), strict=True):
            if not done:
                print(f"{name}: {item} is not reached within the range of the sampled codes; the limit is used")
        return strength[:, None] * unit

    def draw_codes(self, seeds: Sequence[int], labels: Tensor) -> Code:
        z = torch.cat([draw_z(1, self.method.cfg.model.latent_dim, seed) for seed in seeds])
        return {"ws": self.generator.broadcast(map_z(self.generator, z).to(self.device)).cpu()}

    def predict_labels(self, faces: Subjects) -> Tensor:
        """Predict unknown labels from the code. Labels without a boundary stay unknown."""
        labels, names = self.labels(faces), self.label_names()
        if not self.fits_boundaries():
            return labels
        held = self.boundaries("w")
        readings = held.read(self.codes(faces)["ws"].mean(1))
        for name in held.attributes:
            column = labels[:, names.index(name)]
            seen = (readings[:, held.names.index(name)] > 0).float()
            labels[:, names.index(name)] = torch.where(column.isnan(), seen, column)
        if held.classes:
            rows = [held.names.index(name) for name in held.classes]
            seen = (readings[:, rows] / held.sigma[rows]).argmax(1)
            for i, name in enumerate(held.classes):
                column = labels[:, names.index(name)]
                labels[:, names.index(name)] = torch.where(column.isnan(), (seen == i).float(), column)
        return labels

    def facts(self, request: Request | None = None) -> dict[str, Any]:
        facts = super().facts(request)
        if self.fits_boundaries():
            facts |= {"boundaries": {k: v for k, v in self.boundaries("w").provenance.items() if k != "names"}}
        return facts

    def fitted(self) -> list[Path]:
        """The boundaries of W."""
        self.boundaries("w")
        return [boundaries_path(self.run_dir, "w", self.options.estimator)]

    def guides(self) -> dict[str, str]:
        found = {}
        for path in sorted(self.run_dir.glob("boundaries_*.pt")):
            found |= torch.load(path, map_location="cpu", weights_only=True)["provenance"]["guides"]
        return found

    # Faces of the data set, with the guide's names.

    def take(self, split: str, places: Sequence[int]) -> Subjects:
        faces = super().take(split, places)
        if self.meta is self.method.meta:
            return faces
        return self.from_batch(faces.batch, self.method.meta, faces.names)

    # Inversions, boundaries and steps.

    def fits_boundaries(self) -> bool:
        """Whether there are boundaries in W, fitted to the weights of this run. After more training they are not."""
        path = boundaries_path(self.run_dir, "w", self.options.estimator)
        return path.is_file() and load_fields(Boundaries, path).provenance["sha256"] == self.method.origin.sha256

    def parse(self, text: str | Sequence[str]) -> Request:
        """Parse a request; names are those of the boundaries. Raises UserError if there are none for these weights."""
        self.boundaries("w")
        return super().parse(text)

    @cached_property
    def stats(self) -> Stats:
        """The distribution of w."""
        return Stats.of(self.generator)

    @cached_property
    def encoder(self) -> EncoderMethod | None:
        """The encoder in the run directory, if one was trained."""
        return load_encoder(self.run_dir, self.method.origin.sha256, self.device)

    def inverted(self, x: Tensor) -> Tensor:
        """ws (N, L, Z) of faces, inverted with the discriminator's features and cached in the run directory."""
        folder, weights = self.cache_dir / "inversions", self.method.origin.sha256
        folder.mkdir(exist_ok=True)
        maps = self.method.discriminator.features
        return invert(self.generator, maps, self.stats, x, folder, weights, self.encoder)

    def boundaries(self, space: str) -> Boundaries:
        """The run's boundaries in a space, fitted by the estimator of the options."""
        return load_boundaries(self.run_dir, space, self.options.estimator, self.method.origin.sha256)

    def plan(self, codes: Tensor, faces: Subjects, request: Request, space: str = "w") -> Plan:
        """The steps of codes (N, Z) of a space. The labels of `faces` tell on which side of a boundary they are."""
        held, names = self.boundaries(space), self.label_names()
        labels = self.labels(faces)
        columns = [names.index(name) if name in names else None for name in held.names]
        unknown = torch.full((len(codes),), torch.nan)
        own = torch.stack([unknown if c is None else labels[:, c] for c in columns], 1)
        own = known_class(own, held, codes)
        cov = self.stats.cov if space == "w" else torch.eye(codes.shape[1], dtype=torch.float64)
        keep: str | list[str] = list(self.options.keep)
        if keep == ["auto"] or keep in ([], ["none"]):
            keep = keep[0] if keep else "none"
        else:
            keep = parse_names(keep, held.classes, held.attributes)
        samples = self.samples(space) if self.options.move == "transport" else None
        return plan(codes, request, held, cov, own, self.options.move, keep, samples)

    def samples(self, space: str) -> Samples:
        """The scored codes that the boundaries were fitted to, for `--move transport`."""
        held = self.boundaries(space)
        scores = read_scores(self.run_dir / "scores", held.provenance)
        table, pairs = log_odds(scores.logits, scores.classes)
        names, k = [*scores.names, *pairs], len(scores.classes)
        sides = table > 0
        if k:
            sides[:, :k] = torch.nn.functional.one_hot(scores.logits[:, :k].argmax(1), k).bool()
        codes = draw_z(len(sides), self.method.cfg.model.latent_dim, scores.seed)
        codes = map_z(self.generator, codes) if space == "w" else codes
        return Samples(codes, sides[:, [names.index(name) for name in held.names]])

    def guide(self) -> Any:
        """The classifier that scored the codes."""
        (run,) = self.boundaries("w").provenance["guides"]
        return classifier.load(run, role="guide", device=str(self.device))

    def layers(self) -> list[int]:
        """The layers that an edit changes."""
        count, text = self.generator.num_ws, self.options.layers
        if text == "all":
            return list(range(count))
        first, dash, last = text.partition("-")
        if not (first.isdigit() and (last or first).isdigit() and int(first) <= int(last or first) < count):
            raise UserError(f"--layers {text}: expected all, or first-last in 0 .. {count - 1}, such as 2-{count - 1}")
        return list(range(int(first), int(last or first) + 1))


def moved(ws: Tensor, rows: list[int], step: Tensor) -> Tensor:
    """Add a step (N, Z) to some layers of ws (N, L, Z)."""
    ws = ws.clone()
    ws[:, rows] += step[:, None]
    return ws


def known_class(own: Tensor, held: Boundaries, codes: Tensor) -> Tensor:
    """Fill in the class of faces of unknown class, predicted from their codes (N, Z). Returns a new tensor (N, A).

    own (N, A): 0, 1, or NaN = unknown, with the columns of `held.names`. A face is of unknown class if all its class
    columns are NaN. The predicted class has the largest reading, divided by its standard deviation `held.sigma`. Only
    classes with a boundary can be predicted. Columns of attributes and of pairs do not change.
    """
    rows = [held.names.index(name) for name in held.classes]
    if not rows:
        return own
    unlabelled = own[:, rows].isnan().all(1)
    seen = (held.read(codes)[:, rows] / held.sigma[rows]).argmax(1)
    one_hot = torch.nn.functional.one_hot(seen, len(rows)).to(own)
    own = own.clone()
    own[:, rows] = torch.where(unlabelled[:, None], one_hot, own[:, rows])
    return own
