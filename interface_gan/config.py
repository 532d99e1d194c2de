"""Options of training the generator, and of training an encoder for it. Loss weights are dimensionless.

Scores, boundaries and edits have no config. Their options are arguments of the modes of `sample.py`.
"""

from dataclasses import dataclass, field
from typing import Literal

from data import DataConfig
from engine import TrainConfig, UserError
from engine.config import AdamTrainConfig, require
from losses.augment import KINDS


@dataclass
class ModelConfig:
    """Sizes of the networks."""

    latent_dim: int = 256  # size of z and of w, 8 .. 1024; 512 in the paper
    mapping_layers: int = 2  # fully connected layers of the mapping network, 1 .. 16; 8 in the paper
    channel_base: int = 8192  # channels at r x r pixels = min(channel_base // r, channel_max)
    channel_max: int = 256  # 8 .. 1024
    mbstd_group: int = 4  # group size of the minibatch standard deviation, 1 .. 64; 1 = without

    def __post_init__(self) -> None:
        require(8 <= self.latent_dim <= 1024, "latent_dim", "8 .. 1024", self.latent_dim)
        require(1 <= self.mapping_layers <= 16, "mapping_layers", "1 .. 16", self.mapping_layers)
        require(self.channel_base >= 64, "channel_base", "at least 64", self.channel_base)
        require(8 <= self.channel_max <= 1024, "channel_max", "8 .. 1024", self.channel_max)
        require(1 <= self.mbstd_group <= 64, "mbstd_group", "1 .. 64", self.mbstd_group)


@dataclass
class LossConfig:
    """Regularization. The logistic loss has weight 1. A weight of 0 switches a term off."""

    gamma_r1: float = 0.0625  # weight of half the squared gradient at real faces (R1); about (pixels / 256)^2
    r1_every: int = 16  # steps between two R1 updates; the weight is multiplied by it (StyleGAN2, section 3.1)
    lambda_path: float = 2.0  # weight of path length regularization (StyleGAN2, Eq. 4)
    path_every: int = 4  # steps between two of its updates; the weight is multiplied by it
    path_decay: float = 0.01  # update rate of the running mean path length; 0 .. 1
    path_shrink: int = 2  # path lengths are computed for batch_size // path_shrink fakes
    mixing_prob: float = 0.9  # share of fakes with style mixing; 0 .. 1

    def __post_init__(self) -> None:
        for name in ("gamma_r1", "lambda_path"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("r1_every", "path_every", "path_shrink"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("path_decay", "mixing_prob"):
            require(0 <= getattr(self, name) <= 1, name, "a share in 0 .. 1", getattr(self, name))


@dataclass
class StyleGAN2TrainConfig(TrainConfig):
    """Learning rate, moving average and augmentation, in addition to the common options."""

    lr: float = 2.5e-3  # Adam, both networks; the mapping network has a hundredth of it
    beta2: float = 0.99  # Adam's decay of the second moment; that of the first is 0
    ema_images: int = 20_000  # half-life of the averaged generator, in images
    ema_ramp: float = 0.05  # the half-life is at most this share of the images seen so far; 0 .. 1
    noise: bool = True  # add random noise maps in every layer (StyleGAN, section 3.2); false: all strengths stay 0
    augment: str = ""  # DiffAugment for the discriminator: color,translation,cutout,noise or some of them; "" = none
    lr_warmup: int = 0
    lr_decay: Literal["cosine", "linear", "none"] = "none"

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", "more than 0", self.lr)
        require(0 <= self.beta2 < 1, "beta2", "a decay in [0, 1)", self.beta2)
        require(self.ema_images >= 1, "ema_images", "at least 1", self.ema_images)
        require(0 < self.ema_ramp <= 1, "ema_ramp", "a share above 0, at most 1", self.ema_ramp)
        unknown = [part for part in self.augment.split(",") if part and part not in KINDS]
        require(not unknown, "augment", f"a list of {', '.join(KINDS)}", self.augment)
        super().__post_init__()


@dataclass
class Config:
    """A StyleGAN2 run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: StyleGAN2TrainConfig = field(default_factory=StyleGAN2TrainConfig)

    def __post_init__(self) -> None:
        if self.data.sets:
            raise UserError("data.sets: this method takes one data set; give data.dataset instead")
        if self.loss.lambda_path and self.train.batch_size < self.loss.path_shrink:
            raise UserError(
                f"loss.path_shrink: {self.loss.path_shrink} is larger than train.batch_size={self.train.batch_size}; "
                "give a smaller value, or set loss.lambda_path=0"
            )


@dataclass
class EncoderModelConfig:
    """The encoder. Its convolutions have the widths of the generator's discriminator."""

    hidden: int = 256  # units of the last hidden layer, at least 8
    rounds: int = 3  # corrections of the codes, one after the other, 1 .. 10; 5 in the ReStyle paper

    def __post_init__(self) -> None:
        require(self.hidden >= 8, "hidden", "at least 8", self.hidden)
        require(1 <= self.rounds <= 10, "rounds", "1 .. 10", self.rounds)


@dataclass
class EncoderLossConfig:
    """Weights beside the distance of images (`project.distance`), which has weight 1. Errors of codes are squared, in
    standard deviations of w."""

    lambda_code: float = 0.1  # of sampled faces, whose codes are known
    lambda_offset: float = 2.0e-4  # of the layers' difference from their mean

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(value >= 0, name, "at least 0", value)


@dataclass
class EncoderTrainConfig(AdamTrainConfig):
    """Defaults of the encoder's training."""

    lr: float = 2.0e-3
    lr_warmup: int = 0
    lr_decay: Literal["cosine", "linear", "none"] = "linear"
    lr_hold: float = 0.5
    lr_floor: float = 0.0


@dataclass
class EncoderConfig:
    """An encoder for a trained generator. `data`, `gan` and `sha256` are copied from the generator's run."""

    generator: str = ""  # the run directory of the generator
    sha256: str = ""  # of the generator's checkpoint file
    data: DataConfig = field(default_factory=DataConfig)  # only `root` may be given
    gan: ModelConfig = field(default_factory=ModelConfig)
    model: EncoderModelConfig = field(default_factory=EncoderModelConfig)
    loss: EncoderLossConfig = field(default_factory=EncoderLossConfig)
    train: EncoderTrainConfig = field(default_factory=EncoderTrainConfig)

    def __post_init__(self) -> None:
        require(self.train.batch_size >= 2, "train.batch_size", "at least 2: sampled and real faces",
                self.train.batch_size)  # fmt: skip
