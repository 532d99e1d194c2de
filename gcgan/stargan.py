"""StarGAN: one generator that shows any label on any face (Choi et al. 1711.09020).

One step is one batch and one critic update; the generator moves in every n_critic-th.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.labels import conditions
from engine import EMA, Grid, Method, UserError, adam, fp32, frozen
from gcgan.config import StarGANConfig
from gcgan.model import Critic, Generator
from losses.adversarial import critic_loss, generator_loss, gradient_penalty, r1_penalty
from losses.augment import diff_augment
from losses.targets import Request, draw_request, mix_labels


class StarGAN(Method):
    """Generator and critic (Choi et al. 1711.09020); `ema_generator` has the weights that pictures come from."""

    compilable = ("generator",)  # not the critic: penalties differentiate it twice

    def __init__(self, cfg: StarGANConfig, meta: dict, code_dim: int = 0, num_points: int = 0) -> None:
        """code_dim: numbers of the condition where it is no label; num_points: landmarks that D reads."""
        super().__init__(cfg, meta)
        m, t, channels, size = cfg.model, cfg.train, meta["channels"], meta["image_size"]
        self.attributes = not meta["classes"]
        self.names = names_of(meta)
        self.needs = ("image", "attr" if self.attributes else "label")
        num = len(self.names)  # K
        self.generator = Generator(channels, code_dim or num, m)
        self.critic = Critic(channels, size, num, m, num_points)
        self.ema_generator = EMA(self.generator)
        betas = (t.beta1, t.beta2)
        self.optimizers["generator"] = adam(self.generator.parameters(), t.lr, betas)
        self.optimizers["critic"] = adam(self.critic.parameters(), t.lr_critic, betas)

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        w = self.cfg.loss
        turn = (step + 1) % w.n_critic == 0  # does the generator move in this step?
        logging_now = (step + 1) % self.cfg.train.log_every == 0

        # 1. Labels: another row's for each face, some of them between the own and the other.
        x, y, known = self.faces(batch)
        x, y = x[known], y[known]  # (N, C, H, H) in [-1, 1], (N, K)
        request = draw_request(x, y, own=False, attributes=self.attributes)
        y_target = mix_labels(y, request.y_target, self.cfg.train.label_mix)

        # 2. Fakes, once for both players: G has not moved when its own turn comes.
        with torch.set_grad_enabled(turn):
            x_fake = self.generator(x, self.condition(y_target))  # (N, C, H, H)

        # 3. Critic: real faces under their label against fakes under the target, and real faces under a wrong label.
        logs = self.update_critic(x, y, x_fake.detach(), y_target, request, logging_now)
        if not turn:
            return logs

        # 4. Generator: convince the critic, show the target, lead back to the photo.
        terms = self.adversarial_terms(x_fake, y_target) | self.cycle_terms(x, y, x_fake)
        return logs | self.move_generator(terms, (step + 1) // w.n_critic - 1)

    def move_generator(self, terms: dict[str, Tensor], moves: int) -> dict[str, Tensor]:
        """One generator update after `moves` others, and the average follows: a short memory at first."""
        loss = sum(terms.values())
        self.minimize(loss, "generator")
        self.ema_generator.update(self.generator, min(self.cfg.train.ema_decay, (1 + moves) / (10 + moves)))
        return {f"G/{name}": value for name, value in terms.items()} | {"loss": loss}

    def faces(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, C, H, H), labels (N, K): rows that sum to 1, or attributes in {-1, +1}; which are known (N,)."""
        return batch["image"], *conditions(batch, len(self.names), self.attributes)

    def condition(self, y: Tensor) -> Tensor:
        """The condition of labels (N, K): attributes as 0 and 1, as in the reference code."""
        return (y + 1) / 2 if self.attributes else y

    def update_critic(
        self,
        x: Tensor,
        y: Tensor,
        x_fake: Tensor,
        y_target: Tensor,
        request: Request,
        with_after: bool,
        points: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """L_D = adversarial + mismatch + class of the real + penalty; statistics of D before and after (README).

        points (N, 68, 2): landmarks of x, where D is to read them (GC-GAN).
        """
        w, critic = self.cfg.loss, self.critic
        c, c_target = self.condition(y), self.condition(y_target)
        seen = diff_augment(torch.cat([x, x_fake]), self.cfg.train.augment)
        x_seen, fake_seen = seen.chunk(2)
        h_real, h_fake = critic.features(seen, torch.cat([c, c_target])).chunk(2)  # (N, F, P, P)
        real, fake = critic.score(h_real, c), critic.score(h_fake, c_target)  # (N, P, P)
        loss = critic_loss(real, fake, w.gan)
        logs = self.statistics(real, fake) | {"D/gap": real.mean() - fake.mean()}
        if w.lambda_mismatch:
            c_wrong = self.condition(request.y_wrong)
            wrong = critic(x_seen, c_wrong) if critic.planes else critic.score(h_real, c_wrong)
            # wgan: the plain difference is not bounded, since the penalty never sees a wrong label.
            loss = loss + w.lambda_mismatch * F.softplus(wrong if w.gan == "logistic" else wrong - real).mean()
            logs["D/gap_label"] = real.mean() - wrong.mean()
        if w.lambda_class_d and critic.head is not None:
            logs["D/class"] = class_loss(critic.logits(h_real), c, self.attributes)
            loss = loss + w.lambda_class_d * logs["D/class"]
        if points is not None:
            logs["D/landmarks"] = (critic.landmarks(h_real) - points).square().mean()
            loss = loss + w.lambda_landmarks * logs["D/landmarks"]
        with fp32():
            penalty = self.penalty(x_seen, c, fake_seen, y_target, request, logs)
        self.minimize(loss + penalty, "critic")
        if with_after:
            with torch.no_grad():
                after = critic(fake_seen, c_target)
            logs["D/fake_after"] = after.sigmoid().mean() if w.gan == "logistic" else after.mean()
        return logs | {"D/loss": loss + penalty}

    def penalty(
        self, x_seen: Tensor, c: Tensor, fake_seen: Tensor, y_target: Tensor, request: Request, logs: dict[str, Tensor]
    ) -> Tensor | float:
        """The weighted gradient penalty: R1 of the patches' mean, or WGAN-GP's of the patches' sum (1711.09020)."""
        w, critic = self.cfg.loss, self.critic
        if w.gan == "logistic":
            if not w.gamma_r1:
                return 0.0
            logs["D/r1"] = r1_penalty(lambda v: critic(v, c).mean((1, 2)), x_seen)
            return w.gamma_r1 * logs["D/r1"]
        if not w.lambda_gp:
            return 0.0
        if self.cfg.model.critic == "class":  # the score knows no label: the line goes to the face itself
            value, logs["D/slope"] = gradient_penalty(lambda v: critic(v, c), x_seen, fake_seen)
            return w.lambda_gp * value
        # Both ends of a line carry the label shown. No real face carries a mixed one: such fakes are left out.
        whole = (y_target == request.y_target).all(1)
        if not whole.any():
            return 0.0
        x_match = diff_augment(request.x_match, self.cfg.train.augment)[whole]
        c_match = self.condition(y_target[whole])
        value, logs["D/slope"] = gradient_penalty(lambda v: critic(v, c_match), x_match, fake_seen[whole])
        return w.lambda_gp * value

    def statistics(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Of a logistic critic D(x) and D(G(z)), probabilities, and both losses; of wgan the mean scores."""
        if self.cfg.loss.gan != "logistic":
            return {"D/real": real.mean(), "D/fake_before": fake.mean()}
        return {
            "D/real": real.sigmoid().mean(),
            "D/fake_before": fake.sigmoid().mean(),
            "Loss_D": F.softplus(-real).mean() + F.softplus(fake).mean(),
            "Loss_G": F.softplus(-fake).mean(),
        }

    def adversarial_terms(self, x_fake: Tensor, y_target: Tensor) -> dict[str, Tensor]:
        """What the generator pays to the critic: {name: weighted term}. A term of weight 0 costs nothing."""
        w, c_target = self.cfg.loss, self.condition(y_target)
        with frozen(self.critic):
            h = self.critic.features(diff_augment(x_fake, self.cfg.train.augment), c_target)
            terms = {"adv": generator_loss(self.critic.score(h, c_target), w.gan)}
            if w.lambda_class_g and self.critic.head is not None:
                terms["class"] = w.lambda_class_g * class_loss(self.critic.logits(h), c_target, self.attributes)
        return terms

    def cycle_terms(self, x: Tensor, y: Tensor, x_fake: Tensor) -> dict[str, Tensor]:
        """What the generator pays for the person: back to the own label, and nothing to do under it."""
        w, c, terms = self.cfg.loss, self.condition(y), {}
        if w.lambda_cycle:
            terms["cycle"] = w.lambda_cycle * (self.generator(x_fake, c) - x).abs().mean()
        if w.lambda_self:
            terms["self"] = w.lambda_self * (self.generator(x, c) - x).abs().mean()
        return terms

    def edit(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, C, H, H) under conditions c (N, K): pictures in [-1, 1], averaged weights."""
        x_fake = self.ema_generator(x, c)
        if not self.cfg.model.mirror:
            return x_fake
        return (x_fake + self.ema_generator(x.flip(-1), c).flip(-1)) / 2

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x, y, known = self.faces(batch)
        x, c = x[known], self.condition(y[known])
        c_target = c.roll(1, 0)
        x_fake, mask = self.ema_generator(x, c_target, with_mask=True)
        x_cycle = self.ema_generator(x_fake, c)
        figures = {
            "cycle_psnr": psnr(x_cycle, x).mean(),
            "mask": mask.mean(),
            "sensitivity": label_sensitivity(self.ema_generator, x, c, c_target),
            "gap_label": (self.critic(x, c) - self.critic(x, c_target)).mean(),
        }
        if self.critic.head is not None and not self.attributes:
            read = self.critic.logits(self.critic.features(x_fake)).argmax(1)
            figures["critic_reads_target"] = (read == c_target.argmax(1)).float().mean()
        return figures

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        x, y, _ = self.faces(batch)
        x, c = x[:8], self.condition(y[:8])
        columns, edits, masks = ["input"], [x], []
        for k, name in enumerate(self.names):
            c_target = target_condition(c, k, self.attributes)
            edits.append(self.edit(x, c_target))
            masks.append(self.ema_generator(x, c_target, with_mask=True)[1] * 2 - 1)
            columns.append(name)
        cycle = self.ema_generator(self.ema_generator(x, c.roll(1, 0)), c)
        return {
            "edits": Grid(torch.stack(edits, 1), [], columns),
            "cycle": Grid(torch.stack([x, cycle]), ["input", "cycle"]),
            "mask": Grid(torch.stack(masks, 1), [], self.names),
        }


def class_loss(logits: Tensor, c: Tensor, attributes: bool) -> Tensor:
    """Cross-entropy with classes that may be soft; attributes: binary cross-entropy summed over K, a mean over N.

    logits, c: (N, K), c in [0, 1]. Choi et al. 1711.09020, Eq. 2 and 3, with the reference code's sums.
    """
    if attributes:
        return F.binary_cross_entropy_with_logits(logits, c, reduction="sum") / len(c)
    return F.cross_entropy(logits, c)


def target_condition(c: Tensor, k: int, attributes: bool) -> Tensor:
    """Conditions (N, K) that ask for label k: the class k; or attribute k turned, the others kept."""
    c_target = c.clone() if attributes else torch.zeros_like(c)
    c_target[:, k] = 1 - c[:, k] if attributes else 1
    return c_target


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """(N,) dB between pictures (N, C, H, W) in [-1, 1], at most 60."""
    return (10 * torch.log10(4 / (a - b).square().flatten(1).mean(1).clamp_min(4e-6))).clamp_max(60)


def label_sensitivity(generator: Any, x: Tensor, c: Tensor, c_other: Tensor) -> Tensor:
    """Mean absolute change of the picture between two conditions over the pictures' own deviation; near 0: the label
    is ignored."""
    return (generator(x, c_other) - generator(x, c)).abs().mean() / x.std().clamp_min(1e-6)


def names_of(meta: dict) -> list[str]:
    """What can be c_target for: classes where the set has any, else attributes."""
    names = meta["classes"] or meta["attributes"]
    if len(names) < 1 + bool(meta["classes"]):
        raise UserError(f"data.dataset: {meta['dataset']} has no expressions and no attributes; choose another set")
    return list(names)
