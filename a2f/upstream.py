"""The chain of stages: find the run of the previous stage, check that its config fits, and copy its weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from a2f.config import CONFIGS, RoughModel, SketchGANModel
from a2f.model import UNet
from a2f.requests import signed, texture_columns
from a2f.rough import build_rough, decoded, dream
from data.sketch import sketch
from engine import EMA, Run, UserError, find_checkpoint, load_config
from engine.checkpoint import latest_checkpoint, read_checkpoint, step_of
from engine.config import read_system
from engine.files import sha256
from losses.gaussian import reparameterize

BEFORE = {"sharp": "rough", "face": "sharp"}
SAME = (
    *("data.dataset", "data.image_size", "data.grayscale", "data.crop", "data.eyes", "data.split", "data.sketch"),
    *("data.attributes", "data.seed", "data.prior", "data.num_train"),
)  # keys that must be equal in all stages of a chain


def resolve_upstream(cfg: Any) -> Any:
    """Complete the config of a stage with step, sha256 and model of `upstream.run`. cgan and rough do not change.

    If the config has a sha256 and the folder is missing, the config does not change, because the run's own checkpoint
    contains the weights of the previous stages.

    Raises:
        UserError: `upstream.run` is empty or not a run of the right system, a key of `SAME` differs, or its weights
            have changed.
    """
    if cfg.system not in BEFORE:
        return cfg
    up, wanted = cfg.upstream, BEFORE[cfg.system]
    if not up.run:
        raise UserError(
            f"upstream.run: expected the run directory of a {wanted} system, such as upstream.run=runs/a2f/NAME"
        )
    folder = Path(up.run)
    if up.sha256 and not (folder / "config.yaml").is_file():
        return cfg
    if not (folder / "config.yaml").is_file():
        raise UserError(f"upstream.run: {folder} is not a run directory; train the {wanted} system first")
    theirs = load_config(CONFIGS[_system_of(folder, wanted)], folder / "config.yaml")
    for key in SAME:
        block, name = key.split(".")
        mine, other = getattr(getattr(cfg, block), name), getattr(getattr(theirs, block), name)
        if mine != other:
            raise UserError(f"{key}: {mine!r} here, but {other!r} in upstream.run={folder}; expected equal values")
    path = find_checkpoint(folder, up.step or None)
    digest = sha256(path)
    if up.sha256 and up.sha256 != digest:
        raise UserError(
            f"upstream.sha256: {up.sha256[:12]} here, but {digest[:12]} in {path}; expected the weights that this run "
            "started with; to use the new ones, start a new run with another --run-dir"
        )
    cfg = replace(cfg, upstream=replace(up, step=step_of(path), sha256=digest))
    if cfg.system == "sharp":
        return replace(cfg, rough=theirs.model)
    return replace(cfg, rough=theirs.rough, sharp=theirs.model)


def _system_of(folder: Path, wanted: str) -> str:
    system = read_system(folder / "config.yaml", (), CONFIGS)
    if system != wanted:
        raise UserError(f"upstream.run: {folder} is a {system} system; expected a {wanted} system")
    return system


class Chain(nn.Module):
    """The frozen previous stages: `encoder`, `decoder` and `prior` of stage 1, and `sharp` (stage 2) for stage 3.

    All have averaged weights, stay in evaluation mode and are not trained. They are part of the method's state, so a
    checkpoint contains them and the upstream runs are not needed after the start.
    """

    def __init__(self, rough: RoughModel, sharp: SketchGANModel | None, meta: dict) -> None:
        super().__init__()
        self.rough_model = rough
        self.columns = texture_columns(rough.texture, meta["attributes"])
        size, num = meta["image_size"], len(self.columns)
        self.encoder, self.decoder, self.prior = (EMA(net) for net in build_rough(rough, size, num))
        self.sharp = EMA(UNet(1, size, num, sharp.width, residual=True)) if sharp is not None else None
        self.noise_dim = rough.latent_dim

    def load(self, path: Path) -> None:
        """Load the averaged weights of an upstream checkpoint: of a rough run, or of a sharp run with its own chain."""
        state = read_checkpoint(path)["method"]
        own = {}
        for key, value in state.items():
            head, _, rest = key.partition(".")
            if head == "chain":
                own[rest] = value
            elif head == "ema_generator" and self.sharp is not None:
                own[f"sharp.{rest}"] = value
            elif head in ("ema_encoder", "ema_decoder", "ema_prior") and self.sharp is None:
                own[f"{head.removeprefix('ema_')}.{rest}"] = value
        missing = self.load_state_dict(own, strict=False)
        if missing.missing_keys or missing.unexpected_keys:
            key = (missing.missing_keys + missing.unexpected_keys)[0]
            raise UserError(f"{path}: the weights do not fit the upstream model ({key}); restore its config.yaml")

    def texture(self, attr: Tensor) -> Tensor:
        """Texture attributes a (N, T) in {-1, 0, +1} of attr (N, A), which may have NaN."""
        return signed(attr)[:, self.columns]

    def sketch(self, x: Tensor, offset: float = 0.0) -> Tensor:
        """Sketches (N, 1, H, H) of photos (N, C, H, H), in the style of the chain."""
        return sketch(x, self.rough_model.sketch, self.rough_model.sketch_sigma, offset)

    def noise(self, n: int, device: torch.device) -> Tensor:
        """Noise (n, Z) ~ N(0, I) for `dream`."""
        return torch.randn(n, self.noise_dim, device=device)

    def dream(self, a: Tensor, noise: Tensor) -> Tensor:
        """Sample a rough sketch for texture attributes a (N, T) with noise (N, Z)."""
        return dream(self.decoder, self.prior, self.rough_model.prior, a, noise)

    def redrawn(self, s: Tensor, a: Tensor, mean: bool = False) -> Tensor:
        """Reconstruct a sketch with stage 1, from a sample of q(z | s, a) or from its mean."""
        mu, logvar = self.encoder(s, a)
        z = mu if mean else reparameterize(mu, logvar)
        return self.decode(z, a)

    def decode(self, z: Tensor, a: Tensor) -> Tensor:
        """The rough sketch (N, 1, H, H) of a code z (N, Z)."""
        return decoded(self.decoder, self.rough_model.prior, z, a)

    def sharpened(self, s: Tensor, a: Tensor) -> Tensor:
        """Apply stage 2 to a rough sketch."""
        return self.sharp(s, a).clamp(-1, 1)


def prepare_chain(run: Run, chain: Chain) -> str:
    """Load the upstream weights into `chain`. If the upstream run is gone, the run's own checkpoint must have them.

    Returns:
        A line for the log.

    Raises:
        UserError: the upstream run is gone and this run has no intact checkpoint, or the upstream weights have changed.
    """
    up = run.cfg.upstream
    if not (Path(up.run) / "config.yaml").is_file():
        if latest_checkpoint(run.dir) is None:
            raise UserError(
                f"upstream.run: {up.run} does not exist, and {run.dir} has no checkpoint with its weights; train the "
                "previous stage again"
            )
        return f"previous stages: from the run's own checkpoint ({up.run} does not exist)"
    path = find_checkpoint(Path(up.run), up.step)
    if sha256(path) != up.sha256:
        raise UserError(
            f"upstream.sha256: {path} has changed; expected {up.sha256[:12]}; start a new run with another --run-dir"
        )
    chain.load(path)
    return f"previous stages: {path}, sha256 {up.sha256[:12]}"
