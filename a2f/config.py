"""Every option of the four systems. `system` chooses the class: cgan | rough | sharp | face (CONFIGS).

Weights of losses are dimensionless. L1 is a mean over pixels, channels and batch.
"""

from dataclasses import dataclass, field
from typing import Literal

from data import DataConfig
from data.sketch import SIGMA
from engine.config import AdamTrainConfig, require
from engine.errors import UserError

# The attributes of CelebA that a sketch can show. Stages 1 and 2 use no others (no colours and no small marks).
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
    width: int = 64  # channels at full resolution, 8 .. 128, a multiple of 8; coarser stages have up to 4 x width
    latent_dim: int = 128  # Z, 4 .. 1024

    def __post_init__(self) -> None:
        _check_width(self.width, self.latent_dim)


@dataclass
class RoughModel:
    """The conditional VAE of stage 1: attributes -> rough sketch."""

    width: int = 64  # channels at full resolution
    latent_dim: int = 128  # Z
    prior: Literal["learned", "normal", "noise"] = "learned"  # p(z | a); normal: N(0, I); noise: Di & Patel's
    texture: list[str] = field(default_factory=list)  # attributes of stages 1 and 2, in order; [] = those of TEXTURE
    sketch: Literal["dodge", "ink"] = "dodge"  # how sketches are computed from photos if data.sketch is empty
    sketch_sigma: float = SIGMA  # sigma of the blur, as a share of the image width; 0.005 .. 0.1

    def __post_init__(self) -> None:
        _check_width(self.width, self.latent_dim)
        require(0.005 <= self.sketch_sigma <= 0.1, "sketch_sigma", "a share of the width, 0.005 .. 0.1",
                self.sketch_sigma)  # fmt: skip


@dataclass
class SketchGANModel:
    """The U-Net and the critic of stages 2 and 3."""

    width: int = 64  # channels at full resolution
    colour_dim: int = 0  # face: size of the colour code, for what a sketch does not show (hues, light); 0 .. 64

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
    """Adversarial losses of generator and critic."""

    gan: Literal["logistic", "wgan"] = "logistic"  # logistic with R1, or wgan with the gradient penalty (WGAN-GP)
    gamma_r1: float = 0.1  # weight of half the squared gradient at real faces, `gan: logistic`; 0 = off
    r1_every: int = 1  # steps between two R1 penalties; the weight is multiplied by it (StyleGAN2, lazy regularization)
    lambda_gp: float = 0.0  # weight of (|gradient| - 1)^2, `gan: wgan`; 10 in the WGAN-GP paper
    lambda_mismatch: float = 1.0  # weight of real faces with a wrong request as fakes (Reed et al. 2016); 0 = off
    wrong: Literal["row", "bit"] = "row"  # the wrong request: of another row, or the face's own with one bit flipped

    def __post_init__(self) -> None:
        for name in ("gamma_r1", "lambda_gp", "lambda_mismatch"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        require(self.r1_every >= 1, "r1_every", "at least 1", self.r1_every)


@dataclass
class RoughLoss:
    """The ELBO of the conditional VAE. The likelihood's sigma is computed from the batch (sigma-VAE)."""

    beta: float = 1.0  # weight of the KL divergence, which is in nats
    kl_warmup: float = 0.2  # share of the run during which beta rises from 0

    def __post_init__(self) -> None:
        require(self.beta >= 0, "beta", "at least 0", self.beta)
        require(0 <= self.kl_warmup <= 1, "kl_warmup", "a share in 0 .. 1", self.kl_warmup)


@dataclass
class SketchGANLoss(GANLoss):
    """Stages 2 and 3: adversarial losses and reconstruction losses."""

    lambda_l1: float = 20.0  # weight of L1 to the true picture, for rows that have one
    lambda_redraw: float = 10.0  # weight of L1 between the output's sketch and the input sketch, for the other rows
    lambda_kl: float = 0.01  # weight of the colour code's KL divergence, which is in nats

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lambda_l1", "lambda_redraw", "lambda_kl"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))


# --- train ---------------------------------------------------------------------------------------------------------


@dataclass
class A2FTrain(AdamTrainConfig):
    """Defaults of all systems."""

    beta1: float = 0.0
    beta2: float = 0.99
    lr_warmup: int = 0
    lr_decay: Literal["cosine", "linear", "none"] = "linear"
    lr_hold: float = 0.5
    lr_floor: float = 0.0


@dataclass
class GANTrain(A2FTrain):
    """Generator and critic; `lr` is the generator's."""

    lr_critic: float = 1.0e-3  # Adam, critic
    n_critic: int = 1  # critic steps per generator step; 5 with wgan

    def __post_init__(self) -> None:
        require(self.lr_critic > 0, "lr_critic", "more than 0", self.lr_critic)
        require(self.n_critic >= 1, "n_critic", "at least 1", self.n_critic)
        require(self.batch_size >= 2, "batch_size", "at least 2, because targets are requests of other rows",
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

    dream_share: float = 0.5  # share of a batch: stage 1's sketches for other rows' requests, without a true picture
    noise_path: bool = False  # face: the paper's A2F-noise, which pairs sampled sketches with unrelated photos

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.dream_share < 1, "dream_share", "a share in [0, 1)", self.dream_share)


# --- systems -------------------------------------------------------------------------------------------------------


@dataclass
class Upstream:
    """The run of the previous stage. Step and sha256 are filled in when this run starts."""

    run: str = ""  # its run directory
    step: int = 0  # the checkpoint's step; 0 = the newest
    sha256: str = ""  # sha256 of the checkpoint file


def _refuse_two_sets(data: DataConfig) -> None:
    if data.sets:
        raise UserError("data.sets: this method takes one data set; give data.dataset instead")


@dataclass
class CGANConfig:
    """Noise and attributes -> face: CGAN-64, CGAN-128 and other sizes."""

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
                    "model.nets: study has BatchNorm in its critic, which mixes the samples of a batch, so gradient "
                    "penalties and wrong pairs are not possible; set loss.gan=logistic loss.gamma_r1=0 "
                    "loss.lambda_mismatch=0"
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
    """Stage 2: rough sketch -> sharp sketch. `rough` is the model block of the upstream run, copied at the start."""

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
            raise UserError("train.noise_path: only system: face has this option; expected false with system: sharp")


@dataclass
class FaceConfig:
    """Stage 3: sharp sketch -> face. `rough` and `sharp` are the models of the upstream runs, copied at the start."""

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
