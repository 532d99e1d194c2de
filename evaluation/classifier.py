"""The classifiers of faces. Each has one of two roles: a judge measures images, a guide may be used in a loss."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import engine
from engine import EMA, Grid, Method, ramped_decay
from engine.errors import UserError
from evaluation.config import ClassifierConfig
from evaluation.network import EMBEDDING, Network, erase, prepare

TEST_METRICS = "test_metrics.json"  # in the run directory, written after training: temperatures and test metrics
NEEDS = {"expression": "label", "attributes": "attr", "landmarks": "landmarks", "identity": "identity"}


class Classifier(Method):
    """A classifier of expression, attributes and landmarks, or (a separate network) an embedding of identity.

    `logits`, `features`, `landmarks` and `predict` measure: they take images (N, 1 or 3, H, W) uint8 of any size and
    give results without gradients. `forward` and `maps` are for losses: they take floats in [-1, 1] and keep the
    gradients. A judge raises an error in `forward` and `maps`.
    """

    compilable = ("net",)

    def __init__(self, cfg: ClassifierConfig, meta: dict) -> None:
        super().__init__(cfg, meta)
        m = cfg.model
        self.heads, self.role = tuple(m.heads), m.role
        self.needs = ("image", *(NEEDS[head] for head in m.heads))
        if "expression" in m.heads and cfg.data.labels == "soft":
            self.needs += ("label_soft",)
        self.classes = list(meta["classes"]) if "expression" in m.heads else []
        self.attributes = list(meta["attributes"]) if "attributes" in m.heads else []
        self.names = self.classes + self.attributes
        sizes = dict(
            expression=len(self.classes), attributes=len(self.attributes), landmarks=meta["landmarks"], identity=1
        )
        for head in m.heads:
            if not sizes[head]:
                raise UserError(f"model.heads: {meta['dataset']} has no labels for '{head}'; remove it")
        self.net = Network(m.kind, meta["channels"], m.widths, m.blocks, {h: sizes[h] for h in m.heads}, m.dropout)
        if "identity" in m.heads:
            self.persons = nn.Parameter(F.normalize(torch.randn(meta["identities"], EMBEDDING)))
        self.ema = EMA(self.net)
        frequency = torch.tensor(meta.get("attribute_share", [0.5] * len(self.attributes))).clamp(0.01, 0.99)
        self.register_buffer(
            "pos_weight", ((1 - frequency) / frequency).clamp(1.0, cfg.loss.pos_weight_max), persistent=False
        )
        self.register_buffer("temperature", torch.ones(len(self.names)), persistent=False)
        trainable = [p for name, p in self.named_parameters() if not name.startswith("ema.")]
        self.optimizers = {"net": engine.adam(trainable, cfg.train.lr, weight_decay=cfg.train.weight_decay)}

    # Training.

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """One update; returns the total loss and its unweighted terms."""
        loss_cfg = self.cfg.loss
        x = erase(batch["image"], loss_cfg.erase) if loss_cfg.erase else batch["image"]
        out, terms = self.net(x), {}
        weights = {"attributes": loss_cfg.lambda_attributes, "landmarks": loss_cfg.lambda_landmarks}
        for head in self.heads:
            terms[head] = getattr(self, f"{head}_loss")(out[head], batch, step)
        loss = sum(weights.get(head, 1.0) * term for head, term in terms.items())
        self.minimize(loss, "net", max_norm=5.0)
        self.ema.update(self.net, ramped_decay(self.cfg.train.ema_decay, step))
        return {"loss": loss, **terms}

    def expression_loss(self, logits: Tensor, batch: dict[str, Tensor], step: int) -> Tensor:
        """Cross-entropy in nats, mean over the rows with a known label; the target is the label or the votes (N, K)."""
        known = batch["label"] >= 0
        if "label_soft" in batch:
            target = batch["label_soft"]
        else:
            target = F.one_hot(batch["label"].clamp_min(0), len(self.classes)).float()
        target = target.lerp(torch.full_like(target, 1 / len(self.classes)), self.cfg.loss.label_smoothing)
        nll = -(target * logits.log_softmax(1)).sum(1)
        return (nll * known).sum() / known.sum().clamp_min(1)

    def attributes_loss(self, logits: Tensor, batch: dict[str, Tensor], step: int) -> Tensor:
        """Binary cross-entropy in nats, mean over the known attributes."""
        known = ~batch["attr"].isnan()
        bits = batch["attr"].nan_to_num()
        bce = F.binary_cross_entropy_with_logits(logits, bits, pos_weight=self.pos_weight, reduction="none")
        return (bce * known).sum() / known.sum().clamp_min(1)

    def landmarks_loss(self, points: Tensor, batch: dict[str, Tensor], step: int) -> Tensor:
        """Mean Euclidean distance of the known points; unit: half an image side."""
        known = batch["landmarks"].isfinite().all(2)
        off = (points - batch["landmarks"].nan_to_num()).square().sum(2).add(1e-8).sqrt()
        return (off * known).sum() / known.sum().clamp_min(1)

    def identity_loss(self, embedding: Tensor, batch: dict[str, Tensor], step: int) -> Tensor:
        """ArcFace loss: cross-entropy of scaled cosines, with a margin added to the angle of the true person.

        Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", Eq. 3.
        Deviation: the margin grows from 0 during the first third of the run, because a small network does not train
        with the full margin from the first step.
        """
        known = batch["identity"] >= 0
        margin = self.cfg.loss.arc_margin * min(1.0, 3 * step / self.cfg.train.total_steps)
        label = batch["identity"].clamp_min(0)[:, None]
        with engine.fp32():  # bf16 is too coarse for acos near 1
            cosines = embedding.float() @ F.normalize(self.persons).T  # (N, number of persons)
            angle = cosines.gather(1, label).clamp(-1 + 1e-6, 1 - 1e-6).acos()
            logits = cosines.scatter(1, label, (angle + margin).clamp_max(math.pi).cos())
            nll = F.cross_entropy(self.cfg.loss.arc_scale * logits, label[:, 0], reduction="none")
            return (nll * known).sum() / known.sum().clamp_min(1)

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Accuracy of expressions and attributes, error of landmarks, mean cosine of genuine minus impostor pairs."""
        out, metrics = self.ema(batch["image"]), {}
        if "expression" in out:
            metrics["accuracy"] = (out["expression"].argmax(1) == batch["label"]).float().mean()
        if "attributes" in out:
            predicted = out["attributes"] > self.pos_weight.log()
            correct = (predicted == (batch["attr"] > 0.5)) & ~batch["attr"].isnan()
            metrics["attributes"] = correct.sum() / (~batch["attr"].isnan()).sum().clamp_min(1)
        if "landmarks" in out:
            metrics["landmarks"] = self.landmarks_loss(out["landmarks"], batch, 0)
        if "identity" in out:
            cosines, label = out["identity"] @ out["identity"].T, batch["identity"]
            genuine = (label[:, None] == label) & ~torch.eye(len(label), dtype=torch.bool, device=label.device)
            impostor = label[:, None] != label
            metrics["cosine_gap"] = (cosines * genuine).sum() / genuine.sum().clamp_min(1) - cosines[impostor].mean()
        return metrics

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        """Predictions for the fixed faces; for identity, each face with its nearest neighbour below it."""
        x, out = batch["image"], self.ema(batch["image"])
        if "identity" in out:
            cosines = (out["identity"] @ out["identity"].T).fill_diagonal_(-2)
            return {"nearest": Grid(torch.stack([x, x[cosines.argmax(1)]]), ["face", "nearest neighbour"])}
        if "expression" in out:
            captions = [self.classes[k] for k in out["expression"].argmax(1).tolist()]
        else:
            captions = [f"{self.attributes[0]} {p:.2f}" for p in self._logits(out)[:, 0].sigmoid().tolist()]
        return {"predictions": Grid(x[None], [], captions)}

    # Use.

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, len(names)), without temperature, for images x (N, 1 or 3, H, W) in [-1, 1] of any size.

        Raises:
            UserError: this classifier is a judge. A model that is trained with a judge cannot be measured by it.
        """
        self._refuse_judge()
        return self._logits(self._predict(x))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Feature maps of stages k = 1, 2, ...: (N, width_k, S / 2^k, S / 2^k), with S the side of the training images.

        x and errors are as in `forward`: x is first resized to S. The gradients are kept.
        """
        self._refuse_judge()
        return self.ema.module.maps(prepare(x, self.meta["image_size"], self.meta["channels"]))

    def logits(self, images8: Tensor, batch_size: int = 256) -> Tensor:
        """Logits (N, len(names)), on the CPU, of images (N, 1 or 3, H, W) uint8 of any size."""
        return torch.cat([self._logits(out).cpu() for out in self._pass(images8, batch_size)])

    def features(self, images8: Tensor, batch_size: int = 256) -> Tensor:
        """Features (N, F) of the penultimate layer, on the CPU; for identity the embedding (N, 128) of unit length."""
        return torch.cat([out["features"].cpu() for out in self._pass(images8, batch_size)])

    def landmarks(self, images8: Tensor, batch_size: int = 256) -> Tensor:
        """Landmarks (N, P, 2), on the CPU; x and y in [-1, 1], the image borders."""
        return torch.cat([out["landmarks"].cpu() for out in self._pass(images8, batch_size)])

    def predict(self, images8: Tensor, batch_size: int = 256) -> dict[str, Tensor]:
        """`logits`, `features` and, with that head, `landmarks`, from one forward pass; on the CPU."""
        parts: dict[str, list[Tensor]] = {}
        for out in self._pass(images8, batch_size):
            found = {"features": out["features"], "logits": self._logits(out)}
            found |= {"landmarks": out["landmarks"]} if "landmarks" in out else {}
            for key, value in found.items():
                parts.setdefault(key, []).append(value.cpu())
        return {key: torch.cat(value) for key, value in parts.items()}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities (N, len(names)) of logits: softmax over classes, sigmoid of attributes."""
        scaled, k = logits / self.temperature.to(logits.device), len(self.classes)
        return torch.cat([scaled[:, :k].softmax(1), scaled[:, k:].sigmoid()], 1)

    def _pass(self, images8: Tensor, batch_size: int) -> Iterator[dict[str, Tensor]]:
        assert images8.dtype == torch.uint8, "expected uint8 images"
        with torch.inference_mode(), engine.fp32():
            for part in images8.split(batch_size):
                x = part.to(self.device).float() / 127.5 - 1
                yield self._predict_mirrored(x) if self.cfg.model.mirror else self._predict(x)

    def _predict_mirrored(self, x: Tensor) -> dict[str, Tensor]:
        """Mean of the outputs for the image and its mirror image; landmarks of the image only."""
        out, mirrored = self._predict(x), self._predict(x.flip(-1))
        out |= {key: (out[key] + mirrored[key]) / 2 for key in out if key != "landmarks"}
        if "identity" in out:
            out["identity"] = out["features"] = F.normalize(out["identity"])
        return out

    def _predict(self, x: Tensor) -> dict[str, Tensor]:
        return self.ema.module(prepare(x, self.meta["image_size"], self.meta["channels"]))

    def _logits(self, out: dict[str, Tensor]) -> Tensor:
        """Logits (N, len(names)), corrected for `pos_weight`.

        With a weight w on the positive term, the optimal logit is log(w p / (1 - p)). Subtracting log(w) gives the
        logit of p. Without this a rare attribute is predicted too often.
        """
        parts = [out["expression"]] if "expression" in out else []
        parts += [out["attributes"] - self.pos_weight.log()] if "attributes" in out else []
        return torch.cat(parts, 1) if parts else out["features"].new_empty(len(out["features"]), 0)

    def _refuse_judge(self) -> None:
        if self.role == "judge":
            name = self.origin.run if self.origin else "this classifier"
            raise UserError(
                f"{name} is a judge, and a judge must not be used in a loss; train a guide (model.role: guide)"
            )


def read_test_metrics(run: str | Path) -> dict:
    """The content of test_metrics.json of a run; an empty dict before the end of training.

    Raises:
        UserError: the file is damaged.
    """
    path = Path(run) / TEST_METRICS
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(key, {}), dict) for key in ("temperature", "test")):
        raise UserError(
            f"{path}: is damaged; delete it and repeat the training command of this run, which writes it again"
        )
    return found


def load(run: str | Path, role: str | None = None, step: int | None = None, device: str = "auto") -> Classifier:
    """Load a trained classifier and its temperatures (1 before the end of training); parameters without gradients.

    Args:
        role: the role that is needed: "judge" to measure, "guide" for a loss or a direction; None accepts both.
        step: step of the checkpoint; None loads the best or the newest one.

    Raises:
        UserError: no such run, or the classifier has the other role.
    """
    found = engine.load(run, ClassifierConfig, Classifier, step, device)
    if role and found.role != role:
        why = {"judge": "a judge must not be used in a loss", "guide": "a guide must not measure images"}[found.role]
        raise UserError(f"{run} is a {found.role}: {why}; give a run with model.role: {role}")
    temperatures = read_test_metrics(run).get("temperature")
    if temperatures:
        each = [temperatures.get("expression", 1.0)] * len(found.classes)
        each += [temperatures.get("attributes", 1.0)] * len(found.attributes)
        found.temperature.copy_(torch.tensor(each))
    return found.requires_grad_(False)
