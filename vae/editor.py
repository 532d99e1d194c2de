"""The VAE's `Editor`: codes are mu of the averaged encoder. Edits move a code relative to the training codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from data.request import Request, parse_names
from editing import editor
from editing.editor import along
from editing.subjects import Code, Subjects
from engine.files import sha256
from evaluation.manifest import weights_sha256
from latents.paths import lerp, slerp
from vae.attributes import Codes, cached_codes, codes_key, codes_path, get_vectors, read_codes, vectors_path
from vae.config import Config
from vae.latent_editor import MATCH, NUM_NEIGHBORS, LatentEditor
from vae.prior import Mixture, fit_mixture
from vae.train import BetaVAE


@dataclass(frozen=True)
class Options:
    """Options of edits and samples."""

    kind: Literal["transport", "knn", "ols", "balanced", "mean"] = "transport"  # transport, knn: by similar faces
    num_neighbors: int = NUM_NEIGHBORS  # neighbours on each side; a matched group has twice as many or more
    match: tuple[str, ...] = MATCH  # attributes on which the matched faces agree
    keep: tuple[str, ...] = ()  # attributes to keep: their directions are projected out of the edit
    density: Literal["normal", "gmm"] = "normal"  # of sampled codes: N(0, I), or a fitted mixture


class Editor(editor.Editor):
    """Codes {z (N, Z)}."""

    config_class, method_class, options_class = Config, BetaVAE, Options
    training_only = ("encoder.", "decoder.", "feature_net.", "discriminator.", "prior_noise")
    method: BetaVAE
    options: Options

    def encode(self, batch: dict[str, Tensor]) -> Code:
        return {"z": self.method.ema_encoder(batch["image"])[0]}

    def decode(self, code: Code) -> Tensor:
        return self.method.ema_decoder(code["z"])

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        return code | {"z": self.latent_editor(self.options.kind).move(code["z"], request, self.labels(faces))}

    def draw_codes(self, seeds: Sequence[int], labels: Tensor) -> Code:
        if self.options.density == "gmm":
            return {"z": self.mixture.draw(seeds)}
        size = self.method.cfg.model.latent_dim
        return {"z": torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(s)) for s in seeds])}

    def interpolate(self, a: Code, b: Code, t: Tensor, drawn: bool) -> Code:
        """Linear for encoded faces; spherical for samples, since samples of N(0, I) lie near a sphere."""
        return {"z": along(slerp if drawn else lerp, a["z"], b["z"], t)}

    def predict_labels(self, faces: Subjects) -> Tensor:
        """Unknown labels are predicted from the code by their scores."""
        if not self.label_names():
            return self.labels(faces)
        return self.latent_editor("ols").complete(self.codes(faces)["z"], self.labels(faces))

    def guides(self) -> dict[str, str]:
        w = self.method.cfg.loss
        if w.features == "vgg19":
            return {"vgg19": sha256(w.vgg19_weights)}
        return {"own features": weights_sha256(self.method.feature_net)} if w.features == "own" else {}

    def training_codes(self, split: str = "train") -> Codes:
        """Codes and labels of a whole split, cached in the run directory. Cached codes need no data set."""
        path = codes_path(self.run_dir, split, self.method.origin.step)
        held = read_codes(path, codes_key(self.method, self.meta["fingerprint"]))
        if held is not None and self.data_root is None:
            return held
        return cached_codes(self.method, self.split(split), self.faces.meta["fingerprint"], self.run_dir, split)

    def latent_editor(self, kind: str) -> LatentEditor:
        """The `LatentEditor` of `kind`, with the run's codes and vectors, which are made if missing."""
        train, fit = self.training_codes("train"), kind if kind in ("mean", "balanced") else "ols"
        vectors = get_vectors(self.method, self.run_dir, fit, train, lambda: self.training_codes("val"))
        keep = parse_names(self.options.keep, self.classes, self.attributes)
        return LatentEditor(train, vectors, self.meta, kind, self.options.num_neighbors, self.options.match, keep)

    @cached_property
    def mixture(self) -> Mixture:
        return fit_mixture(self.training_codes("train").mu)

    def fitted(self) -> list[Path]:
        """The training codes, and the vectors that scores and default edits use."""
        self.latent_editor("ols")
        return [codes_path(self.run_dir, "train", self.method.origin.step), vectors_path(self.run_dir, "ols")]

    def facts(self, request: Request | None = None) -> dict[str, Any]:
        return super().facts(request) | {"kind": self.options.kind}
