"""The chain of runs: a stage finds the run before it, checks that both fit, and takes its weights along for good."""

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
)  # what two stages of one chain must have in common


def resolve_upstream(cfg: Any) -> Any:
    """A stage's config, completed with step, sha256 and model of `upstream.run`; cgan and rough come back unchanged.

    With a sha256 given and the folder gone, the config stands as it is: the run holds its chain.

    Raises:
        UserError: no run is named or there; another system; a key of `SAME` with another value; other weights.
    """
    if cfg.system not in BEFORE:
        return cfg
    up, wanted = cfg.upstream, BEFORE[cfg.system]
    if not up.run:
        raise UserError(
            f"upstream.run: expected the run directory of a {wanted} system, as in upstream.run=runs/a2f/NAME"
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
            raise UserError(f"{key}: {mine!r} here, {other!r} in upstream.run={folder}; a chain needs the same in both")
    path = find_checkpoint(folder, up.step or None)
    digest = sha256(path)
    if up.sha256 and up.sha256 != digest:
        raise UserError(
            f"upstream.sha256: {up.sha256[:12]} here, {digest[:12]} in {path}; the weights are others than those this "
            "run began with; give another --run-dir to start anew"
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
    """The frozen stages before this one: `encoder`, `decoder`, `prior` of stage 1, and `sharp` for stage 3.

    Every part is an average of weights, always in evaluation mode and without gradients for its own parameters. The
    chain is part of the method's state, so a run needs its upstream runs no more.
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
        """Take the averaged weights of an upstream checkpoint (a rough run's, or a sharp run's with its own chain)."""
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
            raise UserError(f"{path}: does not fit the upstream model ({key}); its config.yaml was changed")

    def texture(self, attr: Tensor) -> Tensor:
        """attr (N, A) with NaN -> texture attributes a (N, T) in {-1, 0, +1}."""
        return signed(attr)[:, self.columns]

    def sketch(self, x: Tensor, offset: float = 0.0) -> Tensor:
        """A photo (N, C, H, H) as the chain's kind of sketch (N, 1, H, H)."""
        return sketch(x, self.rough_model.sketch, self.rough_model.sketch_sigma, offset)

    def noise(self, n: int, device: torch.device) -> Tensor:
        """(n, Z) ~ N(0, I), for `dream`."""
        return torch.randn(n, self.noise_dim, device=device)

    def dream(self, a: Tensor, noise: Tensor) -> Tensor:
        """A rough sketch for texture attributes a (N, T) and noise (N, Z)."""
        return dream(self.decoder, self.prior, self.rough_model.prior, a, noise)

    def redrawn(self, s: Tensor, a: Tensor, mean: bool = False) -> Tensor:
        """A sketch through stage 1: the decoder at a draw of q(z | s, a), or at its mean."""
        mu, logvar = self.encoder(s, a)
        z = mu if mean else reparameterize(mu, logvar)
        return self.decode(z, a)

    def decode(self, z: Tensor, a: Tensor) -> Tensor:
        """The rough sketch (N, 1, H, H) of a code z (N, Z)."""
        return decoded(self.decoder, self.rough_model.prior, z, a)

    def sharpened(self, s: Tensor, a: Tensor) -> Tensor:
        """A rough sketch through stage 2."""
        return self.sharp(s, a).clamp(-1, 1)


def prepare_chain(run: Run, chain: Chain) -> str:
    """Load the upstream weights into `chain`, unless the run has a checkpoint, which holds them; a line for the log.

    Raises:
        UserError: the upstream run is gone and no intact checkpoint of this run is left, or it has other weights now.
    """
    up = run.cfg.upstream
    if not (Path(up.run) / "config.yaml").is_file():
        if latest_checkpoint(run.dir) is None:
            raise UserError(f"upstream.run: {up.run} is gone, and {run.dir} has no checkpoint that holds its weights")
        return f"stages before this one: from the run's own checkpoint ({up.run} is gone)"
    path = find_checkpoint(Path(up.run), up.step)
    if sha256(path) != up.sha256:
        raise UserError(f"upstream.sha256: {path} is another file than {up.sha256[:12]}; it was trained anew")
    chain.load(path)
    return f"stages before this one: {path}, sha256 {up.sha256[:12]}"
