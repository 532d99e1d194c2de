"""The classifiers that judge, and the ones that may guide: one Method, one loader, two roles that never mix."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import engine
from engine import EMA, Grid, Method
from engine.errors import UserError
from evaluation.config import ClassifierConfig
from evaluation.network import EMBEDDING, Network, erase, prepare

TEST_METRICS = "test_metrics.json"  # in the run directory: temperatures and test figures, written after training
NEEDS = {"expression": "label", "attributes": "attr", "landmarks": "landmarks", "identity": "identity"}


class Classifier(Method):
    """Reads expression, attributes and landmarks from a face, or (a net of its own) who it is.

    Grading: `logits`, `features`, `landmarks` take uint8 faces of any size and colour. `forward` and `maps` take floats
    in [-1, 1] and carry gradients; a judge refuses them.
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
                raise UserError(f"model.heads: {meta['dataset']} has no labels for '{head}'; leave it out")
        self.net = Network(m.kind, meta["channels"], m.widths, m.blocks, {h: sizes[h] for h in m.heads}, m.dropout)
        if "identity" in m.heads:
            self.persons = nn.Parameter(F.normalize(torch.randn(meta["identities"], EMBEDDING)))
        self.ema = EMA(self.net)
        share = torch.tensor(meta.get("attribute_share", [0.5] * len(self.attributes))).clamp(0.01, 0.99)
        self.register_buffer("pos_weight", ((1 - share) / share).clamp(1.0, cfg.loss.pos_weight_max), persistent=False)
        self.register_buffer("temperature", torch.ones(len(self.names)), persistent=False)
        learnt = [p for name, p in self.named_parameters() if not name.startswith("ema.")]
        self.optimizers = {"net": engine.adam(learnt, cfg.train.lr, weight_decay=cfg.train.weight_decay)}

    # Training.

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """One update; returns every term unweighted."""
        loss_cfg = self.cfg.loss
        x = erase(batch["image"], loss_cfg.erase) if loss_cfg.erase else batch["image"]
        out, terms = self.net(x), {}
        weights = {"attributes": loss_cfg.lambda_attributes, "landmarks": loss_cfg.lambda_landmarks}
        for head in self.heads:
            terms[head] = getattr(self, f"{head}_loss")(out[head], batch, step)
        loss = sum(weights.get(head, 1.0) * term for head, term in terms.items())
        self.minimize(loss, "net", max_norm=5.0)
        self.ema.update(self.net, min(self.cfg.train.ema_decay, (1 + step) / (10 + step)))
        return {"loss": loss, **terms}

    def expression_loss(self, logits: Tensor, batch: dict[str, Tensor], step: int) -> Tensor:
        """Cross-entropy in nats against labels, or votes where the data have them; unknown rows (-1) count nothing."""
        known = batch["label"] >= 0
        if "label_soft" in batch:
            target = batch["label_soft"]
        else:
            target = F.one_hot(batch["label"].clamp_min(0), len(self.classes)).float()
        target = target.lerp(torch.full_like(target, 1 / len(self.classes)), self.cfg.loss.label_smoothing)
        nll = -(target * logits.log_softmax(1)).sum(1)
        return (nll * known).sum() / known.sum().clamp_min(1)

    def attributes_loss(self, logits: Tensor, batch: dict[str, Tensor], step: int) -> Tensor:
        """Binary cross-entropy, mean over the bits that are known."""
        known = ~batch["attr"].isnan()
        bits = batch["attr"].nan_to_num()
        bce = F.binary_cross_entropy_with_logits(logits, bits, pos_weight=self.pos_weight, reduction="none")
        return (bce * known).sum() / known.sum().clamp_min(1)

    def landmarks_loss(self, points: Tensor, batch: dict[str, Tensor], step: int) -> Tensor:
        """Mean distance of the points that are known, in half picture sides."""
        known = batch["landmarks"].isfinite().all(2)
        off = (points - batch["landmarks"].nan_to_num()).square().sum(2).add(1e-8).sqrt()
        return (off * known).sum() / known.sum().clamp_min(1)

    def identity_loss(self, embedding: Tensor, batch: dict[str, Tensor], step: int) -> Tensor:
        """ArcFace: cross-entropy of scaled cosines, the right one's angle enlarged by a margin that grows in.

        Deng et al. 1801.07698, Eq. 3. The margin grows over the first third of the run; from the start it keeps a small
        network from finding any direction.
        """
        known = batch["identity"] >= 0
        margin = self.cfg.loss.arc_margin * min(1.0, 3 * step / self.cfg.train.total_steps)
        person = batch["identity"].clamp_min(0)[:, None]
        with engine.fp32():  # near 1 a cosine in bf16 has no angle
            cosines = embedding.float() @ F.normalize(self.persons).T  # (N, persons)
            angle = cosines.gather(1, person).clamp(-1 + 1e-6, 1 - 1e-6).acos()
            logits = cosines.scatter(1, person, (angle + margin).clamp_max(math.pi).cos())
            nll = F.cross_entropy(self.cfg.loss.arc_scale * logits, person[:, 0], reduction="none")
            return (nll * known).sum() / known.sum().clamp_min(1)

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Accuracy of expressions and attributes, mean error of landmarks, how far persons stand apart."""
        out, metrics = self.ema(batch["image"]), {}
        if "expression" in out:
            metrics["accuracy"] = (out["expression"].argmax(1) == batch["label"]).float().mean()
        if "attributes" in out:
            read = out["attributes"] > self.pos_weight.log()
            right = (read == (batch["attr"] > 0.5)) & ~batch["attr"].isnan()
            metrics["attributes"] = right.sum() / (~batch["attr"].isnan()).sum().clamp_min(1)
        if "landmarks" in out:
            metrics["landmarks"] = self.landmarks_loss(out["landmarks"], batch, 0)
        if "identity" in out:
            cosines, who = out["identity"] @ out["identity"].T, batch["identity"]
            same = (who[:, None] == who) & ~torch.eye(len(who), dtype=torch.bool, device=who.device)
            metrics["apart"] = (cosines * same).sum() / same.sum().clamp_min(1) - cosines[who[:, None] != who].mean()
        return metrics

    def sample(self, batch: dict[str, Tensor]) -> dict[str, Grid]:
        """What the classifier says of the fixed faces; for identity, each face above the most similar other one."""
        x, out = batch["image"], self.ema(batch["image"])
        if "identity" in out:
            cosines = (out["identity"] @ out["identity"].T).fill_diagonal_(-2)
            return {"nearest": Grid(torch.stack([x, x[cosines.argmax(1)]]), ["face", "most like"])}
        if "expression" in out:
            told = [self.classes[k] for k in out["expression"].argmax(1).tolist()]
        else:
            told = [f"{self.attributes[0]} {p:.2f}" for p in self._logits(out)[:, 0].sigmoid().tolist()]
        return {"read": Grid(x[None], [], told)}

    # Use.

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, len(names)), not divided by the temperature; x (N, C, H, W) in [-1, 1], any size and colour.

        Raises:
            UserError: this classifier is a judge; a judge in a loss would grade its own pupil.
        """
        self._refuse_judge()
        return self._logits(self._read(x))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Feature maps of every stage, finest first; x as in `forward`, and refused to a judge likewise."""
        self._refuse_judge()
        return self.ema.module.maps(prepare(x, self.meta["image_size"], self.meta["channels"]))

    def logits(self, images8: Tensor, batch_size: int = 256) -> Tensor:
        """Logits (N, len(names)) of uint8 faces (N, C, H, W) of any size and colour, on the CPU."""
        return torch.cat([self._logits(out).cpu() for out in self._pass(images8, batch_size)])

    def features(self, images8: Tensor, batch_size: int = 256) -> Tensor:
        """The penultimate layer (N, F); for identity the embedding (N, 128) of unit length. On the CPU."""
        return torch.cat([out["features"].cpu() for out in self._pass(images8, batch_size)])

    def landmarks(self, images8: Tensor, batch_size: int = 256) -> Tensor:
        """(N, P, 2) in [-1, 1] from edge to edge, on the CPU."""
        return torch.cat([out["landmarks"].cpu() for out in self._pass(images8, batch_size)])

    def everything(self, images8: Tensor, batch_size: int = 256) -> dict[str, Tensor]:
        """`logits`, `features` and `landmarks` (where there is such a head) of one pass."""
        parts: dict[str, list[Tensor]] = {}
        for out in self._pass(images8, batch_size):
            found = {"features": out["features"], "logits": self._logits(out)}
            found |= {"landmarks": out["landmarks"]} if "landmarks" in out else {}
            for key, value in found.items():
                parts.setdefault(key, []).append(value.cpu())
        return {key: torch.cat(value) for key, value in parts.items()}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated: a softmax over the classes, a sigmoid for every attribute. (N, len(names)) -> the same."""
        scaled, k = logits / self.temperature.to(logits.device), len(self.classes)
        return torch.cat([scaled[:, :k].softmax(1), scaled[:, k:].sigmoid()], 1)

    def _pass(self, images8: Tensor, batch_size: int) -> Iterator[dict[str, Tensor]]:
        assert images8.dtype == torch.uint8, "grading reads 8-bit faces, as they are in a file"
        with torch.inference_mode(), engine.fp32():
            for part in images8.split(batch_size):
                x = part.to(self.device).float() / 127.5 - 1
                yield self._both(x) if self.cfg.model.mirror else self._read(x)

    def _both(self, x: Tensor) -> dict[str, Tensor]:
        """The mean answer to a face and its mirror image; landmarks of the face itself."""
        out, mirrored = self._read(x), self._read(x.flip(-1))
        out |= {key: (out[key] + mirrored[key]) / 2 for key in out if key != "landmarks"}
        if "identity" in out:
            out["identity"] = out["features"] = F.normalize(out["identity"])
        return out

    def _read(self, x: Tensor) -> dict[str, Tensor]:
        return self.ema.module(prepare(x, self.meta["image_size"], self.meta["channels"]))

    def _logits(self, out: dict[str, Tensor]) -> Tensor:
        """Logits of what the classifier reads, of the training faces' own frequencies.

        A weight w on the positive term moves the best logit to log(w p / (1 - p)), so that a rare attribute would be
        read far too often; log(w) is taken off again.
        """
        parts = [out["expression"]] if "expression" in out else []
        parts += [out["attributes"] - self.pos_weight.log()] if "attributes" in out else []
        return torch.cat(parts, 1) if parts else out["features"].new_empty(len(out["features"]), 0)

    def _refuse_judge(self) -> None:
        if self.role == "judge":
            name = self.origin.run if self.origin else "this classifier"
            raise UserError(
                f"{name} is a judge, and a judge must not teach; train a guide (model.role: guide) for losses"
            )


def read_grade(run: str | Path) -> dict:
    """What stands in a run's test_metrics.json; empty where it has not been graded yet.

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
        raise UserError(f"{path}: is damaged; the training command of this run writes it again")
    return found


def load(run: str | Path, role: str | None = None, step: int | None = None, device: str = "auto") -> Classifier:
    """Load a trained classifier with its temperatures (1 where the run has not been graded yet).

    Args:
        role: "guide" for anything that enters a loss or chooses a direction, "judge" for grading; None takes either.

    Raises:
        UserError: no such run, or a classifier of the other role.
    """
    found = engine.load(run, ClassifierConfig, Classifier, step, device)
    if role and found.role != role:
        why = {"judge": "a judge grades and must not teach", "guide": "a guide has taught and must not grade"}[
            found.role
        ]
        raise UserError(f"{run} is a {found.role}: {why}; give a run with model.role: {role}")
    temperatures = read_grade(run).get("temperature")
    if temperatures:
        each = [temperatures.get("expression", 1.0)] * len(found.classes)
        each += [temperatures.get("attributes", 1.0)] * len(found.attributes)
        found.temperature.copy_(torch.tensor(each))
    return found.requires_grad_(False)
