"""Every option of the four systems. `system` chooses the class: cgan | rough | sharp | face (CONFIGS).

Weights of losses are dimensionless. L1 is a mean over pixels, channels and batch.
"""

from dataclasses import dataclass, field
from typing import Literal

from data import DataConfig
from data.sketch import SIGMA
from engine import TrainConfig
from engine.config import require
from engine.errors import UserError

# What a sketch shows, of CelebA's names; stages 1 and 2 see no other attribute. Colours and small marks are missing.
TEXTURE = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Bushy_Eyebrows", "Chubby", "Eyeglasses", "Male", "Mouth_Slightly_Open", "Narrow_Eyes", "No_Beard", "Oval_Face",
    "Smiling", "Wearing_Hat", "Young",
)  # fmt: skip


def _check_width(width: int, latent_dim: int) -> None:
    require(8 <= width <= 128 and width % 8 == 0, "width", "8 .. 128, a multiple of 8 (GroupNorm)", width)
    require(4 <= latent_dim <= 1024, "latent_dim", "4 .. 1024", latent_dim)


# --- model ---------------------------------------------------------------------------------------------------------


@dataclass
class CGANModel:
    """Generator and critic of a conditional GAN."""

    nets: Literal["plain", "study"] = "plain"  # plain: ours; study: the networks of CGAN-64 and CGAN-128 (README)
    width: int = 64  # channels at full size, 8 .. 128, a multiple of 8; coarser stages have up to four times as many
    latent_dim: int = 128  # Z, 4 .. 1024

    def __post_init__(self) -> None:
        _check_width(self.width, self.latent_dim)


@dataclass
class RoughModel:
    """The conditional VAE of stage 1: attributes -> rough sketch."""

    width: int = 64  # channels at full size
    latent_dim: int = 128  # Z
    prior: Literal["learned", "normal", "noise"] = (
        "learned"  # p(z | a); normal: N(0, I); noise: Di & Patel's noise path
    )
    texture: list[str] = field(default_factory=list)  # attributes of stages 1 and 2, in order; [] = TEXTURE's in data
    sketch: Literal["dodge", "ink"] = "dodge"  # how a photo becomes a sketch where data.sketch names no folder
    sketch_sigma: float = SIGMA  # of the blur, as a share of the width; 0.005 .. 0.1

    def __post_init__(self) -> None:
        _check_width(self.width, self.latent_dim)
        require(0.005 <= self.sketch_sigma <= 0.1, "sketch_sigma", "a share of the width, 0.005 .. 0.1",
                self.sketch_sigma)  # fmt: skip


@dataclass
class SketchGANModel:
    """The U-Net and the critic of stages 2 and 3."""

    width: int = 64  # channels at full size
    colour_dim: int = 0  # face: numbers that hold what a sketch does not say (hues, light); 0 = none; 0 .. 64

    def __post_init__(self) -> None:
        _check_width(self.width, 4)
        require(0 <= self.colour_dim <= 64, "colour_dim", "0 .. 64", self.colour_dim)


@dataclass
class FaceModel(SketchGANModel):
    """Stage 3."""

    colour_dim: int = 8


# --- loss ----------------------------------------------------------------------------------------------------------


@dataclass
class GANLoss:
    """The game of generator and critic."""

    gan: Literal["logistic", "wgan"] = (
        "logistic"  # logistic with R1 (1801.04406), or wgan with its penalty (1704.00028)
    )
    gamma_r1: float = 0.1  # of half the squared gradient at real faces, logistic; 0 = off
    r1_every: int = 1  # steps between two penalties, each then counts so many times (1912.04958)
    lambda_gp: float = 0.0  # of (|gradient| - 1)^2, wgan; 10 there
    lambda_mismatch: float = 1.0  # real faces under a wrong request count as fakes (1605.05396); 0 = off
    wrong: Literal["row", "bit"] = "row"  # the wrong request: another row's, or the own one with one bit turned

    def __post_init__(self) -> None:
        for name in ("gamma_r1", "lambda_gp", "lambda_mismatch"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        require(self.r1_every >= 1, "r1_every", "at least 1", self.r1_every)


@dataclass
class RoughLoss:
    """The bound of the conditional VAE: the likelihood's sigma is the batch's own (sigma-VAE)."""

    beta: float = 1.0  # of the KL divergence, in nats
    kl_warmup: float = 0.2  # share of the run over which beta rises from 0

    def __post_init__(self) -> None:
        require(self.beta >= 0, "beta", "at least 0", self.beta)
        require(0 <= self.kl_warmup <= 1, "kl_warmup", "a share in 0 .. 1", self.kl_warmup)


@dataclass
class SketchGANLoss(GANLoss):
    """Stages 2 and 3: the game, and what the picture must keep."""

    lambda_l1: float = 20.0  # L1 to the known picture, where there is one
    lambda_redraw: float = 10.0  # L1 of the picture, sketched again, to the sketch it came from, where there is none
    lambda_kl: float = 0.01  # of the colour code's KL divergence, in nats

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lambda_l1", "lambda_redraw", "lambda_kl"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))


# --- train ---------------------------------------------------------------------------------------------------------


@dataclass
class A2FTrain(TrainConfig):
    """Rates that all systems have."""

    lr: float = 1.0e-3  # Adam's, of what makes pictures
    beta1: float = 0.0  # Adam's decay of the first moment
    beta2: float = 0.99  # and of the second
    ema_decay: float = 0.999  # of the weights that pictures come from; rises to it with (1 + n) / (10 + n)
    lr_warmup: int = 0
    lr_decay: Literal["cosine", "linear", "none"] = "linear"
    lr_hold: float = 0.5
    lr_floor: float = 0.0

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", "more than 0", self.lr)
        for name in ("beta1", "beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, "a decay in [0, 1)", getattr(self, name))
        super().__post_init__()


@dataclass
class GANTrain(A2FTrain):
    """A generator and its critic."""

    lr_critic: float = 1.0e-3  # Adam's, of the critic
    n_critic: int = 1  # critic steps to one generator step; 5 with wgan

    def __post_init__(self) -> None:
        require(self.lr_critic > 0, "lr_critic", "more than 0", self.lr_critic)
        require(self.n_critic >= 1, "n_critic", "at least 1", self.n_critic)
        require(self.batch_size >= 2, "batch_size", "at least 2, so that a request can come from another row",
                self.batch_size)  # fmt: skip
        super().__post_init__()


@dataclass
class RoughTrain(A2FTrain):
    """Stage 1."""

    beta1: float = 0.9
    beta2: float = 0.999


@dataclass
class SketchGANTrain(GANTrain):
    """Stages 2 and 3."""

    dream_share: float = 0.5  # of a batch: sketches of stage 1 for other rows' requests, without a known picture
    noise_path: bool = False  # face: the study's A2F-noise: drawn sketches are paired with photos they know nothing of

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.dream_share < 1, "dream_share", "a share in [0, 1)", self.dream_share)


# --- systems -------------------------------------------------------------------------------------------------------


@dataclass
class Upstream:
    """The run that trained the stage before. Step and sha256 are filled in when the run starts."""

    run: str = ""  # its run directory
    step: int = 0  # of its checkpoint; 0 = the newest
    sha256: str = ""  # of the checkpoint file


def _refuse_two_sets(data: DataConfig) -> None:
    if data.sets:
        raise UserError("data.sets: this family learns from one set; give data.dataset instead")


@dataclass
class CGANConfig:
    """Noise and attributes straight to a face: CGAN-64, CGAN-128 and every other size."""

    system: Literal["cgan"] = "cgan"
    data: DataConfig = field(default_factory=DataConfig)
    model: CGANModel = field(default_factory=CGANModel)
    loss: GANLoss = field(default_factory=GANLoss)
    train: GANTrain = field(default_factory=GANTrain)

    def __post_init__(self) -> None:
        _refuse_two_sets(self.data)
        if self.model.nets == "study":
            w = self.loss
            if w.gan == "wgan" or w.gamma_r1 or w.lambda_mismatch:
                raise UserError(
                    "model.nets: study has BatchNorm in its critic, which mixes the samples of a batch: no penalty on "
                    "single gradients and no wrong pairs; set loss.gan=logistic loss.gamma_r1=0 loss.lambda_mismatch=0"
                )


@dataclass
class RoughConfig:
    """Stage 1: attributes -> rough sketch."""

    system: Literal["rough"] = "rough"
    data: DataConfig = field(default_factory=DataConfig)
    model: RoughModel = field(default_factory=RoughModel)
    loss: RoughLoss = field(default_factory=RoughLoss)
    train: RoughTrain = field(default_factory=RoughTrain)

    def __post_init__(self) -> None:
        _refuse_two_sets(self.data)


@dataclass
class SharpConfig:
    """Stage 2: rough sketch -> sharp sketch. `rough` is the upstream run's model, copied when the run starts."""

    system: Literal["sharp"] = "sharp"
    data: DataConfig = field(default_factory=DataConfig)
    model: SketchGANModel = field(default_factory=SketchGANModel)
    loss: SketchGANLoss = field(default_factory=SketchGANLoss)
    train: SketchGANTrain = field(default_factory=SketchGANTrain)
    upstream: Upstream = field(default_factory=Upstream)
    rough: RoughModel = field(default_factory=RoughModel)

    def __post_init__(self) -> None:
        _refuse_two_sets(self.data)
        if self.model.colour_dim:
            raise UserError("model.colour_dim: a sketch has no colours; expected 0 with system: sharp")
        if self.train.noise_path:
            raise UserError("train.noise_path: is an option of system: face; expected false with system: sharp")


@dataclass
class FaceConfig:
    """Stage 3: sharp sketch -> face. `rough` and `sharp` are the upstream runs' models, copied when the run starts."""

    system: Literal["face"] = "face"
    data: DataConfig = field(default_factory=DataConfig)
    model: FaceModel = field(default_factory=FaceModel)
    loss: SketchGANLoss = field(default_factory=SketchGANLoss)
    train: SketchGANTrain = field(default_factory=SketchGANTrain)
    upstream: Upstream = field(default_factory=Upstream)
    rough: RoughModel = field(default_factory=RoughModel)
    sharp: SketchGANModel = field(default_factory=SketchGANModel)

    def __post_init__(self) -> None:
        _refuse_two_sets(self.data)


CONFIGS = {"cgan": CGANConfig, "rough": RoughConfig, "sharp": SharpConfig, "face": FaceConfig}
