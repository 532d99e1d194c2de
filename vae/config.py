"""Every option of the variational autoencoder. Loss weights are dimensionless. Every term is in nats per image."""

from dataclasses import dataclass, field
from typing import Literal

from data import DataConfig
from engine.config import AdamTrainConfig, require
from engine.errors import UserError


@dataclass
class ModelConfig:
    """Networks and their sizes."""

    arch: Literal["residual", "burgess", "higgins", "vanilla", "dfc"] = "residual"  # a row of the table in model.py
    latent_dim: int = 128  # Z, >= 1; 10 latents lose the smile (README, "The lost smile")
    width: int = 16  # channels of the first stage, a multiple of 8; `residual` only; 48 to 64 on a GPU
    stages: int | None = None  # number of halvings of the image; null = down to `side` of the table in model.py

    def __post_init__(self) -> None:
        require(self.latent_dim >= 1, "latent_dim", "at least 1", self.latent_dim)
        require(self.width >= 8 and self.width % 8 == 0, "width", "a multiple of 8 (GroupNorm)", self.width)
        require(self.stages is None or 1 <= self.stages <= 8, "stages", "null or 1 to 8", self.stages)


@dataclass
class LossConfig:
    """Terms of the loss, in nats per image."""

    # The rate: the KL terms.
    objective: Literal["autoencoder", "beta", "capacity", "btcvae", "factor"] = "beta"  # autoencoder: z = mu, no KL
    beta: float = 1.0  # >= 0; weight of the KL (beta), of the total correlation (btcvae)
    kl_warmup: float = 0.2  # [0, 1], share of steps over which beta rises from 0, at most 5000 steps
    free_bits: float = 0.0  # nats per latent that are not penalised (arxiv.org/abs/1606.04934); `beta` only
    alpha: float = 1.0  # btcvae: weight of the mutual information
    gamma: float = 1.0  # capacity: of |KL - C|; btcvae: of the dimension-wise KL; factor: of the total correlation
    capacity: float = 50.0  # nats, C_max
    capacity_steps: int = 100_000  # steps over which C rises from 0
    tc_estimator: Literal["mss", "mws"] = "mss"  # stratified or weighted sampling (beta-TCVAE, appendix C)
    lr_discriminator: float = 1.0e-5  # factor: Adam (0.5, 0.9) of the discriminator, as in FactorVAE

    # The distortion in pixels: -log p(x|z), summed over the image.
    pixel: Literal["gaussian", "bernoulli"] = "gaussian"
    sigma: float | None = None  # of x in [-1, 1], > 0; null = calibrated from the error (sigma-VAE)
    lambda_pixel: float = 1.0  # >= 0
    lambda_face: float = 4.0  # >= 0; pixel weight at mouth and eyes is 1 + lambda_face; rescaled to mean 1
    face_grow: float = 0.35  # margin of the boxes around the landmarks of mouth and eyes, in eye distances, >= 0
    face_boxes: list[float] | None = None  # left, top, right, bottom, ... as shares of the side; without landmarks

    # The distortion in the features of a fixed network.
    features: Literal["none", "own", "vgg19"] = "none"  # own: trained in the first feature_steps
    feature_steps: int = 0  # steps that train the own features; the VAE starts after them
    lambda_feature: float = 0.1  # >= 0; at 1 (log form) the features weigh as much as all pixels
    feature_form: Literal["log", "mse"] = "log"  # log: one calibrated Gaussian per tap; mse: as in DFC-VAE
    vgg19_weights: str = ""  # path of torchvision's vgg19 state dict on your disk; nothing is downloaded
    vgg19_taps: list[int] = field(default_factory=lambda: [1, 6, 11])  # ReLU indices: VAE-123; 11, 20, 29: VAE-345

    max_norm: float | None = None  # clip of the VAE's gradient norm; null = none

    def __post_init__(self) -> None:
        for name in ("beta", "free_bits", "alpha", "gamma", "capacity", "lambda_pixel", "lambda_face", "face_grow"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        require(self.lambda_feature >= 0, "lambda_feature", "at least 0", self.lambda_feature)
        require(0 <= self.kl_warmup <= 1, "kl_warmup", "a share in [0, 1]", self.kl_warmup)
        require(self.sigma is None or self.sigma > 0, "sigma", "null (calibrated) or more than 0", self.sigma)
        require(self.capacity_steps >= 1, "capacity_steps", "at least 1", self.capacity_steps)
        require(self.lr_discriminator > 0, "lr_discriminator", "more than 0", self.lr_discriminator)
        require(self.max_norm is None or self.max_norm > 0, "max_norm", "null or more than 0", self.max_norm)
        boxes = self.face_boxes
        valid = boxes is None or (len(boxes) % 4 == 0 and all(0 <= value <= 1 for value in boxes))
        require(valid, "face_boxes", "null or four fractions in [0, 1] a box: left, top, right, bottom", boxes)
        own = self.features == "own"
        steps = self.feature_steps
        require(steps > 0 if own else steps == 0, "feature_steps", "more than 0 with own features, else 0", steps)
        if self.features == "vgg19":
            path = self.vgg19_weights
            require(bool(path), "vgg19_weights", "the path of torchvision's vgg19 state dict (yours)", path)


@dataclass
class VAETrainConfig(AdamTrainConfig):
    """The common options, and DFC-VAE's schedule. The default width and batch learn on a CPU, too."""

    batch_size: int = 8  # images of all ranks together; 64 to 128 on a GPU
    lr_halve_every: int = 0  # halve the rate after this number of steps, as DFC-VAE does; 0 = never

    def __post_init__(self) -> None:
        require(self.lr_halve_every >= 0, "lr_halve_every", "at least 0", self.lr_halve_every)
        super().__post_init__()


@dataclass
class Config:
    """A VAE run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: VAETrainConfig = field(default_factory=VAETrainConfig)

    def __post_init__(self) -> None:
        w = self.loss
        if w.feature_steps >= self.train.total_steps:
            raise UserError(
                f"loss.feature_steps: {w.feature_steps} of train.total_steps={self.train.total_steps} leave none for "
                "the autoencoder; lower the first or raise the second"
            )
        if w.objective == "factor" and self.train.batch_size % 2:
            raise UserError(
                f"train.batch_size: FactorVAE splits the batch in two halves, {self.train.batch_size} is odd"
            )
        if w.lambda_pixel == 0 and (w.features == "none" or w.lambda_feature == 0):
            raise UserError("loss.lambda_pixel: 0 without features leaves nothing to reconstruct; raise one of them")

    @property
    def vae_steps(self) -> int:
        """Number of training steps of the autoencoder."""
        return self.train.total_steps - self.loss.feature_steps

    @property
    def warmup_steps(self) -> int:
        """Steps over which beta rises from 0, counted from the autoencoder's first."""
        return min(5000, round(self.loss.kl_warmup * self.vae_steps))
