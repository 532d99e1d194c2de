"""Train the adversarial autoencoder with a conditional GAN: `python aae_cgan/train.py --config FILE [key=value ...]`.

One step is one batch. Both critics are updated once; encoder and generator in every n_critic-th step. Phases
(schedule.py): guide, autoencoder, conditional GAN, joint.
"""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aae_cgan.config import Config
from aae_cgan.figures import code_std
from aae_cgan.guide import ExternalGuide, Guide
from aae_cgan.linear import LinearPath
from aae_cgan.model import Encoder, Generator, ImageCritic, LatentCritic, refuse_batch_norm
from aae_cgan.monitor import checks_of_phase, failed_checks, health_metrics
from aae_cgan.prepare import prepare_linear
from aae_cgan.schedule import PHASES, PhaseState, generator_steps, phase_state
from aae_cgan.semi_supervised import semi_supervised
from data import build_faces
from data.emotions import class_order
from data.labels import conditions
from engine import EMA, Grid, Method, UserError, adam, fit, fp32, frozen, ramped_decay, start
from engine.ranks import broadcast
from evaluation.monitor import Monitor
from losses.adversarial import critic_loss, generator_loss, gradient_penalty, r1_penalty
from losses.augment import diff_augment, jitter
from losses.image_metrics import psnr
from losses.pixels import boxes_from_eyes, face_weight
from losses.targets import Request, draw_request, mix_labels

logger = logging.getLogger("faces")


class AAECGAN(Method):
    """Encoder, generator, two critics, and optionally a guide. Images come from the averaged weights `ema_*`."""

    compilable = ("encoder", "generator")  # critics are not compiled: penalties differentiate them twice

    def __init__(self, cfg: Config, meta: dict) -> None:
        super().__init__(cfg, meta)
        m, w, t, channels, size = cfg.model, cfg.loss, cfg.train, meta["channels"], meta["image_size"]
        self.attributes = m.condition == "attributes" or (m.condition == "auto" and not meta["classes"])
        self.names = names_of(meta, self.attributes)
        self.needs = ("image", "attr" if self.attributes else "label")
        self.all_known = not self.attributes and sum(meta["class_counts"]["train"]) == meta["num_train"]
        num = len(self.names)  # K
        self.linear = LinearPath(channels, size, m.latent_dim) if m.linear == "pca" else None
        self.encoder = Encoder(channels, size, m, self.linear)
        self.generator = Generator(channels, size, num, m, self.linear)
        self.ema_encoder, self.ema_generator = EMA(self.encoder), EMA(self.generator)
        self.d_latent = LatentCritic(m.latent_dim)
        self.d_image = ImageCritic(channels, size, num, m, w.lambda_class > 0) if w.lambda_adv else None
        self.guide = None
        if w.lambda_guide:
            self.guide = Guide(channels, size, num) if w.guide == "own" else ExternalGuide(w.guide, self.names)
        refuse_batch_norm(d_latent=self.d_latent, **({"d_image": self.d_image} if w.lambda_adv else {}))
        self.boxes = boxes_from_eyes(meta["eyes"]) if w.lambda_face and meta["eyes"] else None
        if w.lambda_face and not (meta["eyes"] or meta["landmarks"]):
            raise UserError(f"loss.lambda_face: {meta['dataset']} has neither landmarks nor eye positions; set it to 0")
        self.register_buffer("prior_noise", torch.randn(16, m.latent_dim, generator=torch.Generator().manual_seed(0)))

        self.phase, self.monitor = PHASES[-1], Monitor()
        betas = (t.beta1, t.beta2)
        self.optimizers["autoencoder"] = adam([*self.encoder.parameters(), *self.generator.parameters()], t.lr, betas)
        self.optimizers["generator"] = adam(self.generator.parameters(), t.lr, betas)
        self.optimizers["d_latent"] = adam(self.d_latent.parameters(), t.lr_critic, betas)
        if self.d_image is not None:
            self.optimizers["d_image"] = adam(self.d_image.parameters(), t.lr_critic, betas)
        if self.guide is not None and w.guide == "own":
            self.optimizers["guide"] = adam(self.guide.parameters(), t.lr_guide, weight_decay=5e-2)

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        w, phase = self.cfg.loss, phase_state(step, self.cfg)
        x, y, known = self.faces(batch)  # (N, C, H, H) in [-1, 1], (N, K), rows with a label
        self.start_phase(phase)
        if phase.phase == "guide":
            return self.train_guide(x[known], y[known])
        autoencoder_only, gan_only = phase.phase == "autoencode", phase.phase == "gan"
        logs: dict[str, Any] = {"phase": float(PHASES.index(phase.phase))}

        # 1. Codes. In the GAN phase the encoder is frozen. Critics get detached values, and E and G change only after
        # the critics' updates, so one forward pass serves both.
        with torch.set_grad_enabled(phase.generator and not gan_only):
            z = self.encoder(x)  # (N, Z)

        # 2. Latent critic (AAE): prior samples are real, codes are fake (https://arxiv.org/abs/1511.05644).
        if w.lambda_latent and not gan_only:
            logs |= self.update_d_latent(torch.randn_like(z), z.detach())

        # 3. Image critic (CGAN): real pairs against edits and prior samples, and real faces with a wrong label.
        if not autoencoder_only:
            targets = draw_request(x[known], y[known], w.targets == "own", self.attributes)
            z_from, from_prior = self.fake_codes(z[known], gan_only)  # (M, Z), (M,) bool: from the prior
            y_target = mix_labels(y[known], targets.y_target, self.cfg.train.mixed)  # (M, K)
            with torch.set_grad_enabled(phase.generator):
                x_fake = self.generator(z_from, y_target)  # (M, C, H, H)
            logs |= self.update_d_image(x[known], y[known], x_fake.detach(), y_target, targets)
        if not phase.generator:
            return logs

        # 4. Autoencoder: reconstruct under the own label; codes should match the prior.
        loss = {"recon": w.lambda_rec * self.distance(self.generator(z, y), x, batch)}
        if w.lambda_latent and not gan_only:
            loss["latent"] = w.lambda_latent * self.adversarial_loss(self.d_latent, w.gan_latent, z)

        # 5. Generator: an edit should look real to the critic, keep its code, and map back to the photo.
        if not autoencoder_only:
            loss |= self.edit_terms(x_fake, z_from, y_target, x[known], y[known], from_prior, phase)
        total = sum(loss.values())
        self.minimize(total, "generator" if gan_only else "autoencoder")
        self.update_ema(phase)
        return logs | {f"G/{name}": value for name, value in loss.items()} | {"loss": total}

    def faces(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | slice]:
        """Images, their labels y, and the labelled rows (a slice if all are labelled, which costs nothing)."""
        y, known = conditions(batch, len(self.names), self.attributes)
        return batch["image"], y, slice(None) if self.all_known else known

    def start_phase(self, phase: PhaseState) -> None:
        """At a phase's first step the averages restart. In the joint phase all learning rates are scaled."""
        self.phase = phase.phase
        self.encoder.train(phase.phase != "gan")  # frozen, including BatchNorm statistics
        if phase.since == 0:
            # BatchNorm statistics differ between ranks. Frozen ones must be equal, so broadcast them.
            broadcast(self.buffers())
            self.ema_encoder.reset(self.encoder)
            self.ema_generator.reset(self.generator)
        if phase.phase == "joint":
            for group in (g for optimizer in self.optimizers.values() for g in optimizer.param_groups):
                group["lr"] *= self.cfg.train.joint_lr

    def update_ema(self, phase: PhaseState) -> None:
        """Update the averages, with a ramp of the decay at first."""
        decay = ramped_decay(self.cfg.train.ema_decay, phase.generator_updates)
        self.ema_encoder.update(self.encoder, decay)
        self.ema_generator.update(self.generator, decay)

    def train_guide(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """One update of the guide on real faces with random shifts and noise."""
        loss = self.classification_loss(self.guide(jitter(x)), y, smoothing=0.05)
        self.minimize(loss, "guide")
        return {"guide": loss, "phase": torch.zeros(())}

    def classification_loss(self, logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of logits (N, K) with labels y, which may be soft. Attributes: mean binary cross-entropy."""
        if self.attributes:
            return F.binary_cross_entropy_with_logits(logits, (y + 1) / 2)
        return F.cross_entropy(logits, y, label_smoothing=smoothing)

    def fake_codes(self, z: Tensor, gan_only: bool) -> tuple[Tensor, Tensor]:
        """Codes of the fakes (N, Z), and a mask (N,) of those from N(0, I) instead of a face."""
        share = 1.0 if gan_only else self.cfg.loss.prior_fraction
        from_prior = torch.rand(len(z), device=z.device) < share
        return torch.where(from_prior[:, None], torch.randn_like(z), z), from_prior

    def update_d_latent(self, z_real: Tensor, z_fake: Tensor) -> dict[str, Tensor]:
        """Update of D_z. wgan: D_z(fake) - D_z(real) + lambda GP. logistic: cross-entropy."""
        w = self.cfg.loss
        real, fake = self.d_latent(torch.cat([z_real, z_fake])).chunk(2)  # (N,), (N,)
        loss = critic_loss(real, fake, w.gan_latent)
        if w.gan_latent == "wgan" and w.lambda_gp_latent:
            with fp32():
                loss = loss + w.lambda_gp_latent * gradient_penalty(self.d_latent, z_real, z_fake)[0]
        self.minimize(loss, "d_latent")
        return {"D/latent": loss, "D/gap_latent": real.mean() - fake.mean()}

    def update_d_image(
        self, x: Tensor, y: Tensor, x_fake: Tensor, y_target: Tensor, targets: Request
    ) -> dict[str, Tensor]:
        """Update of D_x: real, fake and mismatched pairs in one forward pass, and a penalty."""
        w, critic = self.cfg.loss, self.d_image
        augmented = diff_augment(torch.cat([x, x_fake]), self.cfg.train.augment)
        x_augmented, fake_augmented = augmented.chunk(2)
        pairs = [(x_augmented, y), (fake_augmented, y_target)]
        pairs += [(x_augmented, targets.y_wrong)] if w.lambda_mismatch else []
        real, fake, *wrong = critic(*(torch.cat(part) for part in zip(*pairs, strict=True))).split(len(x))  # (M,) each
        loss = critic_loss(real, fake, w.gan)
        logs = {"D/gap_image": real.mean() - fake.mean()}  # W
        if wrong:
            loss = loss + w.lambda_mismatch * self.mismatch(real, wrong[0])
            logs["D/gap_label"] = real.mean() - wrong[0].mean()  # W_label
        if w.lambda_class:
            class_loss = self.classification_loss(critic.class_logits(x_augmented), y)
            loss, logs["D/class"] = loss + class_loss, class_loss
        with fp32():
            if w.gan == "wgan" and w.lambda_gp:
                penalty, logs["D/gp_grad_norm"] = self.wgan_penalty(fake_augmented, y_target, targets)
                loss = loss + w.lambda_gp * penalty
            elif w.gan == "logistic" and w.gamma_r1:
                penalty = r1_penalty(lambda v: critic(v, y), x_augmented)
                loss, logs["D/r1"] = loss + w.gamma_r1 * penalty, penalty
        logs["D/norm"] = self.minimize(loss, "d_image")
        return logs | {"D/image": loss}

    def wgan_penalty(self, fake_augmented: Tensor, y_target: Tensor, targets: Request) -> tuple[Tensor, Tensor]:
        """WGAN-GP between fakes and real faces of the same label. Fakes with a mixed label are skipped."""
        x_match = diff_augment(targets.x_match, self.cfg.train.augment)
        if self.cfg.train.mixed:
            whole = (y_target == targets.y_target).all(1)
            if not whole.any():
                return x_match.new_zeros(()), x_match.new_ones(())  # no pair left: zero penalty, gradient norm 1
            x_match, fake_augmented, y_target = x_match[whole], fake_augmented[whole], y_target[whole]
        return gradient_penalty(lambda v: self.d_image(v, y_target), x_match, fake_augmented)

    def mismatch(self, real: Tensor, wrong: Tensor) -> Tensor:
        """Loss of real faces with a wrong label.

        With wgan, the plain difference is unbounded, because the gradient penalty does not include wrong labels.
        """
        if self.cfg.loss.gan == "logistic":
            return F.softplus(wrong).mean()
        difference = wrong - real
        return (F.softplus(difference) if self.cfg.loss.mismatch == "bounded" else difference).mean()

    def adversarial_loss(self, critic: nn.Module, gan: str, *pair: Tensor) -> Tensor:
        """The generator's loss against `critic`, which gets no gradient."""
        with frozen(critic):
            return generator_loss(critic(*pair), gan)

    def distance(self, x_hat: Tensor, x: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """L1 per pixel, weighted at mouth and eyes by `lambda_face`."""
        error = (x_hat - x).abs()
        if self.cfg.loss.lambda_face:
            error = error * face_weight(
                x.shape[-1], self.cfg.loss.lambda_face, batch.get("landmarks"), self.boxes
            ).to(x.device)  # fmt: skip
        return error.mean()

    def edit_terms(
        self,
        x_fake: Tensor,
        z_from: Tensor,
        y_target: Tensor,
        x: Tensor,
        y: Tensor,
        from_prior: Tensor,
        phase: PhaseState,
    ) -> dict[str, Tensor]:
        """Losses of the edits: {name: weighted term}. A term of weight 0 is not computed."""
        w = self.cfg.loss
        augmented = diff_augment(x_fake, self.cfg.train.augment)
        terms = {"adv": w.lambda_adv * self.adversarial_loss(self.d_image, w.gan, augmented, y_target)}
        if w.lambda_class:
            with frozen(self.d_image):
                terms["class"] = w.lambda_class * self.classification_loss(
                    self.d_image.class_logits(augmented), y_target
                )
        if w.lambda_guide * phase.guide_factor:
            with frozen(self.guide):
                self.guide.eval()  # without dropout
                terms["guide"] = w.lambda_guide * self.classification_loss(self.guide(jitter(x_fake)), y_target)
                self.guide.train()
        if w.lambda_code or w.lambda_cycle:
            z_back = self.encoder(x_fake)  # (M, Z)
            if w.lambda_code:
                terms["code"] = w.lambda_code * (z_back - z_from.detach()).abs().mean()
            if w.lambda_cycle:
                error = (self.generator(z_back, y) - x).abs().flatten(1).mean(1)
                terms["cycle"] = w.lambda_cycle * (error * ~from_prior).sum() / (~from_prior).sum().clamp_min(1)
        return terms

    def encode(self, x: Tensor) -> Tensor:
        """x (N, C, H, H) -> z (N, Z), averaged weights."""
        return self.ema_encoder(x)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """z (N, Z), y (N, K) -> x (N, C, H, H) in [-1, 1], averaged weights."""
        return self.ema_generator(z, y).clamp(-1, 1)

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x, y, _ = self.faces(batch)
        z = self.encode(x)
        x_hat = self.decode(z, y)
        metrics = {"l1": (x_hat - x).abs().mean(), "psnr": psnr(x, x_hat).mean(), "code_std": code_std(z)}
        y_target = y.roll(1, 0)
        x_edit = self.decode(z, y_target)
        if self.d_image is not None:
            metrics["gap_image"] = (self.d_image(x, y) - self.d_image(x_edit, y_target)).mean()
            metrics["gap_label"] = (self.d_image(x, y) - self.d_image(x, y_target)).mean()
        if self.guide is not None and not self.attributes:
            metrics["guide_real"] = (self.guide(x).argmax(1) == y.argmax(1)).float().mean()
            metrics["guide_edit"] = (self.guide(x_edit).argmax(1) == y_target.argmax(1)).float().mean()
        return metrics

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        x, y, _ = self.faces(batch)
        z = self.encode(x)
        grids = {
            "strip": self.strip(x[:8], y[:8]),
            "reconstruction": Grid(torch.stack([x, self.decode(z, y)]), ["input", "reconstruction"]),
        }
        if not self.attributes:
            edits, draws = self.decode_all_classes(z), self.decode_all_classes(self.prior_noise)  # (K, N, C, H, H) each
            order = class_order(self.names)
            grids["prior"] = Grid(draws[order][:, :4].transpose(0, 1), [], [self.names[i] for i in order])
            self.check_health(x, y, z, edits, draws.transpose(0, 1))
        return grids

    def strip(self, x: Tensor, y: Tensor) -> Grid:
        """One row per face: the input, then each class, or each attribute flipped."""
        z, num = self.encode(x), len(self.names)
        if self.attributes:
            targets, names = y[:, None] * (1 - 2 * torch.eye(num, device=y.device)), self.names  # (N, K, K)
        else:
            order = class_order(self.names)
            targets = torch.eye(num, device=y.device)[order].expand(len(y), -1, -1)
            names = [self.names[i] for i in order]
        edited = self.decode(z.repeat_interleave(num, 0), targets.flatten(0, 1)).unflatten(0, (len(x), num))
        return Grid(torch.cat([x[:, None], edited], 1), [], ["input", *names])

    def decode_all_classes(self, z: Tensor) -> Tensor:
        """Decode z (N, Z) under each class: (K, N, C, H, H)."""
        targets = torch.eye(len(self.names), device=z.device).repeat_interleave(len(z), 0)
        return self.decode(z.repeat(len(self.names), 1), targets).unflatten(0, (-1, len(z)))

    def check_health(self, x: Tensor, y: Tensor, z: Tensor, edits: Tensor, draws: Tensor) -> None:
        """Run the health checks, and log a warning for each that keeps failing."""
        k, n = edits.shape[:2]
        targets = torch.arange(k, device=x.device).repeat_interleave(n)
        metrics = health_metrics(x, z, edits, draws)
        if self.d_image is not None:
            scores = self.d_image(edits.flatten(0, 1), F.one_hot(targets, k).float())
            metrics["gap_image"] = float(self.d_image(x, y).mean() - scores.mean())
        classifier = self.guide or (self.d_image.class_logits if self.cfg.loss.lambda_class else None)
        if classifier is not None:
            metrics["edit_accuracy"] = float((classifier(edits.flatten(0, 1)).argmax(1) == targets).float().mean())
        found = checks_of_phase(failed_checks(metrics, k), self.phase)
        for message in self.monitor.update(found, self.phase):
            logger.warning(message)


def names_of(meta: dict, attributes: bool) -> list[str]:
    """The names of the conditions: classes, or attributes."""
    names = meta["attributes" if attributes else "classes"]
    if len(names) < (1 if attributes else 2):
        kind = "attributes" if attributes else "expressions"
        raise UserError(f"model.condition: {meta['dataset']} has no {kind}; choose another data.dataset")
    return list(names)


def main(argv: list[str] | None = None) -> None:
    with start(Config, argv=argv) as run:
        faces = build_faces(run.cfg.data)
        train = semi_supervised(faces.train, run.cfg.train.unlabelled)
        method = AAECGAN(run.cfg, faces.meta)
        if isinstance(method.guide, ExternalGuide):
            method.guide.open(run.device)
        linear, total = prepare_linear(run, method, train), run.cfg.train.total_steps
        label = run.cfg.model.condition_d
        logger.info(f"{linear}; label: {label}; {total} batches = {generator_steps(run.cfg)} generator steps")
        if run.cfg.train.compile:
            logger.info(
                f"compiled: {', '.join(method.compilable)}; no critic, since penalties differentiate them twice"
            )
        fit(run, method, train, faces.val)


if __name__ == "__main__":
    main()
