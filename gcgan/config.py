"""Options of the three systems. Weights have no unit. The L1 of images is a mean over pixels, channels and batch."""

from dataclasses import dataclass, field
from typing import Literal

from data import DataConfig
from engine import TrainConfig
from engine.config import require
from engine.errors import UserError


@dataclass
class ModelConfig:
    """Generator and critic."""

    conditioning: Literal["cin", "planes"] = "cin"  # cin: scale and shift of each InstanceNorm; planes: channels of x
    output: Literal["skip", "warp", "mask", "tanh"] = "skip"  # how x_fake is made from x and the features (model.py)
    width: int = 64  # channels of the generator's first layer, >= 4
    blocks: int = 6  # residual blocks at a quarter of the side, >= 1
    critic: Literal["class+projection", "class", "planes+projection"] = "class+projection"  # input of the label
    critic_width: int = 64  # channels of the critic's first layer, >= 4; doubled with each halving of the side
    max_width: int = 512  # largest number of channels of the critic; the reference code has no limit (2048)

    def __post_init__(self) -> None:
        for name, least in (("width", 4), ("blocks", 1), ("critic_width", 4), ("max_width", 8)):
            require(getattr(self, name) >= least, name, f"at least {least}", getattr(self, name))


@dataclass
class LabelModelConfig(ModelConfig):
    """The options of `ModelConfig`, and how edits are computed from a label."""

    mirror: bool = False  # mean of the edits of a face and of its mirror image; twice the cost of an edit


@dataclass
class LossConfig:
    """Weights of the terms; 0 switches a term off."""

    gan: Literal["logistic", "wgan"] = "logistic"  # logistic with R1, or wgan with the gradient penalty
    gamma_r1: float = 0.05  # of R1, half the squared gradient of the patch mean at real faces; lower for small images
    lambda_gp: float = 10.0  # weight of (|gradient of the patch sum| - 1)^2, with `gan: wgan`
    n_critic: int = 1  # critic updates per generator update; 5 in the reference code
    lambda_mismatch: float = 1.0  # real faces under a wrong label count as fakes (arXiv 1605.05396); needs a projection
    lambda_class_d: float = 1.0  # class loss of the critic's head on real faces
    lambda_class_g: float = 1.0  # class loss of that head on fakes, for the generator
    lambda_cycle: float = 10.0  # L1 of x and the fake that was changed back to the own label
    lambda_self: float = 0.0  # L1 of x and the fake of the own label; paired: squared error
    lambda_triple: float = 0.0  # L1 of the fake and a fake by way of another label (arXiv 1811.03492); 2 more passes
    lambda_face: float = 0.0  # extra pixel weight at eyes and mouth in these terms, rescaled to mean 1
    pairs: Literal["auto", "paired", "unpaired"] = "auto"  # paired: the target is another photo of the person; no cycle
    lambda_pixel: float = 100.0  # paired: error against the person's own photo with the target expression
    pixel: Literal["l2", "l1"] = "l2"  # that error; with l1, `model.output=skip` stays at x_fake = x

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float):
                require(value >= 0, name, "at least 0", value)
        require(self.n_critic >= 1, "n_critic", "at least 1", self.n_critic)


@dataclass
class GeometryModelConfig(ModelConfig):
    """The options of `ModelConfig`, and the landmark networks."""

    code_dim: int = 8  # size of an expression code (unit length); a large code also contains the person

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.code_dim >= 2, "code_dim", "at least 2", self.code_dim)


@dataclass
class GeometryLossConfig(LossConfig):
    """The options of `LossConfig`, the losses of the landmark networks, and more losses of the generator."""

    lambda_cycle: float = 10.0  # unpaired: L1 of x and the fake that was changed back with the own code
    lambda_geometry: float = 1.0  # squared distance of the fake's code (of the critic's landmarks) to the target
    lambda_landmarks: float = 10.0  # squared error of the critic's landmarks on real faces
    geometry_steps: int = 1000  # first steps, in which only the landmark networks are trained
    geometry_batch: int = 64  # batch size of these steps
    geometry_decoder: Literal["swap", "plain"] = "swap"  # swap: rebuild another face of the same person
    geometry_from: str = ""  # a run whose landmark networks are used instead; "" = trained here
    lambda_contrast: float = 1.0  # weight of the contrastive loss
    margin: float = 1.0  # smallest squared distance of codes of two expressions; 1 = 60 degrees
    point_noise: float = 0.045  # standard deviation of the noise on the landmarks of the encoder, in eye distances

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.geometry_steps >= 0, "geometry_steps", "at least 0", self.geometry_steps)
        require(self.geometry_batch >= 2, "geometry_batch", "at least 2", self.geometry_batch)


AUGMENTS = ("color", "translation", "cutout")


@dataclass
class GANTrainConfig(TrainConfig):
    """Learning rates and averaged weights, in addition to the common options."""

    lr: float = 2.0e-4  # learning rate of the generator (Adam)
    lr_critic: float = 2.0e-4  # learning rate of the critic (Adam)
    beta1: float = 0.0  # decay of Adam's first moment
    beta2: float = 0.9  # decay of Adam's second moment
    ema_decay: float = 0.999  # decay of the averaged weights, at most (1 + t) / (10 + t); 0 = no average
    label_mix: float = 0.0  # share of the fakes with a label between own and target; 0 .. 1
    augment: str = ""  # of the critic's input: color,translation,cutout,noise or some of them (arXiv 2006.10738)
    lr_warmup: int = 0
    lr_decay: Literal["cosine", "linear", "none"] = "linear"
    lr_hold: float = 0.5
    lr_floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "lr_critic"):
            require(getattr(self, name) > 0, name, "more than 0", getattr(self, name))
        for name in ("beta1", "beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, "a decay in [0, 1)", getattr(self, name))
        require(0 <= self.label_mix <= 1, "label_mix", "a share in 0 .. 1", self.label_mix)
        unknown = [part for part in self.augment.split(",") if part and part not in AUGMENTS]
        require(not unknown, "augment", f"a list of {', '.join(AUGMENTS)}", self.augment)
        super().__post_init__()


@dataclass
class GeometryTrainConfig(GANTrainConfig):
    """The options of `GANTrainConfig`, and the learning rate of the landmark networks."""

    lr_geometry: float = 1.0e-3  # of the landmark networks (Adam, betas (0.5, 0.999))


@dataclass
class StarGANConfig:
    """StarGAN: one generator for all labels."""

    system: str = "stargan"
    data: DataConfig = field(default_factory=DataConfig)
    model: LabelModelConfig = field(default_factory=LabelModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: GANTrainConfig = field(default_factory=GANTrainConfig)

    def __post_init__(self) -> None:
        w, t = self.loss, self.train
        if self.data.image_size % 4:
            raise UserError(f"data.image_size: expected a multiple of 4, got {self.data.image_size}")
        if t.batch_size < 2:
            raise UserError(
                f"train.batch_size: expected at least 2, got {t.batch_size}; the target is the label of another face"
            )
        if w.lambda_mismatch and self.model.critic == "class":
            raise UserError(
                "loss.lambda_mismatch: a critic with only a class head gets no label; "
                "set loss.lambda_mismatch=0 or model.critic=class+projection"
            )
        if self.paired and not self.data.pair:
            raise UserError("loss.pairs: paired needs two photos of a person; set data.pair=true")
        if t.label_mix == 1 and w.gan == "wgan" and self.model.critic != "class":
            raise UserError(
                "train.label_mix: expected less than 1, got 1; the gradient penalty needs fakes with the label of a "
                "real face"
            )

    @property
    def paired(self) -> bool:
        """Whether a batch has a photo of the same person with the target expression."""
        return self.loss.pairs == "paired" or (self.loss.pairs == "auto" and self.data.pair)


@dataclass
class GCGANConfig(StarGANConfig):
    """GC-GAN: the condition of the generator is a code of landmarks instead of a label."""

    system: str = "gcgan"
    model: GeometryModelConfig = field(default_factory=GeometryModelConfig)
    loss: GeometryLossConfig = field(default_factory=GeometryLossConfig)
    train: GeometryTrainConfig = field(default_factory=GeometryTrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        w = self.loss
        if self.data.sets:
            raise UserError("data.sets: GC-GAN uses one data set; give data.dataset, or use system: stargan")
        if self.geometry_steps >= self.train.total_steps:
            raise UserError(
                f"train.total_steps: {self.train.total_steps} are not more than the {w.geometry_steps} of "
                "loss.geometry_steps; give more steps"
            )

        if w.lambda_geometry and self.model.critic == "planes+projection":
            raise UserError("model.critic: planes+projection has no landmark head; set model.critic=class+projection")

    @property
    def geometry_steps(self) -> int:
        """Steps in which only the landmark networks are trained; 0 if they come from another run."""
        return 0 if self.loss.geometry_from else self.loss.geometry_steps


@dataclass
class PaperModelConfig:
    """The networks of the authors; their sizes are fixed."""

    code_dim: int = 32  # size of a landmark code, after ReLU


@dataclass
class PaperLossConfig:
    """The weights of the authors. L1 and squared errors are sums over the values of a face, means over the batch."""

    lambda_gp: float = 10.0  # weight of (|gradient| - 1)^2
    n_critic: int = 5  # critic updates per batch
    lambda_class: float = 1.0e-4  # cross-entropy of D on real faces, of G on fakes
    lambda_adv: float = 1.0e-3  # weight of -D(fake), for G_dec and E
    lambda_feature: float = 1.0e-3  # L1 of the last features of D, for G_enc
    lambda_geometry: float = 1.0e-4  # weight of the whole landmark loss
    margin: float = 5.0  # smallest squared distance of codes of two expressions

    def __post_init__(self) -> None:
        require(self.n_critic >= 1, "n_critic", "at least 1", self.n_critic)


@dataclass
class PaperTrainConfig(TrainConfig):
    """The learning rates of the authors."""

    batch_size: int = 64
    lr: float = 3.0e-4  # learning rate of each network (Adam)
    beta1: float = 0.5
    beta2: float = 0.999
    rate_decay: float = 0.98  # factor of the learning rates ...
    rate_every: int = 20_000  # ... each time after this number of steps
    lr_warmup: int = 0
    lr_decay: Literal["cosine", "linear", "none"] = "none"


@dataclass
class PaperGCGANConfig:
    """GC-GAN with the networks and losses of its authors (gcgan/paper.py)."""

    system: str = "gcgan_paper"
    data: DataConfig = field(default_factory=lambda: DataConfig(pair=True))
    model: PaperModelConfig = field(default_factory=PaperModelConfig)
    loss: PaperLossConfig = field(default_factory=PaperLossConfig)
    train: PaperTrainConfig = field(default_factory=PaperTrainConfig)

    def __post_init__(self) -> None:
        if self.data.image_size != 64:
            raise UserError(f"data.image_size: expected 64 for the networks of the authors, got {self.data.image_size}")
        if not self.data.pair:
            raise UserError("data.pair: this system needs two photos of each person; set data.pair=true")
        if self.train.batch_size < 2:
            raise UserError(f"train.batch_size: BatchNorm needs at least 2, got {self.train.batch_size}")


CONFIGS = {"stargan": StarGANConfig, "gcgan": GCGANConfig, "gcgan_paper": PaperGCGANConfig}
