"""CGAN: noise and attributes straight to a face (Mirza & Osindero 1411.1784)."""

import torch
from torch import Tensor

from a2f.config import CGANConfig
from a2f.gan import GANMethod
from a2f.model import Critic, Generator
from a2f.model_study import StudyCritic, StudyGenerator
from a2f.monitor import two_of_each
from a2f.requests import signed
from engine import EMA, Grid, adam


class CGAN(GANMethod):
    """Generator and critic; `ema_generator` has the weights that pictures come from."""

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
        moves = self.begin(step)

        # 1. Requests: another row's each, so that fakes follow the joint distribution of the attributes.
        p = torch.randperm(len(a), device=a.device)
        a_fake = a[p]

        # 2. Critic: real pairs against made faces, and real faces under a wrong request. The generator has not moved
        #    when its own turn comes, so one forward serves both.
        with torch.set_grad_enabled(moves):
            x_fake = self.generator(self.noise(len(x)), a_fake)  # (N, C, H, H)
        logs = self.update_critic(x, a, x_fake.detach(), a_fake, x[p], step)

        # 3. Generator, in every n_critic-th step.
        if moves:
            loss = self.adversarial(x_fake, a_fake)
            self.minimize(loss, "generator")
            self.follow(step)
            logs["G/loss"] = loss
        return logs

    def noise(self, n: int) -> Tensor:
        """z (n, Z) ~ N(0, I)."""
        return torch.randn(n, self.noise_dim, device=self.device)

    def draw(self, a: Tensor, noise: Tensor) -> Tensor:
        return self.ema_generator(noise, a)

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """SSIM and distance of two faces of one request (mean over rows), and how much higher the critic scores a real
        face under its own request than under another row's."""
        a = signed(batch["attr"])
        one, two = (self.draw(a, self.noise(len(a))) for _ in range(2))
        ssim, apart = two_of_each(one, two)
        gap = self.critic(batch["image"], a) - self.critic(batch["image"], a.roll(1, 0))
        return {"ssim_within": ssim, "distance_within": apart, "gap_label": gap.mean()}

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        return self.grid_of_requests(batch["image"])
