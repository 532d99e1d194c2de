"""Every option of the flow. Densities are in nats inside, in bits per dimension of the pixels in the log."""

from dataclasses import dataclass, field
from typing import Literal

from data import DataConfig
from engine import TrainConfig
from engine.config import require
from engine.errors import UserError


@dataclass
class ModelConfig:
    """The flow: depth, couplings, labels, memory."""

    num_levels: int = 3  # L, 1-8; each halves the side, so the side is a multiple of 2^L (48 px: at most 4)
    num_steps: int = 8  # K, steps of a level: actnorm, 1x1, coupling
    width: int = 64  # channels of the coupling network
    coupling: Literal["affine", "additive"] = "affine"  # additive: volume-preserving, NICE
    scale: Literal["tanh", "sigmoid2"] = "tanh"  # tanh: bounded above and below; sigmoid2: openai/glow's sigmoid(r + 2)
    scale_bound: float = 1.0  # alpha of tanh, bound of |log-scale| per step, nats, 0.2-3
    permutation: Literal["lu", "shuffle"] = "lu"  # lu: learned 1x1; shuffle: a fixed permutation (Glow, figure 3)
    condition: Literal["none", "top", "planes"] = "none"  # top: the paper's label prior; planes: README, "Labels"
    condition_on: list[str] = field(default_factory=list)  # attribute names; [] = the expression classes
    num_planes: int = 4  # E, learned planes per level, input of every coupling: position and (`planes`) label; 0: none
    class_mean: bool = True  # subtract a learned image per label, initialised to the class mean; `planes` only
    memory: Literal["reversible", "stored"] = "reversible"  # stored: autograd keeps every activation, 3/4 of the time
    anchor_every: int = 0  # also keep the output of every such step, against drift; 0 = only the ends of levels

    def __post_init__(self) -> None:
        require(1 <= self.num_levels <= 8, "num_levels", "1 to 8", self.num_levels)
        require(self.num_steps >= 1, "num_steps", "at least 1", self.num_steps)
        require(self.width >= 1, "width", "at least 1", self.width)
        require(0.2 <= self.scale_bound <= 3, "scale_bound", "0.2 to 3 nats", self.scale_bound)
        least = int(self.condition == "planes")
        require(self.num_planes >= least, "num_planes", f"at least {least}", self.num_planes)
        require(self.anchor_every >= 0, "anchor_every", "at least 0", self.anchor_every)
        if self.condition_on and self.condition == "none":
            raise UserError("condition_on: expected an empty list without labels; set model.condition=planes")


@dataclass
class LossConfig:
    """Bits per dimension, and the class loss."""

    n_bits: int = 5  # bits per grey level that the density models, 1-8; the paper has 5
    lambda_class: float = 0.0  # >= 0; bits per image of a linear classifier on the top code (paper 0.01); `top` only
    max_norm: float | None = 50.0  # clip of the gradient norm of bits/dim; null = none

    def __post_init__(self) -> None:
        require(1 <= self.n_bits <= 8, "n_bits", "1 to 8", self.n_bits)
        require(self.lambda_class >= 0, "lambda_class", "at least 0", self.lambda_class)
        require(self.max_norm is None or self.max_norm > 0, "max_norm", "null or more than 0", self.max_norm)


@dataclass
class FlowTrainConfig(TrainConfig):
    """Optimiser and stability checks, in addition to the common options."""

    optimizer: Literal["adamax", "adam"] = "adamax"  # Adamax as in openai/glow
    lr: float = 2.0e-3  # > 0; 1e-3 above 48 px
    ema: float = 0.99  # decay of the averaged weights, which all but training uses; use 0.9995 beyond 5k steps
    alarm_every: int = 500  # steps between stability checks (samples, drift, conditioning, saturation); 0 = never
    lr_warmup: int = 100
    lr_decay: Literal["cosine", "linear", "none"] = "linear"
    lr_hold: float = 0.7
    lr_floor: float = 0.0

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", "more than 0", self.lr)
        require(0 <= self.ema < 1, "ema", "a decay in [0, 1)", self.ema)
        require(self.alarm_every >= 0, "alarm_every", "at least 0", self.alarm_every)
        super().__post_init__()


@dataclass
class Config:
    """A flow run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: FlowTrainConfig = field(default_factory=FlowTrainConfig)

    def __post_init__(self) -> None:
        if self.loss.lambda_class and self.model.condition != "top":
            raise UserError(
                f"loss.lambda_class: {self.loss.lambda_class:g} needs model.condition=top (a classifier on the top "
                "code); set it to 0"
            )
