"""Every knob of a classifier run."""

from dataclasses import dataclass, field
from typing import Literal

from data import DataConfig
from engine import TrainConfig
from engine.config import require

HEADS = ("expression", "attributes", "landmarks", "identity")


@dataclass
class ModelConfig:
    """The network: role, heads, blocks."""

    role: Literal["judge", "guide"] = "judge"  # judge: grades, never in a loss; guide: may teach, never grades
    heads: list[str] = field(
        default_factory=lambda: ["expression"]
    )  # expression, attributes, landmarks; or identity alone
    kind: Literal["residual", "plain", "pooled"] = "residual"  # of the blocks; take another one for the guide
    widths: list[int] = field(default_factory=lambda: [32, 64, 128, 256])  # channels of each stage; each halves the map
    blocks: int = 1  # per stage, >= 1
    dropout: float = 0.2  # before the linear heads, 0 .. 1
    mirror: bool = False  # grading: mean over a face and its mirror image, twice the cost; training does not change

    def __post_init__(self) -> None:
        known = bool(self.heads) and all(head in HEADS for head in self.heads)
        require(known, "heads", f"some of {', '.join(HEADS)}", self.heads)
        alone = "identity" not in self.heads or len(self.heads) == 1
        require(alone, "heads", "identity alone (on a shared trunk it spoils the other heads)", self.heads)
        require(
            len(self.widths) >= 2 and all(w >= 8 and w % 8 == 0 for w in self.widths),
            "widths",
            "two or more multiples of 8",
            self.widths,
        )
        require(self.blocks >= 1, "blocks", "a number >= 1", self.blocks)
        require(0 <= self.dropout < 1, "dropout", "a share in 0 .. 1", self.dropout)


@dataclass
class LossConfig:
    """What a classifier is taught by."""

    label_smoothing: float = 0.05  # share of a label spread over all classes, 0 .. 0.5
    lambda_attributes: float = 1.0  # binary cross-entropy, mean over known bits, against the expression's nats
    lambda_landmarks: float = 2.0  # mean distance in half picture sides
    pos_weight_max: float = 4.0  # rare attributes count up to this much more in the loss, >= 1; the reading undoes it
    erase: float = 0.25  # share of faces with a rectangle greyed out, 0 .. 1
    arc_margin: float = 0.3  # radians, identity (ArcFace, Deng et al. 1801.07698)
    arc_scale: float = 24.0  # inverse temperature of its cosines

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing <= 0.5, "label_smoothing", "0 .. 0.5", self.label_smoothing)
        require(0 <= self.erase <= 1, "erase", "a share in 0 .. 1", self.erase)
        require(self.pos_weight_max >= 1, "pos_weight_max", "a number >= 1", self.pos_weight_max)
        require(0 <= self.arc_margin <= 1, "arc_margin", "0 .. 1 radians", self.arc_margin)


@dataclass
class ClassifierTrain(TrainConfig):
    """Rates, beside what every run has."""

    lr: float = 2.0e-3  # AdamW's
    weight_decay: float = 5.0e-2  # decoupled
    ema_decay: float = 0.995  # of the weights that are used, per step, 0 .. 1


@dataclass
class ClassifierConfig:
    """A run of `evaluation.train_classifier`."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: ClassifierTrain = field(default_factory=ClassifierTrain)
