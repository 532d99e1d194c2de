"""Stages 2 and 3: rough sketch -> sharp sketch -> face. Both are conditional GANs with a U-Net as generator."""

import torch
import torch.nn.functional as F
from torch import Tensor

from a2f.config import FaceConfig, SharpConfig
from a2f.gan import GANMethod
from a2f.jitter import jitter
from a2f.model import Critic, PhotoEncoder, UNet
from a2f.monitor import within_request
from a2f.requests import signed
from a2f.upstream import Chain
from engine import EMA, Grid, adam, fp32
from losses.gaussian import kl_standard_normal, reparameterize


class SketchGAN(GANMethod):
    """The training step of both stages. The subclasses define their inputs, targets and the redraw loss."""

    compilable = ("generator",)

    def __init__(self, cfg: SharpConfig | FaceConfig, meta: dict) -> None:
        super().__init__(cfg, meta)
        m, t, size = cfg.model, cfg.train, meta["image_size"]
        self.chain = Chain(cfg.rough, getattr(cfg, "sharp", None), meta)
        if cfg.data.sketch:
            self.needs = (*self.needs, "sketch")
        self.set_requests()
        channels, num = self.channels(), len(self.columns)
        self.generator = UNet(channels, size, num + m.colour_dim, m.width, residual=cfg.system == "sharp")
        self.critic = Critic(channels, size, num, m.width)
        self.photo_encoder = PhotoEncoder(channels, m.width, m.colour_dim) if m.colour_dim else None
        self.ema_generator = EMA(self.generator)
        self.ema_photo_encoder = EMA(self.photo_encoder) if m.colour_dim else None
        self.noise_dim = self.chain.noise_dim + m.colour_dim
        parameters = [*self.generator.parameters(), *(self.photo_encoder.parameters() if m.colour_dim else ())]
        self.optimizers["generator"] = adam(parameters, t.lr, (t.beta1, t.beta2))
        self.optimizers["critic"] = adam(self.critic.parameters(), t.lr_critic, (t.beta1, t.beta2))

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        y, a = self.picture_of(batch), signed(batch["attr"])[:, self.columns]  # (N, C, H, H), (N, A)
        generator_step = self.start_step(step)

        # 1. The first h rows are sketches with a true picture, the others stage 1's sketches for other rows' requests.
        h = len(y) - int(self.cfg.train.dream_share * len(y))
        p = h + torch.randperm(len(y) - h, device=a.device)
        order = torch.cat([torch.arange(h, device=a.device), p])  # (N,)
        a_in = a[order]
        with torch.no_grad():
            noise = self.chain.noise(len(y), a.device)
            s = torch.cat([self.source(batch, a_in, h, noise[:h]), self.dream(a_in[h:], noise[h:])])  # (N, 1, H, H)
        c, kl = self.colour_code(y[:h], len(y))  # (N, colour_dim)
        y_hat = self.generator(s, torch.cat([a_in, c], 1))  # (N, C, H, H)

        # 2. Critic.
        logs = self.update_critic(y, a, y_hat.detach(), a_in, y[order], step)
        if not generator_step:
            return logs

        # 3. Generator: adversarial loss on all rows, L1 on rows with a true picture, redraw loss on the other rows.
        terms = self.generator_terms(y_hat, a_in, s, y, h) | {"kl": self.cfg.loss.lambda_kl * kl}
        total = sum(terms.values())
        self.minimize(total, "generator")
        self.update_ema(step)
        if self.photo_encoder is not None:
            self.ema_photo_encoder.update(self.photo_encoder, self.decay(step // self.cfg.train.n_critic))
        return logs | {f"G/{name}": value for name, value in terms.items()} | {"G/loss": total}

    def generator_terms(self, y_hat: Tensor, a_in: Tensor, s: Tensor, y: Tensor, h: int) -> dict[str, Tensor]:
        """The weighted loss terms. The first h rows have the true picture y, the others have none."""
        w = self.cfg.loss
        terms = {"adv": self.adversarial_loss(y_hat, a_in), "l1": w.lambda_l1 * (y_hat[:h] - y[:h]).abs().mean()}
        if h < len(y) and w.lambda_redraw:
            terms["redraw"] = w.lambda_redraw * (self.redraw(y_hat[h:]) - self.redraw_target(s[h:])).abs().mean()
        return terms

    def colour_code(self, y: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Colour codes (n, colour_dim): samples of q(c | photo) for the photos y, then samples of N(0, I).

        Also returns the mean KL divergence of q(c | photo), in nats.
        """
        if self.photo_encoder is None:
            return y.new_zeros(n, 0), y.new_zeros(())
        mu, logvar = self.photo_encoder(y)
        from_prior = torch.randn(n - len(y), mu.shape[1], device=y.device)
        with fp32():
            kl = kl_standard_normal(mu, logvar).sum(1).mean()
        return torch.cat([reparameterize(mu, logvar), from_prior]), kl

    def texture(self, a: Tensor) -> Tensor:
        """The attributes (N, T) of requests a (N, A) that stages 1 and 2 use."""
        return a[:, self.texture_places]

    def draw(self, a: Tensor, noise: Tensor) -> Tensor:
        """Pictures of requests a (N, A) from noise (N, Z + colour_dim)."""
        z, c = noise.split([self.chain.noise_dim, self.cfg.model.colour_dim], 1)
        return self.decode(self.dream(a, z), a, c)

    def decode(self, s: Tensor, a: Tensor, c: Tensor) -> Tensor:
        """Sketch s (N, 1, H, H), request a (N, A), colour code c (N, colour_dim) -> picture (N, C, H, H)."""
        return self.ema_generator(s, torch.cat([a, c], 1))

    def code_of(self, y: Tensor) -> Tensor:
        """The mean colour code of photos y (N, C, H, H): (N, colour_dim)."""
        return self.ema_photo_encoder(y)[0] if self.photo_encoder is not None else y.new_zeros(len(y), 0)

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """L1 for the face's own sketch, SSIM and distance of two samples per request, and label gap as in `CGAN`."""
        y, a = self.picture_of(batch), signed(batch["attr"])[:, self.columns]
        y_hat = self.decode(self.input_of(batch), a, self.code_of(y))
        one, two = (self.draw(a, torch.randn(len(a), self.noise_dim, device=y.device)) for _ in range(2))
        gap = self.critic(y, a) - self.critic(y, a.roll(1, 0))
        return {"l1": (y_hat - y).abs().mean(), **within_request(one, two), "gap_label": gap.mean()}

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        """The grids of requests, and `stages`: input, output with the photo's own colour code, true picture."""
        y, a = self.picture_of(batch)[:8], signed(batch["attr"])[:8, self.columns]
        s = self.input_of(batch)[:8]
        rows = [s, self.decode(s, a, self.code_of(y)), y]
        if self.cfg.model.colour_dim:
            other = torch.randn(1, self.cfg.model.colour_dim, device=y.device).expand(len(y), -1)
            rows.insert(2, self.decode(s, a, other))
        names = ["sketch", "output", *(["other colour code"] if len(rows) == 4 else []), "true picture"]
        images = torch.stack([row.expand(-1, y.shape[1], -1, -1) for row in rows])
        return self.grid_of_requests(self.picture_of(batch)) | {"stages": Grid(images, names)}


class SharpSketch(SketchGAN):
    """Stage 2: rough sketch -> sharp sketch."""

    def channels(self) -> int:
        return 1

    def set_requests(self) -> None:
        """Stage 2 uses the texture attributes only."""
        self.columns = self.chain.columns
        self.texture_places = list(range(len(self.columns)))

    def picture_of(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["sketch"] if "sketch" in batch else self.chain.sketch(batch["image"])

    def source(self, batch: dict[str, Tensor], a: Tensor, h: int, noise: Tensor) -> Tensor:
        """Input of the first h rows: their sketches, reconstructed by stage 1 from a sample of its posterior."""
        return self.chain.redrawn(self.picture_of(batch)[:h], a[:h])

    def dream(self, a: Tensor, noise: Tensor) -> Tensor:
        return self.chain.dream(a, noise)

    def input_of(self, batch: dict[str, Tensor]) -> Tensor:
        """The input for the faces of a batch: their rough sketches."""
        return self.chain.redrawn(self.picture_of(batch), self.chain.texture(batch["attr"]), mean=True)

    def redraw(self, y: Tensor) -> Tensor:
        """The redraw loss compares both sketches at a quarter of the resolution: dark and light areas must agree."""
        return F.avg_pool2d(y, 4)

    redraw_target = redraw


class SketchToFace(SketchGAN):
    """Stage 3: sketch -> face."""

    def channels(self) -> int:
        return self.meta["channels"]

    def set_requests(self) -> None:
        """Stage 3 uses all attributes; stages 1 and 2 use the texture attributes."""
        self.texture_places = self.chain.columns

    def sketch_of(self, batch: dict[str, Tensor]) -> Tensor:
        """Sketches (N, 1, H, H): the batch's own, else computed from its photos."""
        return batch["sketch"] if "sketch" in batch else self.chain.sketch(batch["image"])

    def source(self, batch: dict[str, Tensor], a: Tensor, h: int, noise: Tensor) -> Tensor:
        """Input of the first h rows: one half augmented sketches, the other half sketches reconstructed by stages 1, 2.

        noise_path (the paper's A2F-noise): sketches sampled from noise. They are unrelated to the photos that they are
        paired with, so the best answer is the mean face of the request.
        """
        if self.cfg.train.noise_path:
            return self.dream(a[:h], noise)
        raw, half = self.sketch_of(batch)[:h], (h + 1) // 2
        t = self.texture(a[half:h])
        augmented = jitter(batch["image"][:half], raw[:half], self.chain.rough_model.sketch_sigma)
        return torch.cat([augmented, self.chain.sharpened(self.chain.redrawn(raw[half:], t), t)])

    def dream(self, a: Tensor, noise: Tensor) -> Tensor:
        t = self.texture(a)
        return self.chain.sharpened(self.chain.dream(t, noise), t)

    def input_of(self, batch: dict[str, Tensor]) -> Tensor:
        """The input for the faces of a batch: their own sketches."""
        return self.sketch_of(batch)

    def redraw(self, y: Tensor) -> Tensor:
        """The sketch of a face. Offset 1 keeps the gradient finite in black places."""
        return self.chain.sketch(y, offset=1.0)

    def redraw_target(self, s: Tensor) -> Tensor:
        return s
