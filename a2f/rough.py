"""Stage 1, attributes -> rough sketch: a conditional VAE, as in "Face Synthesis from Visual Attributes via Sketch using
Conditional VAEs and GANs", https://arxiv.org/abs/1801.00077 (Di & Patel)."""

import torch
from torch import Tensor

from a2f.config import RoughConfig, RoughModel
from a2f.gan import SampledMethod
from a2f.model import Generator, NoiseEncoder, Prior, SketchEncoder
from a2f.monitor import within_request
from a2f.requests import signed, texture_columns
from data.sketch import sketch
from engine import EMA, Grid, adam, fp32, mean_over_ranks
from losses.gaussian import calibrated_nll, kl_gaussians, kl_standard_normal, reparameterize


def build_rough(m: RoughModel, image_size: int, num_texture: int) -> tuple[SketchEncoder, Generator, Prior]:
    """Encoder q(z | s, a), decoder and prior p(z | a). With `prior: noise` the decoder does not get the attributes."""
    num_decoder_attributes = 0 if m.prior == "noise" else num_texture
    return (
        SketchEncoder(image_size, num_texture, m.width, m.latent_dim, relu_heads=m.prior == "noise"),
        Generator(1, image_size, num_decoder_attributes, m.width, m.latent_dim),
        NoiseEncoder(num_texture, m.latent_dim)
        if m.prior == "noise"
        else Prior(num_texture, m.latent_dim, m.prior == "learned"),
    )


class RoughSketch(SampledMethod):
    """Encoder, decoder, prior and their moving averages."""

    compilable = ("encoder", "decoder")
    remedies = {"collapse": "lower loss.beta", "request": "set model.prior=learned, or raise loss.beta"}

    def __init__(self, cfg: RoughConfig, meta: dict) -> None:
        super().__init__(cfg, meta)
        m, t = cfg.model, cfg.train
        self.columns = texture_columns(m.texture, meta["attributes"])
        if cfg.data.sketch:
            self.needs = (*self.needs, "sketch")
        self.encoder, self.decoder, self.prior = build_rough(m, meta["image_size"], len(self.columns))
        self.ema_encoder, self.ema_decoder, self.ema_prior = EMA(self.encoder), EMA(self.decoder), EMA(self.prior)
        self.noise_dim = m.latent_dim
        parameters = [*self.encoder.parameters(), *self.decoder.parameters(), *self.prior.parameters()]
        self.optimizers["cvae"] = adam(parameters, t.lr, (t.beta1, t.beta2))

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        m = self.cfg.model
        self.progress = step / self.cfg.train.total_steps
        s, a = self.picture_of(batch), signed(batch["attr"])[:, self.columns]  # (N, 1, H, H), (N, T)

        # 1. The negative ELBO: -log p(s | z, a) + beta KL(q(z | s, a) || p(z | a)), in nats per image.
        mu, logvar = self.encoder(s, a)  # (N, Z) each
        s_hat = self.decode(reparameterize(mu, logvar), a)
        with fp32():
            nll = calibrated_nll(s, s_hat, average=mean_over_ranks).mean()
            kl = self.divergence(mu, logvar, a).mean()
        loss = nll + self.beta() * kl
        logs = {"nll": nll, "kl": kl, "mse": (s_hat - s).square().mean()}

        # 2. Di & Patel's noise path: codes of noise must decode to the same sketch. The best answer is the mean sketch.
        if m.prior == "noise":
            mu_n, logvar_n = self.prior(torch.randn_like(mu), a)
            s_noise = self.decode(reparameterize(mu_n, logvar_n), a)
            with fp32():
                logs["nll_noise"] = calibrated_nll(s, s_noise, average=mean_over_ranks).mean()
                logs["kl_noise"] = kl_standard_normal(mu_n, logvar_n).sum(1).mean()
            loss = loss + logs["nll_noise"] + self.beta() * logs["kl_noise"]

        self.minimize(loss, "cvae")
        for average, network in ((self.ema_encoder, self.encoder), (self.ema_decoder, self.decoder),
                                 (self.ema_prior, self.prior)):  # fmt: skip
            average.update(network, self.decay(step))
        return logs | {"loss": loss}

    def divergence(self, mu: Tensor, logvar: Tensor, a: Tensor) -> Tensor:
        """KL(q(z | s, a) || p(z | a)) in nats, (N,). With `prior: noise`, p(z) is N(0, I)."""
        if self.cfg.model.prior == "noise":
            return kl_standard_normal(mu, logvar).sum(1)
        return kl_gaussians(mu, logvar, *self.prior(a)).sum(1)

    def beta(self) -> float:
        """The weight of the KL divergence. It rises from 0 to `loss.beta` during the warm-up."""
        warmup = self.cfg.loss.kl_warmup
        return self.cfg.loss.beta * (min(1.0, self.progress / warmup) if warmup else 1.0)

    def decode(self, z: Tensor, a: Tensor) -> Tensor:
        """s_hat (N, 1, H, H)."""
        return decoded(self.decoder, self.cfg.model.prior, z, a)

    def picture_of(self, batch: dict[str, Tensor]) -> Tensor:
        """Sketches (N, 1, H, H): the batch's own, else computed from its photos."""
        m = self.cfg.model
        return batch["sketch"] if "sketch" in batch else sketch(batch["image"], m.sketch, m.sketch_sigma)

    def draw(self, a: Tensor, noise: Tensor) -> Tensor:
        return dream(self.ema_decoder, self.ema_prior, self.cfg.model.prior, a, noise)

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Reconstruction error, KL divergence, and the similarity of two sketches of the same request."""
        s, a = self.picture_of(batch), signed(batch["attr"])[:, self.columns]
        mu, logvar = self.ema_encoder(s, a)
        s_hat = decoded(self.ema_decoder, self.cfg.model.prior, mu, a)
        one, two = (self.draw(a, torch.randn(len(a), self.noise_dim, device=self.device)) for _ in range(2))
        metrics = {"mse": (s_hat - s).square().mean(), "kl": self.divergence(mu, logvar, a).mean()}
        return metrics | within_request(one, two)

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        s, a = self.picture_of(batch), signed(batch["attr"])[:, self.columns]
        mu, _ = self.ema_encoder(s, a)
        s_hat = decoded(self.ema_decoder, self.cfg.model.prior, mu, a)
        return self.grid_of_requests(s) | {"reconstruction": Grid(torch.stack([s, s_hat])[:, :8], ["sketch", "mean"])}


def dream(decoder, prior, kind: str, a: Tensor, noise: Tensor) -> Tensor:
    """Sample a sketch (N, 1, H, H) for texture attributes a (N, T) with noise (N, Z): decoder(z, a), z ~ p(z | a)."""
    return decoded(decoder, kind, from_prior(prior, kind, a, noise), a)


def from_prior(prior, kind: str, a: Tensor, noise: Tensor) -> Tensor:
    """z (N, Z) ~ p(z | a) from noise (N, Z) ~ N(0, I). With `kind` noise: the mean of q(z | noise, a)."""
    if kind == "noise":
        return prior(noise, a)[0]
    mu, logvar = prior(a)
    return mu + torch.exp(0.5 * logvar) * noise


def decoded(decoder, kind: str, z: Tensor, a: Tensor) -> Tensor:
    """Decode z (N, Z) to a sketch (N, 1, H, H). With `kind` noise the decoder does not get the attributes."""
    return decoder(z, a[:, :0] if kind == "noise" else a)
