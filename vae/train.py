"""Train a variational autoencoder: `python vae/train.py --config configs/vae/synthetic32.yaml [key=value ...]`.

Beta-VAE, capacity annealing, beta-TCVAE, FactorVAE and the plain autoencoder share one step. They differ in
`BetaVAE.rate`. Sum over pixels, sum over latents, mean over the batch. Papers: README.md.
"""

import logging
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from data import build_faces
from engine import EMA, Grid, Method, UserError, adam, fit, frozen, mean_over_ranks, ramped_decay, start
from losses.gaussian import batch_log_sigma2, gaussian_nll, kl_standard_normal, reparameterize
from losses.image_metrics import psnr
from losses.perceptual import feature_distance
from losses.pixels import boxes_from_eyes, face_weight
from vae.config import Config
from vae.model import Decoder, Encoder, FeatureNet, LatentDiscriminator, VGG19Features
from vae.objective import beta_effective, decompose_kl, linear_capacity, peer_weights, permute_dims, warm_up

logger = logging.getLogger("faces")
ACTIVE_KL = 0.05  # nats; a latent with less is unused (after arxiv.org/abs/1509.00519)


class BetaVAE(Method):
    """Encoder, decoder and the networks of their objective. Codes and images come from the averaged weights `ema_*`."""

    compilable = ("encoder", "decoder")

    def __init__(self, cfg: Config, meta: dict) -> None:
        super().__init__(cfg, meta)
        w, channels, size = cfg.loss, meta["channels"], meta["image_size"]
        self.dimensions = channels * size**2  # D
        self.encoder, self.decoder = Encoder(channels, size, cfg.model), Decoder(channels, size, cfg.model)
        self.ema_encoder, self.ema_decoder = EMA(self.encoder), EMA(self.decoder)
        self.boxes = face_boxes(cfg, meta) if w.lambda_face else None
        if self.boxes:  # for data without landmarks; (1, 1, H, H)
            self.register_buffer("mean_weight", face_weight(size, w.lambda_face, boxes=self.boxes), persistent=False)
        betas = (cfg.train.beta1, cfg.train.beta2)
        self.optimizers["vae"] = adam([*self.encoder.parameters(), *self.decoder.parameters()], cfg.train.lr, betas)
        if w.features == "own":
            num_outputs = len(meta["attributes"]) + len(meta["classes"])
            if not num_outputs:
                raise UserError(f"loss.features: {meta['dataset']} has no labels to train own features; set it to none")
            self.needs = ("image", *(k for k, names in (("attr", "attributes"), ("label", "classes")) if meta[names]))
            self.feature_net = FeatureNet(channels, size, num_outputs)
            self.optimizers["features"] = adam(self.feature_net.parameters(), 1e-3)
        elif w.features == "vgg19":
            self.feature_net = None  # loaded at the first step: a trained run works without VGG-19
        if w.objective == "factor":
            self.discriminator = LatentDiscriminator(cfg.model.latent_dim)
            self.optimizers["discriminator"] = adam(self.discriminator.parameters(), w.lr_discriminator, (0.5, 0.9))
        # log sigma^2 for evaluation. If sigma is calibrated: a moving average over about 100 steps.
        self.register_buffer("log_sigma2", torch.tensor(2 * math.log(w.sigma or 1.0)))
        # The same noise in every grid of prior samples.
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("prior_noise", torch.randn(64, cfg.model.latent_dim, generator=generator))

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        w = self.cfg.loss
        # 1. With own features, the first steps train the feature network on the labels. Then it is fixed.
        if step < w.feature_steps:
            return self.train_features(batch)
        step -= w.feature_steps
        self.halve_rate(step)

        # 2. Encode, sample, decode. FactorVAE uses the other half of the batch for its discriminator.
        batch, other = split_batch(batch) if w.objective == "factor" else (batch, None)
        x = batch["image"]  # (N, C, H, H) in [-1, 1]
        mu, logvar = self.encoder(x)  # (N, Z), (N, Z)
        z = mu if w.objective == "autoencoder" else reparameterize(mu, logvar)  # (N, Z)
        logits = self.decoder.logits(z)  # (N, C, H, H)
        x_hat = torch.tanh(logits / 2)

        # 3. Distortion: -log p(x|z) on pixels, and on features, in nats per image.
        recon = self.pixel_nll(x, x_hat, logits, batch)
        feature = self.feature_nll(x, x_hat)  # 0 where loss.features is none

        # 4. Rate: beta-VAE, capacity, beta-TCVAE or FactorVAE.
        kl = whole_batch(kl_standard_normal(mu, logvar).mean(0))  # (Z,) nats
        rate, terms = self.rate(z, mu, logvar, kl, step)
        loss = w.lambda_pixel * recon + w.lambda_feature * feature + rate
        self.minimize(loss, "vae", w.max_norm)

        # 5. FactorVAE's discriminator: codes against codes with permuted dimensions.
        if other is not None:
            terms |= self.update_discriminator(z.detach(), other["image"])

        decay = ramped_decay(self.cfg.train.ema_decay, step)
        self.ema_encoder.update(self.encoder, decay)
        self.ema_decoder.update(self.decoder, decay)
        if step + 1 == max(200, self.cfg.warmup_steps):
            self.warn_if_collapsed(kl)
        log = {"loss": loss, "recon": recon, "kl": kl.sum(), "active": (kl > ACTIVE_KL).sum()}
        log["psnr"] = psnr(x, x_hat).mean()
        return log | terms | {"sigma": self.sigma()} | ({"feature": feature} if w.features != "none" else {})

    def pixel_nll(self, x: Tensor, x_hat: Tensor, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """-log p(x|z), nats per image, batch mean. Pixels at mouth and eyes weigh more; the mean weight is 1."""
        w = self.cfg.loss
        weight = None
        if w.lambda_face and "landmarks" in batch:
            weight = face_weight(x.shape[-1], w.lambda_face, batch["landmarks"], self.boxes, w.face_grow)
        elif w.lambda_face:
            weight = self.mean_weight
        if w.pixel == "bernoulli":  # the minimum is the entropy of the pixels, a constant
            if weight is None:
                return F.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="sum") / len(x)
            error = F.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="none")
            return (error * weight).sum() / len(x)
        if w.sigma is None:
            log_sigma2 = batch_log_sigma2(x, x_hat, weight, mean_over_ranks)
            self.log_sigma2.lerp_(log_sigma2, 0.01)
        else:
            log_sigma2 = self.log_sigma2
        return gaussian_nll(x, x_hat, log_sigma2, weight).mean()

    def feature_nll(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Distance in the features of a fixed network, nats per image; 0 with `features: none`."""
        w = self.cfg.loss
        if w.features == "none":
            return x.new_zeros(())
        if self.feature_net is None:
            self.feature_net = VGG19Features(w.vgg19_weights, tuple(w.vgg19_taps)).to(x.device)
        with frozen(self.feature_net):
            with torch.no_grad():
                target = self.feature_net.features(x)
            maps = self.feature_net.features(x_hat)
        return feature_distance(maps, target, w.feature_form, self.dimensions, mean_over_ranks)

    def rate(self, z: Tensor, mu: Tensor, logvar: Tensor, kl: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted KL term of the objective, in nats, and its parts for the log. kl (Z,): whole-batch mean."""
        w, warm = self.cfg.loss, warm_up(step, self.cfg.warmup_steps)
        if w.objective == "autoencoder":
            return kl.new_zeros(()), {}
        if w.objective == "beta":  # beta min(1, t / T) sum_j max(free bits, KL_j)
            return w.beta * warm * kl.clamp_min(w.free_bits).sum(), {}
        if w.objective == "capacity":  # gamma |sum_j KL_j - C(t)|, capacity annealing eq. 8
            capacity = linear_capacity(step, w.capacity, w.capacity_steps)
            return w.gamma * (kl.sum() - capacity).abs(), {"capacity": torch.tensor(capacity)}
        if w.objective == "btcvae":  # alpha MI + beta TC + gamma DWKL, beta-TCVAE eq. 4
            mi, tc, dwkl = decompose_kl(z, mu, logvar, self.meta["num_train"], w.tc_estimator)
            return w.alpha * mi + w.beta * warm * tc + w.gamma * dwkl, {"mi": mi, "tc": tc, "dwkl": dwkl}
        joint, permuted = self.discriminator(z).unbind(1)  # KL + gamma E[D_0(z) - D_1(z)], FactorVAE eq. 3
        tc = (joint - permuted).mean()
        return kl.sum() + w.gamma * tc, {"tc": tc}

    def train_features(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One update of the feature network on the labels of the data."""
        x = batch["image"]
        outputs = self.feature_net(x + 0.02 * torch.randn_like(x))
        attr_logits, class_logits = outputs.split([len(self.meta["attributes"]), len(self.meta["classes"])], dim=1)
        loss = outputs.new_zeros(())
        if attr_logits.shape[1]:
            known = batch["attr"].isfinite()
            target = batch["attr"].nan_to_num()
            bce = F.binary_cross_entropy_with_logits(attr_logits, target, reduction="none")
            loss = loss + (bce * known).sum() / known.sum().clamp_min(1)
        if class_logits.shape[1]:  # class-balanced cross-entropy
            counts = torch.tensor(self.meta["class_counts"]["train"], dtype=torch.float32, device=x.device)
            weight = 1 / counts.clamp_min(1)
            known = batch["label"] >= 0
            ce = F.cross_entropy(class_logits, batch["label"].clamp_min(0), weight=weight, reduction="none")
            loss = loss + (ce * known).sum() / (weight[batch["label"].clamp_min(0)] * known).sum().clamp_min(1e-12)
        self.minimize(loss, "features")
        return {"features/loss": loss}

    def update_discriminator(self, z: Tensor, other: Tensor) -> dict[str, Tensor]:
        """FactorVAE, algorithm 2: codes of this half are class 0; permuted codes of the other half are class 1."""
        with torch.no_grad():
            permuted = permute_dims(reparameterize(*self.encoder(other)))
        joint_logits, permuted_logits = self.discriminator(z), self.discriminator(permuted)
        zeros = torch.zeros(len(z), dtype=torch.long, device=z.device)
        loss = (F.cross_entropy(joint_logits, zeros) + F.cross_entropy(permuted_logits, zeros + 1)) / 2
        self.minimize(loss, "discriminator")
        right = torch.cat([joint_logits[:, 0] > joint_logits[:, 1], permuted_logits[:, 1] > permuted_logits[:, 0]])
        return {"D/loss": loss, "D/accuracy": right.float().mean()}

    def halve_rate(self, step: int) -> None:
        """DFC-VAE's schedule: halve the learning rate after every `train.lr_halve_every` steps."""
        if self.cfg.train.lr_halve_every:
            for group in self.optimizers["vae"].param_groups:
                group["lr"] *= 0.5 ** (step // self.cfg.train.lr_halve_every)

    def warn_if_collapsed(self, kl: Tensor) -> None:
        """Log a warning once, after the warm-up, if most latents are unused (posterior collapse)."""
        w, active = self.cfg.loss, int((kl > ACTIVE_KL).sum())
        if w.objective != "autoencoder" and active < len(kl) / 4:
            remedy = ("loss.sigma=null or " if w.sigma else "") + f"loss.beta={w.beta / 10:g}"
            used, beta_eff = f"{active} of {len(kl)} latents are used", self.beta_eff()
            logger.warning(f"{used}: beta_eff {beta_eff:.2g} is high here; try {remedy}")

    def sigma(self) -> Tensor:
        """Standard deviation of p(x|z), in units of the [-1, 1] image."""
        return torch.exp(self.log_sigma2 / 2)

    def beta_eff(self) -> float:
        """`beta_effective` of the run; copies sigma from the device."""
        return beta_effective(self.cfg.loss.beta, float(self.sigma()))

    def reconstruct(self, x: Tensor) -> Tensor:
        """x_hat from mu, without sampling."""
        return self.ema_decoder(self.ema_encoder(x)[0])

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Batch means, for codes mu of the averaged weights: `psnr` in dB; `kl` and `nll` in nats per image."""
        x = batch["image"]
        mu, logvar = self.ema_encoder(x)
        x_hat = self.ema_decoder(mu)
        kl = kl_standard_normal(mu, logvar).sum(1).mean()
        return {"psnr": psnr(x, x_hat).mean(), "kl": kl, "nll": gaussian_nll(x, x_hat, self.log_sigma2).mean()}

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        x = batch["image"]  # (N, C, H, H)
        mu, logvar = self.ema_encoder(x)
        prior = self.ema_decoder(self.prior_noise).unflatten(0, (8, 8))
        order = kl_standard_normal(mu, logvar).mean(0).argsort(descending=True)
        return {
            "reconstruction": Grid(torch.stack([x, self.ema_decoder(mu)]), ["input", "reconstruction"]),
            "prior": Grid(prior),
            "traversal": self.traversal(mu[0], order[:8]),
        }

    def traversal(self, code: Tensor, dims: Tensor, limit: float = 3.0, columns: int = 7) -> Grid:
        """Traversal of one code (Z,): each row varies one latent of `dims` from -limit to limit."""
        values = torch.linspace(-limit, limit, columns, device=code.device)
        z = code.repeat(len(dims), columns, 1)  # (R, K, Z)
        z[torch.arange(len(dims)), :, dims] = values
        images = self.ema_decoder(z.flatten(0, 1)).unflatten(0, (len(dims), columns))
        return Grid(images, [f"z{int(d)}" for d in dims], [f"{v:+.1f}" for v in values.tolist()])


def split_batch(batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The two halves of a batch."""
    half = len(batch["image"]) // 2
    return {k: v[:half] for k, v in batch.items()}, {k: v[half : 2 * half] for k, v in batch.items()}


def whole_batch(value: Tensor) -> Tensor:
    """The mean over ranks, with this rank's gradient. Averaged over ranks, this gives the whole batch's gradient."""
    return value + (mean_over_ranks(value) - value.detach())


def face_boxes(cfg: Config, meta: dict) -> list[list[float]] | None:
    """Boxes for faces without landmarks: from the config, else around the mean eyes of the data."""
    if cfg.loss.face_boxes:
        values = cfg.loss.face_boxes
        return [values[i : i + 4] for i in range(0, len(values), 4)]
    if meta["eyes"]:
        return boxes_from_eyes(meta["eyes"], cfg.loss.face_grow)
    if not meta["landmarks"]:
        raise UserError(
            f"loss.lambda_face: {meta['dataset']} has neither landmarks nor eye positions; "
            "give loss.face_boxes, or loss.lambda_face=0"
        )
    return None


def describe_beta(cfg: Config, meta: dict) -> str:
    """One line for the log: beta, its effective value, and the same value in other codebases."""
    w, dimensions = cfg.loss, meta["channels"] * meta["image_size"] ** 2
    sums = "sum over pixels, sum over latents, mean over batch"
    if w.objective == "autoencoder":
        return f"plain autoencoder: no rate ({sums})"
    if w.pixel == "bernoulli":
        return f"beta {w.beta:g} ({sums}); Bernoulli pixels"
    sigma = w.sigma or 2 * 10 ** (-24 / 20)
    beta_eff = beta_effective(w.beta, sigma)
    peers = ", ".join(f"{name} {value:.2g}" for name, value in peer_weights(beta_eff, dimensions).items())
    source, where = (f"sigma {w.sigma:g}", "") if w.sigma else ("sigma calibrated", " at 24 dB")
    return f"beta {w.beta:g} ({sums}); {source}: beta_eff {beta_eff:.2g}{where}; that is {peers}"


def main(argv: list[str] | None = None) -> None:
    with start(Config, argv=argv) as run:
        faces = build_faces(run.cfg.data)
        logger.info(describe_beta(run.cfg, faces.meta))
        fit(run, BetaVAE(run.cfg, faces.meta), faces.train, faces.val)


if __name__ == "__main__":
    main()
