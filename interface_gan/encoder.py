"""An encoder from faces to codes, in place of most of the gradient descent of `project.py`.

It refines its own result: each round sees the face and the generator's image of the last codes, and adds a correction
("ReStyle", https://arxiv.org/abs/2104.02699). It learns from sampled faces, whose codes are known, and from real faces.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from data import DataConfig
from engine import EMA, Grid, Method, UserError, adam, find_checkpoint, fp32, load, load_config, ramped_decay
from engine.checkpoint import checkpoints
from engine.files import sha256
from interface_gan.codes import Stats
from interface_gan.config import Config, EncoderConfig
from interface_gan.model import (
    Discriminator,
    DiscriminatorBlock,
    EqualConv,
    Generator,
    Linear,
    lrelu,
    resolutions,
    width,
)
from interface_gan.project import distance
from interface_gan.train import StyleGAN2
from losses.image_metrics import psnr

FOLDER = "encoder"  # where the editor looks for it, in the run directory of the generator


class Encoder(nn.Module):
    """(x, x_hat), (N, C, H, H) each -> correction (N, L, Z) of the codes: a shift of all layers plus an offset of each.

    The discriminator's residual blocks. Corrections are 0 at the start.
    """

    def __init__(self, channels: int, image_size: int, num_ws: int, cfg: EncoderConfig) -> None:
        super().__init__()
        sizes, m = resolutions(image_size)[::-1], cfg.gan
        self.inp = EqualConv(2 * channels, width(image_size, m), kernel=1)
        self.blocks = nn.Sequential(*(DiscriminatorBlock(width(a, m), width(b, m)) for a, b in zip(sizes, sizes[1:])))
        self.fc = Linear(width(sizes[-1], m) * sizes[-1] ** 2, cfg.model.hidden)
        self.out = nn.Linear(cfg.model.hidden, (1 + num_ws) * m.latent_dim)
        self.num_ws = num_ws
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        h = self.blocks(self.inp(torch.cat([x, x_hat], 1)))  # (N, C', 4, 4)
        h = self.out(lrelu(self.fc(h.flatten(1)))).float().unflatten(1, (1 + self.num_ws, -1))
        return h[:, :1] + h[:, 1:]  # (N, L, Z)


class EncoderMethod(Method):
    """Trains an encoder for a generator, which stays as it is and is part of the checkpoint, as is its discriminator.

    `w_mean`, `w_std` (Z,): the distribution of w. Codes start at `w_mean`.
    """

    def __init__(self, cfg: EncoderConfig, meta: dict) -> None:
        super().__init__(cfg, meta)
        channels, size, t = meta["channels"], meta["image_size"], cfg.train
        self.generator = EMA(Generator(channels, size, cfg.gan))
        self.discriminator = EMA(Discriminator(channels, size, cfg.gan))
        self.encoder = Encoder(channels, size, self.generator.module.num_ws, cfg)
        self.ema_encoder = EMA(self.encoder)
        self.register_buffer("w_mean", torch.zeros(cfg.gan.latent_dim))
        self.register_buffer("w_std", torch.ones(cfg.gan.latent_dim))
        self.optimizers["encoder"] = adam(self.encoder.parameters(), t.lr, (t.beta1, t.beta2))

    def use_generator(self, source: StyleGAN2) -> None:
        """Take the averaged generator and the discriminator of a run, and the distribution of its codes."""
        self.generator.reset(source.ema_generator.module)
        self.discriminator.reset(source.discriminator)
        stats = Stats.of(self.generator.module)
        self.w_mean.copy_(stats.mean)
        self.w_std.copy_(stats.cov.diagonal().sqrt())

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        w, g, real = self.cfg.loss, self.generator.module, batch["image"]  # (N, C, H, H) in [-1, 1]

        # 1. Half of the batch are sampled faces, whose codes are known.
        n = len(real) // 2
        with torch.no_grad():
            code = g.mapping(torch.randn(n, self.cfg.gan.latent_dim, device=self.device))[:, None]  # (n, 1, Z)
            x = torch.cat([g.synthesis(g.broadcast(code[:, 0])).clamp(-1, 1), real[n:]])

        # 2. Every round starts at the result of the last one; no gradient flows from round to round.
        total, logs = torch.zeros((), device=self.device), {}
        for ws, x_hat in self.rounds(self.encoder, x):
            with fp32():
                code_error = ((ws[:n] - code) / self.w_std).square().mean()
                offset = ((ws - ws.mean(1, keepdim=True)) / self.w_std).square().mean()
                image = distance(x_hat, x, self.discriminator.module.features).mean()
            logs = {"code": code_error, "offset": offset, "image": image}  # those of the last round
            total = total + w.lambda_code * code_error + w.lambda_offset * offset + image
        loss = total / self.cfg.model.rounds

        self.minimize(loss, "encoder")
        self.ema_encoder.update(self.encoder, ramped_decay(self.cfg.train.ema_decay, step))
        return logs | {"loss": loss}

    def rounds(self, encoder: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield codes (N, L, Z) and their images (N, C, H, H) after each round."""
        g = self.generator.module
        ws = g.broadcast(self.w_mean.expand(len(x), -1))
        with torch.no_grad():
            x_hat = g.synthesis(ws)
        for _ in range(self.cfg.model.rounds):
            ws = ws.detach() + self.w_std * encoder(x, x_hat.detach())
            x_hat = g.synthesis(ws)
            yield ws, x_hat

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes (N, L, Z) of faces x (N, C, H, H), with the averaged weights."""
        *_, (ws, _) = self.rounds(self.ema_encoder, x)
        return ws

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        *_, (_, x_hat) = self.rounds(self.ema_encoder, batch["image"])
        return {"psnr": psnr(x_hat.clamp(-1, 1), batch["image"]).mean()}

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        x = batch["image"][:8]
        rows = [x, *(x_hat.clamp(-1, 1) for _, x_hat in self.rounds(self.ema_encoder, x))]
        names = ["face", *(f"round {i}" for i in range(1, len(rows)))]
        return {"reconstruction": Grid(torch.stack(rows), names)}


def resolve_generator(cfg: EncoderConfig) -> EncoderConfig:
    """Complete the config with the data and the model of the generator's run, and with its checkpoint's sha256.

    Raises:
        UserError: `generator` is not a run, or its weights have changed since this run started.
    """
    if not cfg.generator:
        raise UserError(
            "generator: expected the run directory of a generator, such as generator=runs/interface_gan/NAME"
        )
    folder = Path(cfg.generator)
    theirs = load_config(Config, folder / "config.yaml")
    digest = sha256(find_checkpoint(folder))
    if cfg.sha256 not in ("", digest):
        raise UserError(
            f"generator: {folder} has other weights (sha256 {digest[:12]}) than this run started with "
            f"({cfg.sha256[:12]}); start a new run with another --run-dir"
        )
    data = replace(theirs.data, root=cfg.data.root or theirs.data.root)
    if replace(cfg.data, root=data.root) not in (replace(DataConfig(), root=data.root), data):
        raise UserError(f"data: an encoder learns from the data of its generator ({folder}); give data.root only")
    return replace(cfg, data=data, gan=theirs.model, sha256=digest)


def load_encoder(run_dir: Path, weights: str, device: torch.device) -> EncoderMethod | None:
    """The encoder in the run directory of a generator; None if there is none.

    weights: sha256 of the generator's checkpoint.

    Raises:
        UserError: it was trained for other weights, or not to the end.
    """
    folder = run_dir / FOLDER
    if not checkpoints(folder):
        return None
    found = load(folder, EncoderConfig, EncoderMethod, device=str(device))
    if found.cfg.sha256 != weights:
        raise UserError(
            f"{folder}: this encoder was trained for other weights of the generator (sha256 {found.cfg.sha256[:12]}, "
            f"now {weights[:12]}); train it again, or move the folder away"
        )
    if found.origin.step < found.cfg.train.total_steps:
        raise UserError(
            f"{folder}: this encoder is trained to step {found.origin.step} of {found.cfg.train.total_steps}; run its "
            "training command again, or move the folder away"
        )
    return found
