"""Train the generator: `python interface_gan/train.py --config FILE [key=value ...]`.

StyleGAN2 (https://arxiv.org/abs/1912.04958): non-saturating logistic loss, lazy R1 and path length regularization,
style mixing, averaged weights. One step is one batch: one generator update, then one discriminator update.
"""

import logging
import math

import torch
from torch import Tensor

from data import build_faces
from engine import EMA, Grid, Method, adam, fit, fp32, frozen, mean_over_ranks, start
from interface_gan.config import Config
from interface_gan.model import W_AVG_DECAY, Discriminator, Generator
from losses.adversarial import critic_loss, generator_loss, r1_penalty
from losses.augment import diff_augment

logger = logging.getLogger("faces")
NUM_SHOWN = 64  # fakes in the grid and in the collapse check


class StyleGAN2(Method):
    """Generator and discriminator. `ema_generator` has the averaged weights, which make all images.

    `path_mean`: running mean of the path length. `grid_z` (64, Z): the codes of the grids.
    """

    def __init__(self, cfg: Config, meta: dict) -> None:
        super().__init__(cfg, meta)
        w, t, channels, size = cfg.loss, cfg.train, meta["channels"], meta["image_size"]
        self.generator = Generator(channels, size, cfg.model)
        self.discriminator = Discriminator(channels, size, cfg.model)
        self.ema_generator = EMA(self.generator)
        self.register_buffer("path_mean", torch.zeros(()))
        self.register_buffer("grid_z", torch.randn(NUM_SHOWN, cfg.model.latent_dim))
        for name, weight, every in (
            ("generator", w.lambda_path, w.path_every),
            ("discriminator", w.gamma_r1, w.r1_every),
        ):
            share = every / (every + 1) if weight else 1.0
            params = getattr(self, name).parameters()
            self.optimizers[name] = adam(params, *lazy_rates(t.lr, t.beta2, share))

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        w, x = self.cfg.loss, batch["image"]  # (N, C, H, H) in [-1, 1]
        noise = "random" if self.cfg.train.noise else "none"

        # 1. Generator: raise the scores of fakes.
        x_fake = self.generator.synthesis(self.styles(len(x)), noise)  # (N, C, H, H)
        with frozen(self.discriminator):
            loss_g = generator_loss(self.score(x_fake), "logistic")
        self.minimize(loss_g, "generator")
        logs = {"loss": loss_g}

        # 2. Every path_every-th step: path length regularization (Eq. 4). Steps in w should change images equally.
        if w.lambda_path and step % w.path_every == 0:
            with fp32():
                length = path_lengths(self.generator.synthesis, self.styles(len(x) // w.path_shrink), noise)
            self.path_mean.lerp_(mean_over_ranks(length.mean()), w.path_decay)
            penalty = (length - self.path_mean).square().mean()
            self.minimize(w.path_every * w.lambda_path * penalty, "generator")
            logs |= {"G/path_length": length.mean(), "G/path": penalty}

        # 3. Discriminator: real faces against the same fakes (deviation: the paper samples new ones).
        real, fake = self.score(x), self.score(x_fake.detach())  # (N,), (N,): separate, for the minibatch std
        loss_d = critic_loss(real, fake, "logistic")
        self.minimize(loss_d, "discriminator")
        logs |= {"D/loss": loss_d, "D/real": real.mean(), "D/fake": fake.mean()}

        # 4. Every r1_every-th step: R1 at real faces, with the gradient through the augmentation.
        if w.gamma_r1 and step % w.r1_every == 0:
            with fp32():
                penalty = r1_penalty(self.score, x)
            self.minimize(w.r1_every * w.gamma_r1 * penalty, "discriminator")
            logs["D/r1"] = penalty

        # 5. Update the averaged generator.
        self.ema_generator.update(self.generator, self.ema_decay(step))
        return logs

    def styles(self, num: int) -> Tensor:
        """Sample ws (num, L, Z), and update the mapping's `w_avg`.

        Style mixing (StyleGAN, section 3.1): with probability `mixing_prob`, layers from a random one on get a second
        style.
        """
        layers = self.generator.num_ws
        z = torch.randn(num, self.cfg.model.latent_dim, device=self.device)
        w = self.generator.mapping(z)
        self.generator.mapping.w_avg.lerp_(mean_over_ranks(w.mean(0)), 1 - W_AVG_DECAY)
        ws = self.generator.broadcast(w)
        if not self.cfg.loss.mixing_prob:
            return ws
        other = self.generator.mapping(torch.randn_like(z))
        cut = torch.randint(1, layers, (num, 1), device=self.device)
        cut = torch.where(torch.rand(num, 1, device=self.device) < self.cfg.loss.mixing_prob, cut, layers)
        second = torch.arange(layers, device=self.device) >= cut  # (num, L)
        return torch.where(second[:, :, None], other[:, None], ws)

    def score(self, x: Tensor) -> Tensor:
        """Scores (N,) of images x (N, C, H, H) after the augmentation."""
        return self.discriminator(diff_augment(x, self.cfg.train.augment))

    def ema_decay(self, step: int) -> float:
        """0.5^(B / half-life). The half-life is `ema_images`, at most `ema_ramp` times the images seen so far."""
        t = self.cfg.train
        half_life = min(t.ema_images, t.ema_ramp * step * t.batch_size)
        return 0.5 ** (t.batch_size / half_life) if half_life else 0.0

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean scores of real and fake images.

        If `real` is far below the `D/real` of training, the discriminator overfits: set train.augment.
        """
        fake = self.ema_generator(torch.randn(len(batch["image"]), self.cfg.model.latent_dim, device=self.device))
        return {"real": self.discriminator(batch["image"]).mean(), "fake": self.discriminator(fake).mean()}

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        x, net = batch["image"], self.ema_generator.module
        w = net.mapping(self.grid_z)
        x_fake = net.synthesis(net.broadcast(w)).clamp(-1, 1)
        self.warn_of_collapse(x, x_fake)
        truncated = net.synthesis(net.broadcast(w[:32], psi=0.7)).clamp(-1, 1)
        rows = net.broadcast(w[:6])[:, None].repeat(1, 6, 1, 1)  # (6, 6, L, Z)
        columns = net.broadcast(w[6:12])[None].expand(6, -1, -1, -1)
        cut = net.num_ws // 2
        mixed = net.synthesis(torch.cat([rows[:, :, :cut], columns[:, :, cut:]], 2).flatten(0, 1)).clamp(-1, 1)
        return {
            "real": Grid(x.unflatten(0, (2, -1)) if len(x) % 2 == 0 else x[None]),
            "fake": Grid(x_fake.unflatten(0, (8, 8))),
            "fake_psi07": Grid(truncated.unflatten(0, (4, 8))),
            "mixing": Grid(mixed.unflatten(0, (6, 6)), ["coarse layers"] * 6, ["fine layers"] * 6),
        }

    def warn_of_collapse(self, x: Tensor, x_fake: Tensor) -> None:
        """Warn if the standard deviation of fakes is below 5 % of that of faces, in the discriminator's last map."""
        spread = [self.discriminator.features(images)[-1].flatten(1).std(0).mean() for images in (x, x_fake)]
        if spread[1] < 0.05 * spread[0]:
            logger.warning("all fakes are nearly equal (mode collapse): raise loss.gamma_r1 or set train.augment")


def path_lengths(synthesis: torch.nn.Module, ws: Tensor, noise: str = "random") -> Tensor:
    """Path lengths |J' y| of ws (N, L, Z): (N,), with gradient (Eq. 4).

    y ~ N(0, 1) / H has the shape of the images. The norm is over Z, then the root mean square over the L layers.
    """
    ws = ws if ws.requires_grad else ws.detach().requires_grad_()
    x_fake = synthesis(ws, noise)
    y = torch.randn_like(x_fake) / math.sqrt(x_fake.shape[2] * x_fake.shape[3])
    (grad,) = torch.autograd.grad((x_fake * y).sum(), ws, create_graph=True)  # (N, L, Z)
    return grad.square().sum(2).mean(1).sqrt()


def lazy_rates(lr: float, beta2: float, share: float) -> tuple[float, tuple[float, float]]:
    """Adam's learning rate and betas for a network with 1 + 1/every updates per step (appendix B)."""
    return lr * share, (0.0, beta2**share)


def main(argv: list[str] | None = None) -> None:
    with start(Config, argv=argv) as run:
        faces = build_faces(run.cfg.data)
        method = StyleGAN2(run.cfg, faces.meta)
        sizes = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (method.generator, method.discriminator)]
        logger.info(f"generator {sizes[0]:.2f} M and discriminator {sizes[1]:.2f} M parameters")
        fit(run, method, faces.train, faces.val)


if __name__ == "__main__":
    main()
