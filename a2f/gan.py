"""Base classes of the systems: sample grids, the moving average, and the update of a conditional critic."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from a2f.monitor import META_KEY, diversity_of, failed_checks
from a2f.requests import signed, wrong_requests
from engine import EMA, Grid, Method, UserError, fp32, frozen, ramped_decay
from evaluation.monitor import Monitor
from losses.adversarial import critic_loss, generator_loss, gradient_penalty, r1_penalty

logger = logging.getLogger("faces")
NUM_NOISES = 16  # images of each request for the stability checks


class SampledMethod(Method):
    """A method with grids of requests: many noises for each request, and one noise with each attribute off and on."""

    needs = ("image", "attr")
    remedies = {  # of failed stability checks
        "collapse": "lower train.lr or change loss.gamma_r1",
        "request": "raise loss.lambda_mismatch",
    }

    def __init__(self, cfg, meta: dict) -> None:
        super().__init__(cfg, meta)
        if not meta["attributes"]:
            raise UserError(f"data.dataset: {meta['dataset']} has no attributes; choose a set with attributes")
        self.monitor, self.progress = Monitor(), 0.0  # progress: completed share of the run
        self.columns = list(range(len(meta["attributes"])))  # the attributes that a request has

    def fixed_requests(self) -> Tensor:
        """The requests (R, A) in {-1, +1} of the grids: attribute rows that many training faces have."""
        rows = self.meta.get(META_KEY, {}).get("requests") or [[0] * len(self.columns)]
        return signed(torch.tensor(rows, dtype=torch.float32, device=self.device))

    def draw(self, a: Tensor, noise: Tensor) -> Tensor:
        """Images (N, C, H, H) of requests a (N, A) from noise (N, `noise_dim`), with the averaged weights."""
        raise NotImplementedError

    def decay(self, updates: int) -> float:
        """The moving average's decay after this number of updates."""
        return ramped_decay(self.cfg.train.ema_decay, updates)

    def grid_of_requests(self, real: Tensor) -> dict[str, Grid]:
        """Grids of requests; failed stability checks are logged.

        `requests`: a request per row, with the same 8 noises in every row. `toggle`: one noise, each attribute off and
        on. `real`: the images `real` (N, C, H, H).
        """
        a = self.fixed_requests()
        noise = torch.randn(NUM_NOISES, self.noise_dim, device=self.device)
        groups = [self.draw(row.expand(NUM_NOISES, -1), noise) for row in a]
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
        grids["real"] = Grid(real[:16].unflatten(0, (-1, min(8, len(real)))))
        if META_KEY in self.meta and self.progress > 1 / 3:
            failed = failed_checks(diversity_of(groups), self.meta[META_KEY], self.remedies)
            for message in self.monitor.update(failed):
                logger.warning(message)
        return grids

    def request_names(self) -> list[str]:
        """Names of a request's columns."""
        return [self.meta["attributes"][k] for k in self.columns]

    def picture_of(self, batch: dict[str, Tensor]) -> Tensor:
        """The real images that this system learns to make: photos, or their sketches in other systems."""
        return batch["image"]


class GANMethod(SampledMethod):
    """A generator, its moving average, and a critic of (image, request) pairs."""

    critic: nn.Module
    generator: nn.Module
    ema_generator: EMA

    def update_critic(self, x: Tensor, a: Tensor, x_fake: Tensor, a_fake: Tensor, x_match: Tensor, step: int) -> dict:
        """Update the critic once. Returns scalars to log.

        Scores of real pairs (x, a) rise. Scores of fakes (x_fake, a_fake) and of real faces with a wrong request fall.

        x_match: real faces whose request is a_fake; the gradient penalty interpolates between them and the fakes.
        """
        w, weight = self.cfg.loss, self.mismatch_weight(step)
        if self.critic.mixes_samples:  # with BatchNorm, real and fake images need separate batches
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
        """lambda_mismatch min(1, 3 (1 - t / T)): the weight falls to 0 over the last third of the run.

        The reason: wrong pairs favour faces that are more typical than real ones.
        """
        return self.cfg.loss.lambda_mismatch * min(1.0, 3 * (1 - step / self.cfg.train.total_steps))

    def adversarial_loss(self, x_fake: Tensor, a_fake: Tensor) -> Tensor:
        """The generator's adversarial loss; the critic gets no gradient."""
        with frozen(self.critic):
            return generator_loss(self.critic(x_fake, a_fake), self.cfg.loss.gan)

    def start_step(self, step: int) -> bool:
        """Set `progress`. Returns whether this step also updates the generator."""
        self.progress = step / self.cfg.train.total_steps
        return (step + 1) % self.cfg.train.n_critic == 0

    def update_ema(self, step: int) -> None:
        """Update the generator's moving average."""
        self.ema_generator.update(self.generator, self.decay(step // self.cfg.train.n_critic))


def wrong_pair_loss(real: Tensor, wrong: Tensor, differs: Tensor, gan: str) -> Tensor:
    """The loss of wrong pairs, mean over all rows. Rows whose wrong request equals their own (`differs` False) give 0.

    logistic: softplus(wrong). wgan: softplus(wrong - real), whose gradient is bounded, because the gradient penalty
    does not include wrong pairs.

    real, wrong: scores (N,). differs: (N,) bool.
    """
    cost = F.softplus(wrong if gan == "logistic" else wrong - real)
    return (cost * differs).mean()
