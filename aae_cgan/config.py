"""Every option of the method. Weights are dimensionless. An image's L1 is a mean over pixels, channels and batch."""

from dataclasses import dataclass, field
from typing import Literal

from data import DataConfig
from engine.config import AdamTrainConfig, require
from engine.errors import UserError
from losses.augment import KINDS


@dataclass
class ModelConfig:
    """Networks: sizes, and how a label enters them."""

    condition: Literal["auto", "classes", "attributes"] = "auto"  # the condition y; auto: classes if the data have any
    width: int = 32  # channels of the finest stage, 8 .. 96, a multiple of 8; doubles per stage, at most 8 width
    latent_dim: int = 512  # Z, 15 .. 1024; a small code loses the expression (README, "Code size and PCA")
    linear: Literal["pca", "none"] = "pca"  # pca: networks learn a residual to a frozen PCA; none: DCGAN
    norm: Literal["group", "batch"] = "group"  # in encoder and generator; critics have none
    condition_g: Literal["norm", "concat"] = "norm"  # norm: conditional normalisation; concat: y concat to z
    condition_d: Literal["both", "planes", "projection", "late"] = "both"  # how y enters; both: planes + projection

    def __post_init__(self) -> None:
        good = 8 <= self.width <= 96 and self.width % 8 == 0
        require(good, "width", "8 .. 96, a multiple of 8 (GroupNorm)", self.width)
        require(15 <= self.latent_dim <= 1024, "latent_dim", "15 .. 1024", self.latent_dim)


@dataclass
class LossConfig:
    """Loss weights, dimensionless. 0 switches a term and its network off."""

    # The two adversarial losses.
    gan: Literal["logistic", "wgan"] = "logistic"  # image critic: logistic with R1, or wgan with the gradient penalty
    gan_latent: Literal["logistic", "wgan"] = "wgan"  # latent critic; the AAE paper has logistic
    gamma_r1: float = 0.03  # R1: half the squared gradient at real faces, `gan: logistic`; README, "R1"
    lambda_gp: float = 10.0  # WGAN-GP: (|gradient| - 1)^2, `gan: wgan`
    lambda_gp_latent: float = 1.0  # the same for the latent critic, `gan_latent: wgan`
    n_critic: int = 1  # critic steps per generator step; 5 in WGAN-GP

    # The weighted sum.
    lambda_rec: float = 10.0  # L1 of G(E(x), y) against x
    lambda_face: float = 0.0  # extra pixel weight at mouth and eyes; weights are 1 + this, rescaled to mean 1
    lambda_latent: float = 0.1  # adversarial loss of codes against the latent critic
    lambda_adv: float = 1.0  # adversarial loss of fakes against the image critic; 0 = no image critic
    lambda_code: float = 0.5  # L1 between an edit's code and its source code
    lambda_cycle: float = 0.0  # cycle loss: L1 of an edit mapped back to the source label
    lambda_class: float = 0.0  # cross-entropy of a class head trained on real faces (AC-GAN)
    lambda_guide: float = 0.0  # cross-entropy of the guide, a classifier trained first

    # Pairs of the image critic.
    lambda_mismatch: float = 0.5  # real faces with a wrong label as fakes (Reed et al., arxiv.org/abs/1605.05396)
    mismatch: Literal["bounded", "difference"] = "bounded"  # with wgan: softplus of the difference, or none
    targets: Literal["permute", "own"] = "permute"  # target labels: another row's, or the face's own
    prior_fraction: float = 0.1  # share of fakes from z ~ N(0, I), the rest from E(x); 0 .. 1

    # The guide.
    guide: str = "own"  # own: trained in this run; else the run directory of a guide of evaluation/ (not a judge)
    guide_steps: int = 3600  # first steps of the run, which train the own guide; unused if lambda_guide is 0
    guide_end: float = 1.0  # lambda_guide is 0 after this share of the steps after guide_steps; 0 .. 1

    def __post_init__(self) -> None:
        for name in ("gamma_r1", "lambda_gp", "lambda_gp_latent", "lambda_rec", "lambda_face", "lambda_latent"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("lambda_adv", "lambda_code", "lambda_cycle", "lambda_class", "lambda_guide", "lambda_mismatch"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("prior_fraction", "guide_end"):
            require(0 <= getattr(self, name) <= 1, name, "a share in 0 .. 1", getattr(self, name))
        require(self.n_critic >= 1, "n_critic", "at least 1", self.n_critic)
        require(self.guide_steps >= 0, "guide_steps", "at least 0", self.guide_steps)


@dataclass
class AAECGANTrainConfig(AdamTrainConfig):
    """Learning rates and phases, in addition to the common options. `lr` is that of encoder and generator."""

    lr_critic: float = 5.0e-4  # both critics; 2e-4 with wgan (then also lr)
    lr_guide: float = 5.0e-4  # AdamW, guide
    beta1: float = 0.0  # as in WGAN-GP
    beta2: float = 0.9
    autoencode_steps: int = 0  # phase 1: autoencoder and latent critic only
    gan_steps: int = 0  # phase 2: generator and image critic only, on prior samples; then joint training
    joint_lr: float = 1.0  # factor on all learning rates in the joint phase
    mixed: float = 0.0  # share of fakes with a mixed label, between source and target; 0 .. 1
    unlabelled: float = 0.5  # share of unlabelled faces in a batch, if the data have some; 0 .. 1, 0 = none
    augment: str = ""  # DiffAugment for the image critic: color,translation,cutout,noise or some of them
    lr_warmup: int = 0
    lr_decay: Literal["cosine", "linear", "none"] = "linear"
    lr_hold: float = 0.5
    lr_floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr_critic", "lr_guide", "joint_lr"):
            require(getattr(self, name) > 0, name, "more than 0", getattr(self, name))
        for name in ("autoencode_steps", "gan_steps"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("mixed", "unlabelled"):
            require(0 <= getattr(self, name) <= 1, name, "a share in 0 .. 1", getattr(self, name))
        unknown = [part for part in self.augment.split(",") if part and part not in KINDS]
        require(not unknown, "augment", f"a list of {', '.join(KINDS)}", self.augment)
        super().__post_init__()


@dataclass
class Config:
    """An AAE + CGAN run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: AAECGANTrainConfig = field(default_factory=AAECGANTrainConfig)

    def __post_init__(self) -> None:
        self._check_combinations()
        w, t = self.loss, self.train
        before = self.guide_steps + t.autoencode_steps + t.gan_steps
        if before > t.total_steps or (before == t.total_steps and not (t.autoencode_steps or t.gan_steps)):
            raise UserError(
                f"train.total_steps: {t.total_steps} are fewer than the {before} of loss.guide_steps, "
                "train.autoencode_steps and train.gan_steps together; raise the one or lower the others"
            )
        if t.batch_size < 2:
            raise UserError(f"train.batch_size: expected at least 2, got {t.batch_size}: targets are other rows")
        if not w.lambda_adv and t.autoencode_steps < t.total_steps - self.guide_steps:
            raise UserError(
                "loss.lambda_adv: 0 means no image critic, so every step must be an autoencoder step; "
                f"set train.autoencode_steps={t.total_steps - self.guide_steps}"
            )

    def _check_combinations(self) -> None:
        w = self.loss
        if self.data.sets:
            raise UserError(
                "data.sets: this method takes one data set; give data.dataset, or merge the faces into one folder per "
                "expression (data.dataset=folder)"
            )
        if w.lambda_class and not w.lambda_adv:
            raise UserError(
                "loss.lambda_class: needs the image critic, which loss.lambda_adv=0 switches off; "
                "set loss.lambda_class=0"
            )
        if self.train.mixed == 1 and w.gan == "wgan":
            raise UserError(
                "train.mixed: 1 leaves no fake for the gradient penalty, which skips mixed labels; give less than 1"
            )

    @property
    def guide_steps(self) -> int:
        """Steps that train the own guide; 0 without one."""
        return self.loss.guide_steps if self.loss.lambda_guide and self.loss.guide == "own" else 0
