"""Every knob of the method. Weights are dimensionless; an image's L1 is a mean over pixels, channels and batch."""

from dataclasses import dataclass, field
from typing import Literal

from data import DataConfig
from engine import TrainConfig
from engine.config import require
from engine.errors import UserError
from losses.augment import KINDS


@dataclass
class ModelConfig:
    """Networks: sizes, and how a label enters them."""

    condition: Literal["auto", "classes", "attributes"] = "auto"  # what is asked for; auto: classes where there are any
    width: int = 32  # channels of the finest stage, 8 .. 96, a multiple of 8; doubles per stage up to eightfold
    latent_dim: int = 512  # Z, 15 .. 1024; a narrow code loses the expression (README, "Why the code is wide")
    linear: Literal["pca", "none"] = "pca"  # a frozen PCA beside the networks, which learn the rest; none: DCGAN
    norm: Literal["group", "batch"] = "group"  # in encoder and generator; a critic has none
    condition_g: Literal["norm", "concat"] = "norm"  # the label scales every layer or joins z, and moves a PCA's code
    condition_d: Literal["both", "planes", "projection", "late"] = "both"  # planes + projection; late is hardly heard

    def __post_init__(self) -> None:
        good = 8 <= self.width <= 96 and self.width % 8 == 0
        require(good, "width", "8 .. 96, a multiple of 8 (GroupNorm)", self.width)
        require(15 <= self.latent_dim <= 1024, "latent_dim", "15 .. 1024", self.latent_dim)


@dataclass
class LossConfig:
    """Weights of the terms, dimensionless; 0 switches a term and its network off."""

    # The two games.
    gan: Literal["logistic", "wgan"] = "logistic"  # image critic: logistic with R1, or wgan with the gradient penalty
    gan_latent: Literal["logistic", "wgan"] = "wgan"  # latent critic; 1511.05644 plays the logistic game
    gamma_r1: float = 0.03  # of half the squared gradient at real faces (1801.04406), logistic; README, "R1"
    lambda_gp: float = 10.0  # of (|gradient| - 1)^2 (1704.00028), `gan: wgan`
    lambda_gp_latent: float = 1.0  # the same for the latent critic, `gan_latent: wgan`
    n_critic: int = 1  # critic steps to one generator step; 5 with wgan (1704.00028)

    # The weighted sum.
    lambda_rec: float = 10.0  # L1 of G(E(x), y) against x
    lambda_face: float = 0.0  # errors at mouth and eyes count 1 + this times, rescaled to mean 1
    lambda_latent: float = 0.1  # codes must please the latent critic
    lambda_adv: float = 1.0  # edits and draws must please the image critic; 0 = there is none
    lambda_code: float = 0.5  # L1 of an edit's code against the code it came from
    lambda_cycle: float = 0.0  # L1 of the edit led back to its own expression
    lambda_class: float = 0.0  # cross-entropy of a head taught on the critic's real faces (1610.09585)
    lambda_guide: float = 0.0  # cross-entropy of a network taught the expressions before all else

    # What the image critic is shown.
    lambda_mismatch: float = 0.5  # real faces under a wrong label count as fakes (1605.05396)
    mismatch: Literal["bounded", "difference"] = "bounded"  # wgan: softplus of the difference, or the difference itself
    targets: Literal["permute", "own"] = "permute"  # labels asked of the fakes: another row's, or the face's own
    prior_fraction: float = 0.1  # share of the fakes from z ~ N(0, I), the others from E(x); 0 .. 1

    # The guide.
    guide: str = "own"  # own: taught in this run; else the run directory of a guide of evaluation/, never of a judge
    guide_steps: int = 3600  # first steps of the run, which teach the guide; without effect at lambda_guide 0
    guide_end: float = 1.0  # its weight is 0 after this share of the steps that follow its own; 0 .. 1

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
class AAECGANTrainConfig(TrainConfig):
    """Rates and phases, beside what every run has."""

    lr: float = 1.0e-3  # Adam's, of encoder and generator; 2e-4 with wgan
    lr_critic: float = 5.0e-4  # of both critics; 2e-4 with wgan
    lr_guide: float = 5.0e-4  # AdamW's, of the guide
    beta1: float = 0.0  # Adam's decay of the first moment (1704.00028)
    beta2: float = 0.9  # and of the second
    ema_decay: float = 0.999  # of the weights that pictures come from; rises to it with (1 + t) / (10 + t)
    autoencode_steps: int = 0  # first the autoencoder and its latent critic alone
    gan_steps: int = 0  # then the generator and its image critic alone, on draws of the prior; the rest is joint
    joint_lr: float = 1.0  # factor on all rates in the joint phase
    mixed: float = 0.0  # share of the fakes with a label between two classes; 0 .. 1
    unlabelled: float = 0.5  # share of a batch without labels, where the set has such faces; 0 .. 1, 0 = leave them out
    augment: str = ""  # of what the image critic sees: color,translation,cutout or some (2006.10738)
    lr_warmup: int = 0
    lr_decay: Literal["cosine", "linear", "none"] = "linear"
    lr_hold: float = 0.5
    lr_floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "lr_critic", "lr_guide", "joint_lr"):
            require(getattr(self, name) > 0, name, "more than 0", getattr(self, name))
        for name in ("beta1", "beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, "a decay in [0, 1)", getattr(self, name))
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
        self._refuse_what_cannot_work_together()
        w, t = self.loss, self.train
        before = self.guide_steps + t.autoencode_steps + t.gan_steps
        if before > t.total_steps or (before == t.total_steps and not (t.autoencode_steps or t.gan_steps)):
            raise UserError(
                f"train.total_steps: {t.total_steps} are fewer than the {before} of loss.guide_steps, "
                "train.autoencode_steps and train.gan_steps together; raise the one or lower the others"
            )
        if t.batch_size < 2:
            raise UserError(f"train.batch_size: {t.batch_size} leaves no second face to take a target from; at least 2")
        if not w.lambda_adv and t.autoencode_steps < t.total_steps - self.guide_steps:
            raise UserError(
                "loss.lambda_adv: 0 leaves no image critic, so all steps are the autoencoder's; "
                f"set train.autoencode_steps={t.total_steps - self.guide_steps}"
            )

    def _refuse_what_cannot_work_together(self) -> None:
        w = self.loss
        if self.data.sets:
            raise UserError(
                "data.sets: this method learns from one set; give data.dataset, or put the faces of both into one "
                "folder an expression (data.dataset=folder)"
            )
        if w.lambda_class and not w.lambda_adv:
            raise UserError(
                "loss.lambda_class: the head sits on the image critic, which loss.lambda_adv=0 leaves out; "
                "set loss.lambda_class=0"
            )
        if self.train.mixed == 1 and w.gan == "wgan":
            raise UserError(
                "train.mixed: 1 leaves the gradient penalty no fake whose label a real face carries; give less than 1"
            )

    @property
    def guide_steps(self) -> int:
        """Steps that teach the guide; 0 without one of our own."""
        return self.loss.guide_steps if self.loss.lambda_guide and self.loss.guide == "own" else 0
