"""What the CGAN and the stages 2 and 3 share: a conditional critic, its update, averaged weights, pictures of a run."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from a2f.monitor import META_KEY, diversity_of, failed_checks
from a2f.requests import signed, wrong_requests
from engine import EMA, Grid, Method, UserError, fp32, frozen
from evaluation.monitor import Monitor
from losses.adversarial import critic_loss, generator_loss, gradient_penalty, r1_penalty

logger = logging.getLogger("faces")
NOISES = 16  # pictures of each request that the alarms look at


class SampledMethod(Method):
    """A method whose run shows pictures of requests: many noises for one request, one noise with attributes toggled."""

    needs = ("image", "attr")

    def __init__(self, cfg, meta: dict) -> None:
        super().__init__(cfg, meta)
        if not meta["attributes"]:
            raise UserError(f"data.dataset: {meta['dataset']} has no attributes to ask for; choose another set")
        self.monitor, self.progress = Monitor(), 0.0  # share of the run that is done
        self.columns = list(range(len(meta["attributes"])))  # of the attributes, what a request has

    def asked(self) -> Tensor:
        """The requests (R, A) in {-1, +1} that pictures are made for: rows that many training faces show."""
        rows = self.meta.get(META_KEY, {}).get("requests") or [[0] * len(self.columns)]
        return signed(torch.tensor(rows, dtype=torch.float32, device=self.device))

    def draw(self, a: Tensor, noise: Tensor) -> Tensor:
        """Pictures (N, C, H, H) of requests a (N, A), averaged weights; noise (N, `noise_dim`)."""
        raise NotImplementedError

    def decay(self, updates: int) -> float:
        """The averages' decay after so many updates: min(ema_decay, (1 + n) / (10 + n))."""
        return min(self.cfg.train.ema_decay, (1 + updates) / (10 + updates))

    def grid_of_requests(self, picture: Tensor) -> dict[str, Grid]:
        """`requests`: each row one request under the same 8 noises; `toggle`: one noise, each attribute off and on;
        `real`: the pictures handed in, (N, C, H, H). Symptoms of collapse are logged."""
        a = self.asked()
        noise = torch.randn(NOISES, self.noise_dim, device=self.device)
        groups = [self.draw(row.expand(NOISES, -1), noise) for row in a]
        grids = {"requests": Grid(torch.stack([g[:8] for g in groups]))}
        # One noise, the first request; the attributes in turn.
        count = a.shape[1]
        off, on = a[0].repeat(count, 1), a[0].repeat(count, 1)
        off.fill_diagonal_(-1)
        on.fill_diagonal_(1)
        low, high = (self.draw(rows, noise[:1].expand(count, -1)) for rows in (off, on))
        grids["toggle"] = Grid(
            torch.stack([low, high, (high - low) / 2], 1), self.request_names(), ["off", "on", "change"]
        )
        grids["real"] = Grid(picture[:16].unflatten(0, (-1, min(8, len(picture)))))
        if META_KEY in self.meta and self.progress > 1 / 3:
            for sentence in self.monitor.update(failed_checks(diversity_of(groups), self.meta[META_KEY])):
                logger.warning(sentence)
        return grids

    def request_names(self) -> list[str]:
        """Names of a request's columns."""
        return [self.meta["attributes"][k] for k in self.columns]

    def picture_of(self, batch: dict[str, Tensor]) -> Tensor:
        """What a made picture is compared with: the photo, or its sketch."""
        return batch["image"]


class GANMethod(SampledMethod):
    """A generator, its average and a critic of (picture, request)."""

    critic: nn.Module
    generator: nn.Module
    ema_generator: EMA

    def update_critic(self, x: Tensor, a: Tensor, x_fake: Tensor, a_fake: Tensor, x_match: Tensor, step: int) -> dict:
        """One critic step. Real pairs (x, a) up; fakes (x_fake, a_fake), and real faces under a wrong request, down.

        x_match: real faces that show a_fake, the other ends of wgan's lines. Scores are logged.
        """
        w, weight = self.cfg.loss, self.mismatch_weight(step)
        if self.critic.mixes_samples:  # BatchNorm: real and made batches apart
            real, fake = self.critic(x, a), self.critic(x_fake, a_fake)
            loss = critic_loss(real, fake, w.gan)
        elif weight:
            a_wrong = wrong_requests(a, w.wrong)
            scores = self.critic(torch.cat([x, x_fake, x]), torch.cat([a, a_fake, a_wrong]))
            real, fake, wrong = scores.chunk(3)  # (N,) each
            differs = (a_wrong != a).any(1)
            loss = critic_loss(real, fake, w.gan) + weight * wrong_pair_loss(real, wrong, differs, w.gan)
        else:
            real, fake = self.critic(torch.cat([x, x_fake]), torch.cat([a, a_fake])).chunk(2)
            loss = critic_loss(real, fake, w.gan)
        logs = {"D/gap": real.mean() - fake.mean()}
        with fp32():
            if w.gan == "wgan" and w.lambda_gp:
                penalty, logs["D/slope"] = gradient_penalty(lambda v: self.critic(v, a_fake), x_match, x_fake)
                loss = loss + w.lambda_gp * penalty
            elif w.gan == "logistic" and w.gamma_r1 and step % w.r1_every == 0:
                logs["D/r1"] = r1_penalty(lambda v: self.critic(v, a), x)
                loss = loss + w.gamma_r1 * w.r1_every * logs["D/r1"]
        self.minimize(loss, "critic")
        return logs | {"D/loss": loss}

    def mismatch_weight(self, step: int) -> float:
        """lambda_mismatch min(1, 3 (1 - t / T)): wrong pairs favour faces more typical than real ones, so they fade
        over the last third of the run."""
        return self.cfg.loss.lambda_mismatch * min(1.0, 3 * (1 - step / self.cfg.train.total_steps))

    def adversarial(self, x_fake: Tensor, a_fake: Tensor) -> Tensor:
        """What the generator minimises against the critic held."""
        with frozen(self.critic):
            return generator_loss(self.critic(x_fake, a_fake), self.cfg.loss.gan)

    def begin(self, step: int) -> bool:
        """Note how far the run is; whether the generator moves in this step."""
        self.progress = step / self.cfg.train.total_steps
        return (step + 1) % self.cfg.train.n_critic == 0

    def follow(self, step: int) -> None:
        """The average takes the generator's new weights."""
        self.ema_generator.update(self.generator, self.decay(step // self.cfg.train.n_critic))


def wrong_pair_loss(real: Tensor, wrong: Tensor, differs: Tensor, gan: str) -> Tensor:
    """Mean over all rows of what a wrong pair costs; rows whose wrong request is their own (`differs` False) cost 0.

    logistic: softplus(wrong). wgan: softplus(wrong - real), bounded, since the penalty never sees a wrong pair.
    real, wrong (N,) scores; differs (N,) bool.
    """
    cost = F.softplus(wrong if gan == "logistic" else wrong - real)
    return (cost * differs).mean()
