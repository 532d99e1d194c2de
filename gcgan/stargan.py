"""StarGAN: one generator that edits a face to any label (Choi et al., "StarGAN", arXiv 1711.09020).

One step is one batch and one critic update. The generator is updated in every n_critic-th step. With two data sets in
turn, the steps of each set are counted separately.
"""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.emotions import canonical
from engine import EMA, Grid, Method, UserError, adam, fp32, frozen, ramped_decay
from evaluation.monitor import Monitor
from gcgan.conditions import LabelBlock, Labels, target_condition
from gcgan.config import StarGANConfig
from gcgan.model import Critic, Generator
from gcgan.monitor import FIRST_SHARE, failed_checks, health_metrics
from losses.adversarial import critic_loss, generator_loss, gradient_penalty, r1_penalty
from losses.augment import diff_augment
from losses.image_metrics import psnr
from losses.pixels import boxes_from_eyes, face_weight
from losses.targets import Request, draw_request, mix_labels, wrong_labels

logger = logging.getLogger("faces")
MIN_CONFIDENCE = 0.9  # probability of a class from which the class head is believed


class StarGAN(Method):
    """Generator and critic; `ema_generator` has the averaged weights, which make all outputs."""

    compilable = ("generator",)  # not the critic: penalties differentiate it twice

    def __init__(self, cfg: StarGANConfig, meta: dict, code_dim: int = 0, num_points: int = 0) -> None:
        """code_dim: size of a condition that is not a label; num_points: landmarks that D predicts."""
        super().__init__(cfg, meta)
        m, t, channels, size = cfg.model, cfg.train, meta["channels"], meta["image_size"]
        self.labels = Labels(meta)
        kinds = {"attr" if block.attributes else "label" for block in self.labels.blocks}
        self.needs = ("image", "source") if len(kinds) > 1 else ("image", *kinds)
        if cfg.paired:
            if kinds != {"label"}:
                raise UserError(
                    "data.pair: pairs need expressions, and this set has attributes; give data.label_attribute, as "
                    "Smiling, or set loss.pairs=unpaired"
                )
            self.needs += ("pair_image", "pair_label")
        self.generator = Generator(channels, code_dim or self.labels.cond_dim, m)
        self.critic = Critic(channels, size, self.labels.cond_dim, m, num_points, self.labels.num)
        self.ema_generator = EMA(self.generator)
        if cfg.loss.lambda_face and not (meta["eyes"] or meta["landmarks"]):
            raise UserError(f"loss.lambda_face: {meta['dataset']} has neither landmarks nor eye positions; set it to 0")
        self.boxes = boxes_from_eyes(meta["eyes"]) if cfg.loss.lambda_face and meta["eyes"] else None
        self.monitor, self.image_steps = Monitor(), 0  # steps of images done in this process' run
        betas = (t.beta1, t.beta2)
        self.optimizers["generator"] = adam(self.generator.parameters(), t.lr, betas)
        self.optimizers["critic"] = adam(self.critic.parameters(), t.lr_critic, betas)

    @property
    def scores_are_logits(self) -> bool:
        """Whether the sigmoid of D's score is a probability."""
        return self.cfg.loss.gan == "logistic"

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        w, self.image_steps = self.cfg.loss, step + 1
        block, num_sets = self.labels.block_of(batch), len(self.labels.blocks)
        done = step // num_sets  # earlier steps of this data set
        turn = (done + 1) % w.n_critic == 0  # does the generator move in this step?
        logging_now = (step + 1) % self.cfg.train.log_every < num_sets  # once for each set

        # 1. Labels: another row's for each face, some of them between the own and the other; in pairs, the partner's.
        x, y, known = self.labels.faces(batch, block)
        if self.cfg.paired:
            known &= batch["pair_label"] >= 0
        x, y = x[known], y[known]  # (N, C, H, H) in [-1, 1], (N, K) of this data set
        points, points_match = (batch[key][known] if key in batch else None for key in ("landmarks", "pair_landmarks"))
        if self.cfg.paired:
            y_target = F.one_hot(batch["pair_label"][known], y.shape[1]).to(y)
            request = Request(y_target, batch["pair_image"][known], wrong_labels(y, attributes=False))
        else:
            request = draw_request(x, y, own=False, attributes=block.attributes)
            y_target = mix_labels(y, request.y_target, self.cfg.train.label_mix)
        c, c_target, request = self.as_conditions(y, y_target, request, block)  # (N, cond_dim)

        # 2. Fakes, once for both players: G has not moved when its own turn comes.
        with torch.set_grad_enabled(turn):
            x_fake = self.generator(x, c_target)  # (N, C, H, H)

        # 3. Critic: real faces under their label against fakes under the target, and real faces under a wrong label.
        logs = self.update_critic(x, c, x_fake.detach(), c_target, request, logging_now, block=block)
        if not turn:
            return logs

        # 4. Generator: convince the critic, show the target, lead back to the photo.
        terms = self.adversarial_terms(x_fake, c_target, block)
        if self.cfg.paired:
            terms |= self.paired_terms(x, c, x_fake, request.x_match, points, points_match)
        else:
            terms |= self.cycle_terms(x, c, x_fake, points)
        terms |= self.triple_term(x, x_fake, c_target)
        return logs | self.move_generator(terms, num_sets * ((done + 1) // w.n_critic - 1) + step % num_sets)

    def as_conditions(
        self, y: Tensor, y_target: Tensor, request: Request, block: LabelBlock
    ) -> tuple[Tensor, Tensor, Request]:
        """Labels of one data set (N, K) -> conditions (N, cond_dim) of all sets."""
        to_c = lambda labels: self.labels.condition(labels, block)  # noqa: E731
        asked = Request(to_c(request.y_target), request.x_match, to_c(request.y_wrong))
        return to_c(y), to_c(y_target), asked

    def move_generator(self, terms: dict[str, Tensor], moves: int) -> dict[str, Tensor]:
        """One generator update, and an update of the average. `moves`: updates before this one (EMA warm-up)."""
        loss = sum(terms.values())
        self.minimize(loss, "generator")
        self.ema_generator.update(self.generator, ramped_decay(self.cfg.train.ema_decay, moves))
        return {f"G/{name}": value for name, value in terms.items()} | {"loss": loss}

    def update_critic(
        self,
        x: Tensor,
        c: Tensor,
        x_fake: Tensor,
        c_target: Tensor,
        request: Request,
        with_after: bool,
        points: Tensor | None = None,
        block: LabelBlock | None = None,
    ) -> dict[str, Tensor]:
        """L_D = adversarial + mismatch + class of real images + penalty; statistics of D before and after (README).

        c, c_target and the labels of `request` are conditions (N, cond_dim). points (N, 68, 2): landmarks of x, if D
        predicts them (GC-GAN). block: labels of the data set of x; None: there is one data set.
        """
        w, critic = self.cfg.loss, self.critic
        seen = diff_augment(torch.cat([x, x_fake]), self.cfg.train.augment)
        x_seen, fake_seen = seen.chunk(2)
        h_real, h_fake = critic.features(seen, torch.cat([c, c_target])).chunk(2)  # (N, F, P, P)
        real, fake = critic.score(h_real, c), critic.score(h_fake, c_target)  # (N, P, P)
        loss = critic_loss(real, fake, w.gan)
        logs = self.statistics(real, fake) | {"D/gap": real.mean() - fake.mean()}
        if w.lambda_mismatch:
            wrong = critic(x_seen, request.y_wrong) if critic.planes else critic.score(h_real, request.y_wrong)
            # wgan: the plain difference is not bounded, since the penalty never sees a wrong label.
            loss = loss + w.lambda_mismatch * F.softplus(wrong if w.gan == "logistic" else wrong - real).mean()
            logs["D/gap_label"] = real.mean() - wrong.mean()
        if w.lambda_class_d and critic.head is not None:
            logs["D/class"] = self.class_loss(h_real, c, block)
            loss = loss + w.lambda_class_d * logs["D/class"]
        if points is not None:
            logs["D/landmarks"] = (critic.landmarks(h_real) - points).square().mean()
            loss = loss + w.lambda_landmarks * logs["D/landmarks"]
        with fp32():
            penalty = self.penalty(x_seen, c, fake_seen, c_target, request, logs)
        self.minimize(loss + penalty, "critic")
        if with_after:
            with torch.no_grad():
                after = critic(fake_seen, c_target)
            logs["D/fake_after"] = after.sigmoid().mean() if w.gan == "logistic" else after.mean()
        return logs | {"D/loss": loss + penalty}

    def class_loss(self, h: Tensor, c: Tensor, block: LabelBlock | None) -> Tensor:
        """`class_loss` of the class head for features h; only labels of the image's data set are used."""
        block = block or self.labels.blocks[0]
        return class_loss(self.critic.logits(h)[:, block.columns], c[:, block.columns], block.attributes)

    def penalty(
        self, x_seen: Tensor, c: Tensor, fake_seen: Tensor, c_target: Tensor, request: Request, logs: dict[str, Tensor]
    ) -> Tensor | float:
        """The weighted gradient penalty: R1 of the mean over patches, or WGAN-GP of the sum over patches (StarGAN)."""
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
        whole = (c_target == request.y_target).all(1)
        if not whole.any():
            return 0.0
        x_match = diff_augment(request.x_match, self.cfg.train.augment)[whole]
        c_match = c_target[whole]
        value, logs["D/slope"] = gradient_penalty(lambda v: critic(v, c_match), x_match, fake_seen[whole])
        return w.lambda_gp * value

    def statistics(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Logistic critic: D(x) and D(G(z)) as probabilities, and both losses. wgan: mean scores."""
        if self.cfg.loss.gan != "logistic":
            return {"D/real": real.mean(), "D/fake_before": fake.mean()}
        return {
            "D/real": real.sigmoid().mean(),
            "D/fake_before": fake.sigmoid().mean(),
            "Loss_D": F.softplus(-real).mean() + F.softplus(fake).mean(),
            "Loss_G": F.softplus(-fake).mean(),
        }

    def adversarial_terms(self, x_fake: Tensor, c_target: Tensor, block: LabelBlock | None = None) -> dict[str, Tensor]:
        """Terms of the generator's loss from the critic: {name: weighted term}. Terms of weight 0 are not computed."""
        w = self.cfg.loss
        with frozen(self.critic):
            h = self.critic.features(diff_augment(x_fake, self.cfg.train.augment), c_target)
            terms = {"adv": generator_loss(self.critic.score(h, c_target), w.gan)}
            if w.lambda_class_g and self.critic.head is not None:
                terms["class"] = w.lambda_class_g * self.class_loss(h, c_target, block)
        return terms

    def cycle_terms(self, x: Tensor, c: Tensor, x_fake: Tensor, points: Tensor | None = None) -> dict[str, Tensor]:
        """Terms of the generator's loss that keep the person: edit back to the own label, and edit to the own label.

        x, x_fake (N, C, H, H); c (N, cond_dim) the own condition; points (N, P, 2): landmarks of x, for `lambda_face`.
        """
        w, terms = self.cfg.loss, {}
        if w.lambda_cycle:
            terms["cycle"] = w.lambda_cycle * self.distance(self.generator(x_fake, c), x, points)
        if w.lambda_self:
            terms["self"] = w.lambda_self * self.distance(self.generator(x, c), x, points)
        return terms

    def paired_terms(
        self,
        x: Tensor,
        c: Tensor,
        x_fake: Tensor,
        x_match: Tensor,
        points: Tensor | None = None,
        points_match: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Terms of pairs: x_fake is to be x_match, the person's own photo with the target label.

        x, c, points: as in `cycle_terms`. x_match (N, C, H, H) with landmarks points_match (N, P, 2). The edit to the
        own label keeps the photo: without this term a generator that sees only pairs can ignore the label. It is
        squared, because an L1 term holds x_fake at x, where training starts.
        """
        w = self.cfg.loss
        error = self.distance(x_fake, x_match, points_match, power=1 if w.pixel == "l1" else 2)
        terms = {"pixel": w.lambda_pixel * error}
        if w.lambda_self:
            terms["self"] = w.lambda_self * self.distance(self.generator(x, c), x, points, power=2)
        return terms

    def triple_term(self, x: Tensor, x_fake: Tensor, c_target: Tensor) -> dict[str, Tensor]:
        """Triple consistency (arXiv 1811.03492): L1 between a direct edit and an edit through another row's target."""
        if not self.cfg.loss.lambda_triple:
            return {}
        detour = self.generator(self.generator(x, c_target.roll(1, 0)), c_target)
        return {"triple": self.cfg.loss.lambda_triple * (x_fake - detour).abs().mean()}

    def distance(self, x_hat: Tensor, x: Tensor, points: Tensor | None, power: int = 1) -> Tensor:
        """Mean |x_hat - x|^power of images (N, C, H, H); `lambda_face` adds weight at eyes and mouth. points:
        (N, P, 2)."""
        error, lambda_face = (x_hat - x).abs().pow(power), self.cfg.loss.lambda_face
        if lambda_face:
            error = error * face_weight(x.shape[-1], lambda_face, points, self.boxes).to(error)
        return error.mean()

    def read(self, x: Tensor, block: LabelBlock) -> Tensor:
        """Labels (N, K) of one data set in {0, 1}, predicted by D for x (N, C, H, H). Without a class head: the class
        neutral (a uniform row if there is none), or no attribute."""
        k = len(block.names)
        if self.critic.head is not None:
            logits = self.critic.logits(self.critic.features(x))[:, block.columns]
            return (logits > 0).float() if block.attributes else F.one_hot(logits.argmax(1), k).float()
        return self.default_labels(x, block)

    def read_confident(self, x: Tensor, block: LabelBlock) -> Tensor:
        """`read` for a face to edit: a class with a probability below MIN_CONFIDENCE counts as neutral.

        A weak class head would else call a neutral face happy, and an edit to happy would leave it as it is.
        """
        y = self.read(x, block)
        if self.critic.head is None or block.attributes or neutral_index(block) is None:
            return y
        p = self.critic.logits(self.critic.features(x))[:, block.columns].softmax(1).amax(1, keepdim=True)
        return torch.where(p >= MIN_CONFIDENCE, y, self.default_labels(x, block))

    def default_labels(self, x: Tensor, block: LabelBlock) -> Tensor:
        """Labels (N, K) that are taken for unknown ones: neutral (a uniform row if there is none), or no attribute."""
        k, neutral = len(block.names), neutral_index(block)
        if block.attributes:
            return x.new_zeros(len(x), k)
        row = torch.full((k,), 1 / k) if neutral is None else torch.eye(k)[neutral]
        return row.to(x).expand(len(x), -1)

    def edit(self, x: Tensor, c: Tensor) -> Tensor:
        """Edit x (N, C, H, H) to conditions c (N, K) with the averaged weights; images in [-1, 1]."""
        x_fake = self.ema_generator(x, c)
        if not self.cfg.model.mirror:
            return x_fake
        return (x_fake + self.ema_generator(x.flip(-1), c).flip(-1)) / 2

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        block = self.labels.block_of(batch)
        x, y, known = self.labels.faces(batch, block)
        x, c = x[known], self.labels.condition(y[known], block)
        c_target = c.roll(1, 0)
        x_fake, mask = self.ema_generator(x, c_target, with_mask=True)
        x_cycle = self.ema_generator(x_fake, c)
        figures = {
            "cycle_psnr": psnr(x_cycle, x).mean(),
            "mask": mask.mean(),
            "sensitivity": label_sensitivity(self.ema_generator, x, c, c_target),
            "gap_label": (self.critic(x, c) - self.critic(x, c_target)).mean(),
        }
        if self.critic.head is not None and not block.attributes:
            read, columns = self.read(x_fake, block), block.columns
            figures["critic_reads_target"] = (read.argmax(1) == c_target[:, columns].argmax(1)).float().mean()
        return figures

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        own = self.labels.block_of(batch)
        x, y, _ = self.labels.faces(batch, own)
        x, c = x[:8], self.labels.condition(y[:8], own)
        edits, masks = [x], []
        for block in self.labels.blocks:
            c_own = c if block is own else self.labels.embed(self.read(x, block), block)
            for k in range(len(block.names)):
                c_target = target_condition(c_own, k, block)
                edits.append(self.edit(x, c_target))
                masks.append(self.ema_generator(x, c_target, with_mask=True)[1] * 2 - 1)
        cycle = self.ema_generator(self.ema_generator(x, c.roll(1, 0)), c)
        self.check_health(x, c, torch.cat(edits[1:]), torch.stack(masks) / 2 + 0.5)
        return {
            "edits": Grid(torch.stack(edits, 1), [], ["input", *self.labels.names]),
            "cycle": Grid(torch.stack([x, cycle]), ["input", "cycle"]),
            "mask": Grid(torch.stack(masks, 1), [], self.labels.names),
        }

    def check_health(self, x: Tensor, c: Tensor, edits: Tensor, mask: Tensor) -> None:
        """Log a warning for each check that fails repeatedly.

        x (N, C, H, H) with conditions c (N, cond_dim), their edits (M, C, H, H), and the masks of the edits.
        """
        if self.image_steps < FIRST_SHARE * self.cfg.train.total_steps:
            return
        sensitivity = label_sensitivity(self.ema_generator, x, c, c.roll(1, 0))
        masked = self.cfg.model.output in ("mask", "warp")
        metrics = health_metrics(x, edits, sensitivity, mask if masked else None)
        for message in self.monitor.update(failed_checks(metrics)):
            logger.warning(message)


def neutral_index(block: LabelBlock) -> int | None:
    """The column of the class neutral; None if there is none, or for attributes."""
    found = [i for i, name in enumerate(block.names) if canonical(name) == "neutral"]
    return found[0] if found and not block.attributes else None


def class_loss(logits: Tensor, c: Tensor, attributes: bool) -> Tensor:
    """Cross-entropy with (soft) classes; attributes: binary cross-entropy, sum over K, mean over N.

    logits, c: (N, K), c in [0, 1]. StarGAN, Eq. 2 and 3, with the reference code's sums.
    """
    if attributes:
        return F.binary_cross_entropy_with_logits(logits, c, reduction="sum") / len(c)
    return F.cross_entropy(logits, c)


def label_sensitivity(generator: Any, x: Tensor, c: Tensor, c_other: Tensor) -> Tensor:
    """Mean absolute change of the image between two conditions, over the standard deviation of the images. Near 0: the
    label is ignored."""
    return (generator(x, c_other) - generator(x, c)).abs().mean() / x.std().clamp_min(1e-6)
