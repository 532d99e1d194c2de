"""The options of a classifier run."""

from dataclasses import dataclass, field
from typing import Literal

from data import DataConfig
from engine import TrainConfig
from engine.config import require

HEADS = ("expression", "attributes", "landmarks", "identity")


@dataclass
class ModelConfig:
    """The network: role, heads, blocks."""

    role: Literal["judge", "guide"] = "judge"  # judge: only measures images; guide: only for losses
    heads: list[str] = field(default_factory=lambda: ["expression"])  # some of HEADS; identity only without others
    kind: Literal["residual", "plain", "pooled"] = (
        "residual"  # type of the blocks; a guide needs another than the judge
    )
    widths: list[int] = field(
        default_factory=lambda: [32, 64, 128, 256]
    )  # channels of the stages; each halves the side
    blocks: int = 1  # per stage, >= 1
    dropout: float = 0.2  # before the linear heads, in [0, 1)
    mirror: bool = False  # measure with the mean over image and mirror image (twice the cost); not in training

    def __post_init__(self) -> None:
        known = bool(self.heads) and all(head in HEADS for head in self.heads)
        require(known, "heads", f"some of {', '.join(HEADS)}", self.heads)
        single = "identity" not in self.heads or len(self.heads) == 1
        require(single, "heads", "identity only (a shared trunk lowers the accuracy of the other heads)", self.heads)
        valid = len(self.widths) >= 2 and all(w >= 8 and w % 8 == 0 for w in self.widths)
        require(valid, "widths", "two or more multiples of 8", self.widths)
        require(self.blocks >= 1, "blocks", "a number >= 1", self.blocks)
        require(0 <= self.dropout < 1, "dropout", "a share in 0 .. 1", self.dropout)


@dataclass
class LossConfig:
    """Loss of a classifier."""

    label_smoothing: float = 0.05  # label smoothing, 0 .. 0.5
    lambda_attributes: float = 1.0  # weight of the attributes' binary cross-entropy (nats, mean over known ones)
    lambda_landmarks: float = 2.0  # weight of the mean distance of landmarks (unit: half an image side)
    pos_weight_max: float = 4.0  # maximum weight of the positive term of a rare attribute, >= 1
    erase: float = 0.25  # random erasing: share of faces with a grey rectangle, 0 .. 1
    arc_margin: float = 0.3  # margin of ArcFace (Deng et al., 2019), radians
    arc_scale: float = 24.0  # scale of the cosines of ArcFace

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing <= 0.5, "label_smoothing", "0 .. 0.5", self.label_smoothing)
        require(0 <= self.erase <= 1, "erase", "a share in 0 .. 1", self.erase)
        require(self.pos_weight_max >= 1, "pos_weight_max", "a number >= 1", self.pos_weight_max)
        require(0 <= self.arc_margin <= 1, "arc_margin", "0 .. 1 radians", self.arc_margin)


@dataclass
class ClassifierTrain(TrainConfig):
    """Optimizer options, in addition to those of every run."""

    lr: float = 2.0e-3  # learning rate of AdamW
    weight_decay: float = 5.0e-2  # decoupled weight decay of AdamW
    ema_decay: float = 0.995  # decay per step of the averaged weights, 0 .. 1


@dataclass
class ClassifierConfig:
    """A run of `evaluation.train_classifier`."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: ClassifierTrain = field(default_factory=ClassifierTrain)
