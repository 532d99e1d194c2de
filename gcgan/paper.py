"""GC-GAN with the networks and losses of its authors (Qiao et al., arXiv 1802.01822), at 64 px, for comparison.

Landmarks are not aligned. Their encoder E is trained together with the other networks. The largest loss of the
generator is the L1 distance to a photo of the same person. README lists the differences from the authors' code.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import Grid, Method, UserError, adam, fp32, frozen
from gcgan.conditions import Labels
from gcgan.config import PaperGCGANConfig
from gcgan.geometry import NUM_POINTS
from losses.adversarial import gradient_penalty

FEATURES, IMAGE_CODE, SIDE = 256, 128, 64  # channels of the smallest maps; numbers of an image code; px
CLASS_CODE_DECAY = 0.99  # of the running mean code of each class


def dense(*sizes: int) -> nn.Sequential:
    """Linear layers, each with BatchNorm and ReLU."""
    pairs = zip(sizes, sizes[1:], strict=False)
    return nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())))


class HalfConv(nn.Module):
    """A 5x5 convolution of stride 2 that halves the side, with TensorFlow's SAME padding: 1 before, 2 after."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (1, 2, 1, 2)))


class DoubleConv(nn.Module):
    """The transpose of `HalfConv`: doubles the side. BatchNorm and ReLU follow."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 5, 2)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        side = 2 * x.shape[-1]
        return F.relu(self.norm(self.conv(x)[..., 1 : 1 + side, 1 : 1 + side]))


class LandmarkAutoencoder(nn.Module):
    """E: points (N, 68, 2) -> code z (N, code_dim), also with BatchNorm and ReLU; `rebuild` decodes."""

    def __init__(self, code_dim: int) -> None:
        super().__init__()
        self.encoder = dense(2 * NUM_POINTS, 128, 64, code_dim)
        self.decoder = nn.Sequential(dense(code_dim, 64, 128), nn.Linear(128, 2 * NUM_POINTS), nn.Tanh())

    def forward(self, points: Tensor) -> Tensor:
        return self.encoder(points.flatten(1))

    def rebuild(self, z: Tensor) -> Tensor:
        """z (N, code_dim) -> points (N, 68, 2) in [-1, 1]."""
        return self.decoder(z).unflatten(1, (NUM_POINTS, 2))


class ImageEncoder(nn.Module):
    """G_enc: x (N, C, 64, 64) -> code (N, 128) and its maps (N, 64, 32, 32), (N, 128, 16, 16), (N, 256, 8, 8)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 64, 128, FEATURES)
        self.convs = nn.ModuleList(HalfConv(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.out = dense(FEATURES * 8 * 8, 1024, IMAGE_CODE)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
            maps.append(x)
        return self.out(x.flatten(1)), maps


class ImageDecoder(nn.Module):
    """G_dec: image code (N, 128), landmark code z (N, code_dim), the encoder's maps -> x_fake (N, C, 64, 64)."""

    def __init__(self, channels: int, code_dim: int) -> None:
        super().__init__()
        self.inp = dense(IMAGE_CODE + code_dim, FEATURES * 4 * 4)
        widths = (FEATURES, FEATURES, 128, 64, 64)
        self.convs = nn.ModuleList(DoubleConv(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.out = nn.Conv2d(64, channels, 5, 1, 2)

    def forward(self, code: Tensor, z: Tensor, maps: list[Tensor]) -> Tensor:
        h = self.inp(torch.cat([code, z], 1)).unflatten(1, (FEATURES, 4, 4))
        for i, conv in enumerate(self.convs):
            h = conv(h)  # (N, 256, 8, 8), (N, 128, 16, 16), (N, 64, 32, 32), (N, 64, 64, 64)
            if i < len(maps):
                h = h + maps[-1 - i]
        return torch.tanh(self.out(h)).float()


class PaperCritic(nn.Module):
    """D: a score and K class logits of x (N, C, 64, 64). No normalisation."""

    planes, head = False, True  # as `gcgan.model.Critic` says it: no label goes in, and a class is read

    def __init__(self, channels: int, num_labels: int) -> None:
        super().__init__()
        widths = (channels, 32, 128, FEATURES, FEATURES)
        self.convs = nn.ModuleList(HalfConv(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.psi = HalfConv(FEATURES, 1)
        self.classes = nn.Linear(FEATURES * 4 * 4, num_labels)

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """f (N, 256, 4, 4), the last layer before its ReLU. c is not used."""
        for conv in self.convs[:-1]:
            x = F.relu(conv(x))
        return self.convs[-1](x)

    def score(self, f: Tensor, c: Tensor | None = None) -> Tensor:
        """Scores (N, 1, 1): the sum over 2 x 2 patches. c is not used."""
        return self.psi(F.relu(f)).sum((2, 3))[..., None].float()

    def logits(self, f: Tensor) -> Tensor:
        """Class logits (N, K)."""
        return self.classes(F.relu(f).flatten(1)).float()


@dataclass(frozen=True)
class PaperBatch:
    """Faces x with landmarks g, and photos of the same persons with another expression: x_target, g_target.

    Pictures (N, C, 64, 64), landmarks (N, 68, 2), classes (N,).
    """

    x: Tensor
    g: Tensor
    label: Tensor
    x_target: Tensor
    g_target: Tensor
    target: Tensor


class PaperGCGAN(Method):
    """The authors' GC-GAN. One step is one batch: n_critic critic updates, then E, then G_enc, then G_dec and E."""

    scores_are_logits = False  # a Wasserstein critic
    needs = ("image", "label", "landmarks", "pair_image", "pair_label", "pair_landmarks")

    def __init__(self, cfg: PaperGCGANConfig, meta: dict) -> None:
        super().__init__(cfg, meta)
        if meta["landmarks"] != NUM_POINTS or not meta["classes"]:
            raise UserError(
                f"data.dataset: GC-GAN needs {NUM_POINTS} landmarks and expression labels, and {meta['dataset']} has "
                f"{meta['landmarks']} and {len(meta['classes'])}; python -m data.landmarks finds some"
            )
        self.labels, t = Labels(meta), cfg.train
        self.geometry = LandmarkAutoencoder(cfg.model.code_dim)
        self.image_encoder = ImageEncoder(meta["channels"])
        self.image_decoder = ImageDecoder(meta["channels"], cfg.model.code_dim)
        self.critic = PaperCritic(meta["channels"], self.labels.num)
        self.register_buffer("class_codes", torch.zeros(self.labels.num, cfg.model.code_dim))  # running means
        players = {
            "critic": self.critic.parameters(),
            "geometry": self.geometry.parameters(),
            "encoder": self.image_encoder.parameters(),
            "decoder": [*self.image_decoder.parameters(), *self.geometry.encoder.parameters()],
        }
        for name, parameters in players.items():
            self.optimizers[name] = adam(parameters, t.lr, (t.beta1, t.beta2))

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        self.decay_rates(step)
        b = self.complete_rows(batch)

        # 1. Critic: n_critic updates on one batch; real are the persons' own photos with the target expression.
        with torch.no_grad():
            x_fake = self.generate(b.x, self.geometry(b.g_target))  # (N, C, 64, 64)
        for _ in range(self.cfg.loss.n_critic):
            logs = self.update_critic(b, x_fake)

        # 2. Landmarks: rebuild them; codes of one expression alike, of two expressions apart.
        loss = self.geometry_loss(b)
        self.minimize(loss, "geometry")
        logs["geometry/loss"] = loss

        # 3. G_enc: the photo, its features in D, its class.
        terms = self.encoder_terms(b)
        self.minimize(sum(terms.values()), "encoder")

        # 4. G_dec and E: convince the critic; the photo; its class.
        terms = self.decoder_terms(b)
        self.minimize(sum(terms.values()), "decoder")
        self.follow_class_codes(b)
        return logs | {f"G/{name}": value for name, value in terms.items()} | {"loss": sum(terms.values())}

    def decay_rates(self, step: int) -> None:
        """Multiply the learning rates by `rate_decay` every `rate_every` steps."""
        t = self.cfg.train
        factor = t.rate_decay ** (step // t.rate_every)
        for group in (g for optimizer in self.optimizers.values() for g in optimizer.param_groups):
            group["lr"] *= factor

    def complete_rows(self, batch: dict[str, Tensor]) -> PaperBatch:
        """The pairs whose labels and landmarks are known."""
        known = (batch["label"] >= 0) & (batch["pair_label"] >= 0)
        for key in ("landmarks", "pair_landmarks"):
            known &= batch[key].isfinite().all(2).all(1)
        keys = ("image", "landmarks", "label", "pair_image", "pair_landmarks", "pair_label")
        return PaperBatch(*(batch[key][known] for key in keys))

    def generate(self, x: Tensor, z: Tensor) -> Tensor:
        """x (N, C, 64, 64) with the expression z (N, code_dim), in [-1, 1]."""
        code, maps = self.image_encoder(x)
        return self.image_decoder(code, z, maps)

    def update_critic(self, b: PaperBatch, x_fake: Tensor) -> dict[str, Tensor]:
        """L_D = D(x_fake) - D(x_target) + lambda_gp GP + lambda_class CE(x_target), means over the batch."""
        w, critic = self.cfg.loss, self.critic
        f_real, f_fake = critic.features(torch.cat([b.x_target, x_fake])).chunk(2)
        real, fake = critic.score(f_real).mean(), critic.score(f_fake).mean()
        with fp32():
            penalty, slope = gradient_penalty(lambda v: critic.score(critic.features(v)), b.x_target, x_fake)
        label_loss = F.cross_entropy(critic.logits(f_real), b.target)
        loss = fake - real + w.lambda_gp * penalty + w.lambda_class * label_loss
        self.minimize(loss, "critic")
        return {"D/gap": real - fake, "D/slope": slope, "D/class": label_loss, "D/loss": loss}

    def geometry_loss(self, b: PaperBatch) -> Tensor:
        """L_E = lambda_geometry [mean q d / 2 + mean (1 - q) max(0, margin - d) / 2 + mean_n sum (g_hat - g)^2].

        Pairs are the faces of one batch and the same faces in another order: d = |z_i - z_j|^2, q = 1 where both have
        the same expression.
        """
        w = self.cfg.loss
        g, label = torch.cat([b.g, b.g_target]), torch.cat([b.label, b.target])
        z = self.geometry(g)
        p = torch.randperm(len(z), device=z.device)
        return w.lambda_geometry * (
            contrast(z, z[p], label == label[p], w.margin) + rebuilt(self.geometry.rebuild(z), g)
        )

    def encoder_terms(self, b: PaperBatch) -> dict[str, Tensor]:
        """L_Genc = L_ir + lambda_feature L_feat + lambda_class CE(x_fake)."""
        w = self.cfg.loss
        with torch.no_grad():
            z = self.geometry(b.g_target)
        with frozen(self.critic):
            x_fake = self.generate(b.x, z)
            f, f_target = self.critic.features(x_fake), self.critic.features(b.x_target).detach()
            return {
                "pixel": summed_l1(x_fake, b.x_target),
                "feature": w.lambda_feature * summed_l1(f, f_target),
                "class": w.lambda_class * F.cross_entropy(self.critic.logits(f), b.target),
            }

    def decoder_terms(self, b: PaperBatch) -> dict[str, Tensor]:
        """L_Gdec+E = -lambda_adv mean D(x_fake) + L_ir + lambda_class CE(x_fake)."""
        w = self.cfg.loss
        with frozen(self.critic):
            x_fake = self.generate(b.x, self.geometry(b.g_target))
            f = self.critic.features(x_fake)
            return {
                "adv": -w.lambda_adv * self.critic.score(f).mean(),
                "pixel": summed_l1(x_fake, b.x_target),
                "class": w.lambda_class * F.cross_entropy(self.critic.logits(f), b.target),
            }

    @torch.no_grad()
    def follow_class_codes(self, b: PaperBatch) -> None:
        """Running mean code of each class, for edits by name."""
        z = self.geometry(b.g)
        for k in b.label.unique().tolist():
            mean, code = z[b.label == k].mean(0), self.class_codes[k]
            code.copy_(torch.lerp(mean, code, CLASS_CODE_DECAY if code.any() else 0.0))

    def code(self, points: Tensor) -> Tensor:
        """Points (N, 68, 2) in [-1, 1] -> codes (N, code_dim)."""
        return self.geometry(points.float())

    def edit(self, x: Tensor, z: Tensor) -> Tensor:
        """Edit x (N, C, 64, 64) to codes z (N, code_dim); images in [-1, 1]."""
        return self.generate(x, z)

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        b = self.complete_rows(batch)
        x_fake = self.generate(b.x, self.geometry(b.g_target))
        read = self.critic.logits(self.critic.features(x_fake)).argmax(1)
        return {
            "l1": (x_fake - b.x_target).abs().mean(),
            "critic_reads_target": (read == b.target).float().mean(),
        }

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        b = self.complete_rows(batch)
        x = b.x[:8]
        own = self.generate(x, self.geometry(b.g_target[:8]))
        named = [self.generate(x, code.expand(len(x), -1)) for code in self.class_codes]
        columns = ["input", "target", "fake", *self.labels.names]
        return {"edits": Grid(torch.stack([x, b.x_target[:8], own, *named], 1), [], columns)}


def contrast(z: Tensor, z_other: Tensor, same: Tensor, margin: float) -> Tensor:
    """mean q d / 2 + mean (1 - q) max(0, margin - d) / 2 over N pairs; d = |z - z_other|^2, q = same (N,) bool."""
    d = (z - z_other).float().square().sum(1)
    return (torch.where(same, d, (margin - d).clamp_min(0)) / 2).mean()


def rebuilt(g_hat: Tensor, g: Tensor) -> Tensor:
    """mean_n of the summed squared error of points (N, 68, 2)."""
    return (g_hat - g).float().square().flatten(1).sum(1).mean()


def summed_l1(a: Tensor, b: Tensor) -> Tensor:
    """mean_n of the summed absolute difference of (N, ...): thousands at 64 px, as in the authors' code."""
    return (a - b).float().abs().flatten(1).sum(1).mean()
