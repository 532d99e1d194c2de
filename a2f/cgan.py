"""CGAN: noise and attributes -> face ("Conditional Generative Adversarial Nets", https://arxiv.org/abs/1411.1784)."""

import torch
from torch import Tensor

from a2f.config import CGANConfig
from a2f.gan import GANMethod
from a2f.model import Critic, Generator
from a2f.model_study import StudyCritic, StudyGenerator
from a2f.monitor import within_request
from a2f.requests import signed
from engine import EMA, Grid, adam


class CGAN(GANMethod):
    """Generator and critic. `ema_generator` has the averaged weights, which make all images."""

    compilable = ("generator",)  # not the critic: R1 differentiates it twice

    def __init__(self, cfg: CGANConfig, meta: dict) -> None:
        super().__init__(cfg, meta)
        m, t, channels, size, num = cfg.model, cfg.train, meta["channels"], meta["image_size"], len(self.columns)
        if m.nets == "study":
            self.generator = StudyGenerator(channels, size, num, m.latent_dim)
            self.critic = StudyCritic(channels, size, num)
        else:
            self.generator = Generator(channels, size, num, m.width, m.latent_dim)
            self.critic = Critic(channels, size, num, m.width)
        self.ema_generator = EMA(self.generator)
        self.noise_dim = m.latent_dim
        self.optimizers["generator"] = adam(self.generator.parameters(), t.lr, (t.beta1, t.beta2))
        self.optimizers["critic"] = adam(self.critic.parameters(), t.lr_critic, (t.beta1, t.beta2))

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        x, a = batch["image"], signed(batch["attr"])  # (N, C, H, H) in [-1, 1], (N, A) in {-1, 0, +1}
        generator_step = self.start_step(step)

        # 1. Each fake gets the request of another row, so fakes have the joint distribution of the attributes.
        p = torch.randperm(len(a), device=a.device)
        a_fake = a[p]

        # 2. Critic: real pairs against fakes and against real faces with a wrong request. The generator does not
        #    change before its own update, so both updates use the same fakes.
        with torch.set_grad_enabled(generator_step):
            x_fake = self.generator(self.noise(len(x)), a_fake)  # (N, C, H, H)
        logs = self.update_critic(x, a, x_fake.detach(), a_fake, x[p], step)

        # 3. Generator, in every n_critic-th step.
        if generator_step:
            loss = self.adversarial_loss(x_fake, a_fake)
            self.minimize(loss, "generator")
            self.update_ema(step)
            logs["G/loss"] = loss
        return logs

    def noise(self, n: int) -> Tensor:
        """z (n, Z) ~ N(0, I)."""
        return torch.randn(n, self.noise_dim, device=self.device)

    def draw(self, a: Tensor, noise: Tensor) -> Tensor:
        return self.ema_generator(noise, a)

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """SSIM and distance of two images per request; label gap: scores of real faces with own minus wrong requests.

        All are means over the batch.
        """
        a = signed(batch["attr"])
        one, two = (self.draw(a, self.noise(len(a))) for _ in range(2))
        gap = self.critic(batch["image"], a) - self.critic(batch["image"], a.roll(1, 0))
        return {**within_request(one, two), "gap_label": gap.mean()}

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        return self.grid_of_requests(batch["image"])
