"""Train Glow: `python flow/train.py --config configs/flow/synthetic32.yaml [key=value ...]`.

Paper: "Glow: Generative Flow with Invertible 1x1 Convolutions", https://arxiv.org/abs/1807.03039. Additions: bounded
coupling scales, labels in every coupling, and backpropagation in memory that does not grow with depth. Sums over
dimensions, mean over the batch. Nats inside, bits per dimension in the log.
"""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import engine
from data import build_faces
from engine import EMA, Grid, Method, adam, fit, start
from flow.config import Config
from flow.edit import decode_photo, encode_photo, transfer
from flow.labels import Labels, class_mean_images, set_label_frequencies
from flow.likelihood import bayes_accuracy, class_log_probs, image_bits
from flow.model import GlowFlow, apply_temperature
from flow.stability import stability_checks
from losses.quantise import bits_per_dim, dequantise, to_levels, to_pixels

logger = logging.getLogger("faces")
TEMPERATURES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NUM_SHOWN = 8  # columns of the grids
GAIN = 1.5  # of label edits in the grids (README, "Labels")


class Glow(Method):
    """The flow and its moving average `ema`, which validation, samples, codes and edits use."""

    best = ("bpd", "min")
    compilable = ("flow",)

    def __init__(self, cfg: Config, meta: dict) -> None:
        super().__init__(cfg, meta)
        self.labels = Labels(cfg.model, meta)
        self.needs = ("image", self.labels.key) if len(self.labels) else ("image",)
        self.flow = GlowFlow(meta["channels"], meta["image_size"], cfg.model, len(self.labels))
        self.ema = EMA(self.flow)
        if cfg.train.optimizer == "adam":
            self.optimizers["flow"] = adam(self.flow.parameters(), cfg.train.lr)
        else:
            self.optimizers["flow"] = torch.optim.Adamax(self.flow.parameters(), lr=cfg.train.lr, foreach=True)
        # The same noise in every grid of a run.
        self.register_buffer("noise", torch.randn(NUM_SHOWN, self.flow.dim, generator=torch.Generator().manual_seed(0)))
        self.register_load_state_dict_post_hook(_copy_missing_weights)

    def fit_labels(self, faces: Any) -> None:
        """Set label frequencies and mean images in one pass over the training set. They are part of the state dict."""
        set_label_frequencies(self.labels, faces)
        if self.cfg.model.condition == "planes" and self.cfg.model.class_mean:
            mirrored = self.cfg.data.flip != "none"
            self.flow.set_class_means(class_mean_images(self.labels, faces, self.cfg.loss.n_bits, mirrored))

    def warm_start(self, batch: dict[str, Tensor]) -> None:
        """Initialise the actnorms from one batch, layer by layer, over all ranks."""
        v = dequantise(to_levels(batch["image"], self.cfg.loss.n_bits), self.cfg.loss.n_bits)
        self.flow.initialise(v, self.labels.of(batch), engine.mean_over_ranks)
        self.ema.reset(self.flow)  # the average starts from the initialised weights

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        w = self.cfg.loss
        k = to_levels(batch["image"], w.n_bits)  # (N, C, H, H) integers 0 .. 2^n - 1
        y = self.labels.of(batch)  # (N, K) or None

        # 1. Dequantise: a density on cells bounds the probability of pixels (https://arxiv.org/abs/1511.01844).
        v = dequantise(k, w.n_bits)  # (N, C, H, H) in [-1/2, 1/2)

        # 2. Encode: the whitened code of every level and the exact log-density.
        code = self.flow.encode(v, y)  # eps_1 .. eps_L; log_prob (N,) in nats

        # 3. Bits per dimension of the pixels.
        bpd = bits_per_dim(code.log_prob, self.flow.dim, w.n_bits).mean()

        # 4. With the paper's label prior: loss of a linear classifier on the top code.
        class_bits = self.class_bits(code.z_top, batch) if w.lambda_class else torch.zeros_like(bpd)

        # 5. Update. The backward pass inverts each level (reversible.py).
        loss = bpd + w.lambda_class * class_bits
        norm = self.minimize(loss, "flow", w.max_norm)
        self.ema.update(self.flow, engine.ramped_decay(self.cfg.train.ema, step))

        # 6. Stability checks.
        every = self.cfg.train.alarm_every
        checks = stability_checks(self.flow, v, y, step) if every and (step + 1) % every == 0 else {}
        log = {"loss": loss, "bpd": bpd, "grad_norm": norm}
        return log | ({"class_bits": class_bits} if w.lambda_class else {}) | checks

    def class_bits(self, z_top: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy of the linear classifier on the top code, in bits per image, over known labels; batch mean."""
        logits = self.flow.class_head(z_top.mean((2, 3)))
        target = self.labels.targets(batch)
        if self.labels.are_classes:
            nats = F.cross_entropy(logits, target.clamp_min(0), reduction="none") * (target >= 0)
        else:
            bce = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none")
            nats = (bce * target.isfinite()).sum(1)
        return nats.mean() / torch.tensor(2.0).log()

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        flow, n_bits, y = self.ema.module, self.cfg.loss.n_bits, self.labels.of(batch)
        bpd = image_bits(flow, batch["image"], y, n_bits).mean()
        if not len(self.labels):
            return {"bpd": bpd}
        v = dequantise(to_levels(batch["image"], n_bits), n_bits, 0.5)
        scores = class_log_probs(flow, self.labels, v, y)
        return {"bpd": bpd, "bayes_accuracy": bayes_accuracy(scores, self.labels.targets(batch))}

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        batch = {key: value[:NUM_SHOWN] for key, value in batch.items()}
        flow, n_bits, x, y = self.ema.module, self.cfg.loss.n_bits, batch["image"], self.labels.of(batch)
        eps = flow.unflatten(self.noise[: len(x)])
        photo = encode_photo(flow, x, n_bits, y)
        x_hat = decode_photo(flow, photo.code.eps, n_bits, y, photo.lost)
        error = (255 / 2 * (x - x_hat).abs() * 2 - 1).clamp(max=1)  # one grey level is white
        images = torch.stack([self.draw(apply_temperature(eps, t), y) for t in TEMPERATURES])
        grids = {
            "temperature": Grid(images, [f"T {t:g}" for t in TEMPERATURES]),
            "reconstruction": Grid(torch.stack([x, x_hat, error]), ["input", "decode(encode)", "difference x 255"]),
        }
        if len(self.labels):
            grids["classes"], grids["transfer"] = self.class_grids(photo, x, apply_temperature(eps, 0.7))
        return grids

    def draw(self, eps: list[Tensor], y: Tensor | None) -> Tensor:
        """Decode eps to images in [-1, 1]."""
        return to_pixels(self.ema.module.decode(eps, y), self.cfg.loss.n_bits)

    def class_grids(self, photo: Any, x: Tensor, eps: list[Tensor]) -> tuple[Grid, Grid]:
        """Two grids with one row per label: samples of the same noise, and the given faces edited to the label."""
        targets = [self.labels.with_bit(photo.y, k, 1.0) for k in range(len(self.labels))]
        samples = torch.stack([self.draw(eps, target) for target in targets])
        edited = [transfer(self.ema.module, photo, target, GAIN, self.cfg.loss.n_bits) for target in targets]
        return Grid(samples, self.labels.names), Grid(torch.stack([x, *edited]), ["input", *self.labels.names])


def _copy_missing_weights(method: Glow, keys: Any) -> None:
    """After `load_state_dict`: if only the weights or only their average was loaded (`train.init_from=RUN:flow`), copy
    the loaded one to the other."""
    average = method.ema.module
    if method.flow.ready and not average.ready:
        method.ema.reset(method.flow)
    elif average.ready and not method.flow.ready:
        method.flow.load_state_dict(average.state_dict())


def main(argv: list[str] | None = None) -> None:
    with start(Config, argv=argv) as run:
        faces = build_faces(run.cfg.data)
        method = Glow(run.cfg, faces.meta)
        method.fit_labels(faces.train)
        logger.info(f"{sum(p.numel() for p in method.flow.parameters()):,} parameters, D = {method.flow.dim}")
        fit(run, method, faces.train, faces.val)


if __name__ == "__main__":
    main()
