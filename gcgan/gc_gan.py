"""GC-GAN: the condition of the generator is a code of landmarks instead of a label (arXiv 1802.01822).

The first steps train only the encoder and the decoder of landmarks. Then both are fixed, and one step is one critic
update.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine import Grid, UserError, adam, fp32, frozen
from gcgan.config import GCGANConfig
from gcgan.geometry import NUM_POINTS, LandmarkBank, align
from gcgan.model import GeometryDecoder, GeometryEncoder
from gcgan.stargan import StarGAN, label_sensitivity
from losses.augment import diff_augment
from losses.contrastive import pair_margin
from losses.image_metrics import psnr
from losses.targets import Request, wrong_labels

CHUNK = 4096  # faces coded at once


@dataclass(frozen=True)
class Target:
    """Targets of fakes. y (N, K): the class. z (N, code_dim): its code. x_match (N, C, H, H): real faces of that class;
    in pairs, of the same person."""

    y: Tensor
    z: Tensor
    x_match: Tensor


class GCGAN(StarGAN):
    """StarGAN's networks with a code for the label, the landmark networks, and the critic's landmark head."""

    def __init__(self, cfg: GCGANConfig, meta: dict) -> None:
        if meta["landmarks"] != NUM_POINTS or not meta["classes"]:
            raise UserError(
                f"data.dataset: GC-GAN needs {NUM_POINTS} landmarks and expression labels, and {meta['dataset']} has "
                f"{meta['landmarks']} and {len(meta['classes'])}; python -m data.landmarks finds some for "
                "data.landmarks=file"
            )
        super().__init__(cfg, meta, cfg.model.code_dim, NUM_POINTS)
        self.needs = ("image", "label", "landmarks") + (("pair_image", "pair_label") if cfg.paired else ())
        self.encoder = GeometryEncoder(NUM_POINTS, cfg.model.code_dim)
        self.decoder = GeometryDecoder(NUM_POINTS, cfg.model.code_dim)
        self.register_buffer("mean_shape", torch.zeros(NUM_POINTS, 2))
        self.register_buffer("shape_scale", torch.ones(()))
        self.register_buffer("class_codes", torch.zeros(self.labels.num, cfg.model.code_dim))
        self.bank: LandmarkBank | None = None  # training landmarks, set before training
        shapes = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizers["geometry"] = adam(shapes, cfg.train.lr_geometry, (0.5, 0.999))

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        w, first = self.cfg.loss, self.cfg.geometry_steps
        if step < first:
            return self.geometry_step(step)
        if step == first:
            self.fix_class_codes()
        done, self.image_steps = step - first, step - first + 1
        turn = (done + 1) % w.n_critic == 0  # does the generator move in this step?
        logging_now = (step + 1) % self.cfg.train.log_every == 0

        # 1. Faces with landmarks, and for each a target class, a driver of that class and the driver's code.
        rows = self.complete_rows(batch)
        x, points = rows["image"], rows["landmarks"]  # (N, C, H, H), (N, 68, 2)
        y = self.one_hot(rows["label"])  # (N, K)
        target = self.draw_target(rows, y)

        # 2. Fakes, once for both players.
        with torch.set_grad_enabled(turn):
            x_fake = self.generator(x, target.z)  # (N, C, H, H)

        # 3. Critic: its label is the target's class; it also learns the landmarks of real faces.
        request = Request(target.y, target.x_match, wrong_labels(y, attributes=False))
        logs = self.update_critic(x, y, x_fake.detach(), target.y, request, logging_now, points)
        if not turn:
            return logs

        # 4. Generator: convince the critic, show landmarks of the target's code, and the person's own photo (paired)
        #    or the way back (unpaired).
        terms = self.adversarial_terms(x_fake, target.y)
        terms["geometry"] = w.lambda_geometry * self.geometry_error(x_fake, target.z)
        z = self.code(points).detach()
        if self.cfg.paired:
            terms |= self.paired_terms(x, z, x_fake, target.x_match, points, rows["pair_landmarks"])
        else:
            terms |= self.cycle_terms(x, z, x_fake, points)
        terms |= self.triple_term(x, x_fake, target.z)
        return logs | self.move_generator(terms, (done + 1) // w.n_critic - 1)

    # Landmarks alone.

    def geometry_step(self, step: int) -> dict[str, Tensor]:
        """Update the landmark networks: rebuild a face's shape from its code and another face of the same person.

        L = |decode(E(g + noise), g_other) - g|^2 + lambda_contrast pair_margin. Noise on g_other too would make the
        decoder distrust the person's own points: shapes with another expression are then hardly better than copies.
        """
        w, t = self.cfg.loss, self.cfg.train
        points, other, label, person = (v.to(self.device) for v in self.bank.draw(w.geometry_batch))
        g, g_other = self.standardise(points), self.standardise(other)  # (M, 68, 2)
        base = g_other if w.geometry_decoder == "swap" else torch.zeros_like(g)
        with fp32():
            z = self.encoder(self.noisy(g))
            rebuilt = (self.decoder(z, base) - g).square().mean()
        contrast = pair_margin(z, label, person, w.margin)
        for group in self.optimizers["geometry"].param_groups:
            group["lr"] = t.lr_geometry * min(1.0, 2 * (1 - step / self.cfg.geometry_steps))
        loss = rebuilt + w.lambda_contrast * contrast
        self.minimize(loss, "geometry")
        return {"geometry/rebuilt": rebuilt, "geometry/contrast": contrast, "loss": loss}

    def noisy(self, g: Tensor) -> Tensor:
        """Standardised shapes with the error that found landmarks have."""
        return g + self.cfg.loss.point_noise / self.shape_scale * torch.randn_like(g)

    def standardise(self, points: Tensor) -> Tensor:
        """Points (N, 68, 2) of any frame -> shapes around the training mean, in units of the training deviation."""
        return (align(points) - self.mean_shape) / self.shape_scale

    def code(self, points: Tensor) -> Tensor:
        """Points (N, 68, 2) -> codes (N, code_dim) of unit length; float32 whatever autocast is on."""
        with fp32():
            return self.encoder(self.standardise(points.float()))

    def use_bank(self, bank: LandmarkBank) -> None:
        """Take training landmarks to draw from, and their statistics."""
        self.bank = bank
        mean, scale = bank.statistics()
        self.mean_shape.copy_(mean)
        self.shape_scale.copy_(scale)

    @torch.no_grad()
    def fix_class_codes(self) -> None:
        """Each class's code: the mean code of its training faces, of unit length."""
        z = torch.cat([self.code(part.to(self.device)) for part in self.bank.points.split(CHUNK)])
        codes = torch.stack([z[rows.to(z.device)].mean(0) for rows in self.bank.rows])
        self.class_codes.copy_(torch.nn.functional.normalize(codes, dim=1))

    def retarget(self, z_driver: Tensor, g_source: Tensor) -> Tensor:
        """The source's shape (N, 68, 2), standardised, with the driver's expression z_driver (N, code_dim)."""
        if self.cfg.loss.geometry_decoder == "swap":
            return self.decoder(z_driver, g_source)
        rest = torch.zeros_like(g_source)  # a decoder that sees no person: its change between the two codes
        return g_source + self.decoder(z_driver, rest) - self.decoder(self.encoder(g_source), rest)

    def path(self, z_driver: Tensor, points_source: Tensor, strength: float = 1.0) -> Tensor:
        """Codes (N, code_dim) on the way from the source's shape to the retargeted one: E(g + s (g' - g)).

        z_driver (N, code_dim), points_source (N, 68, 2).
        """
        g = self.standardise(points_source)
        return self.encoder(g + strength * (self.retarget(z_driver, g) - g))

    # Images.

    def one_hot(self, label: Tensor) -> Tensor:
        """Classes (N,) -> (N, K)."""
        return torch.nn.functional.one_hot(label, self.labels.num).float()

    def complete_rows(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows of a batch whose label and landmarks are known, of the partner too where there is one."""
        known = (batch["label"] >= 0) & batch["landmarks"].isfinite().all(2).all(1)
        if self.cfg.paired:
            known &= (batch["pair_label"] >= 0) & batch["pair_landmarks"].isfinite().all(2).all(1)
        return {key: value[known] for key, value in batch.items()}

    def draw_target(self, rows: dict[str, Tensor], y: Tensor) -> Target:
        """Paired: the partner's class, and its landmarks or (half of the rows) those of somebody else of that class.
        Unpaired: another row's class and landmarks."""
        if self.cfg.paired:
            own, label = rows["pair_landmarks"], rows["pair_label"]
            others = self.bank.of_class(label).to(own.device)
            foreign = (torch.rand(len(label), device=own.device) < 0.5)[:, None, None]
            with torch.no_grad():
                z = self.code(torch.where(foreign, others, own))
            return Target(self.one_hot(label), z, rows["pair_image"])
        p = torch.randperm(len(y), device=y.device)
        with torch.no_grad():
            return Target(y[p], self.code(rows["landmarks"][p]), rows["image"][p])

    def geometry_error(self, x_fake: Tensor, z_target: Tensor) -> Tensor:
        """mean_n |E(landmarks that D finds in the fake) - z_target|^2; gradients reach the fake alone."""
        with frozen(self.critic, self.encoder):
            seen = diff_augment(x_fake, self.cfg.train.augment)
            found = self.critic.landmarks(self.critic.features(seen, None))
            return (self.code(found) - z_target).square().sum(1).mean()

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = self.complete_rows(batch)
        x, z = rows["image"], self.code(rows["landmarks"])
        z_target = self.class_codes[rows["label"].roll(1, 0)]
        x_fake, mask = self.ema_generator(x, z_target, with_mask=True)
        return {
            "cycle_psnr": psnr(self.ema_generator(x_fake, z), x).mean(),
            "mask": mask.mean(),
            "sensitivity": label_sensitivity(self.ema_generator, x, z, z_target),
            "landmarks": (self.critic.landmarks(self.critic.features(x)) - rows["landmarks"]).square().mean(),
            "geometry": self.geometry_error(x_fake, z_target),
        }

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        rows = self.complete_rows(batch)
        x, points = rows["image"][:8], rows["landmarks"][:8]
        named = [self.edit(x, self.path(code.expand(len(x), -1), points)) for code in self.class_codes]
        crossed = [self.edit(x, self.path(z.expand(len(x), -1), points)) for z in self.code(points)]
        if self.image_steps:
            mask = self.ema_generator(x, self.class_codes[rows["label"][:8].roll(1, 0)], with_mask=True)[1]
            self.check_health(x, self.code(points), torch.cat(named), mask)
        return {
            "edits": Grid(torch.stack([x, *named], 1), [], ["input", *self.labels.names]),
            "cross": Grid(torch.stack([x, *crossed], 1), [], ["input", *(f"driver {i}" for i in range(len(x)))]),
        }

    def edit(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, C, H, H) under codes c (N, code_dim): pictures in [-1, 1], averaged weights."""
        return self.ema_generator(x, c)
