"""A small StyleGAN2 run on noise images, for the tests of interface_gan."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from toy import ToySet

from interface_gan.config import Config, LossConfig, ModelConfig, StyleGAN2TrainConfig
from interface_gan.train import StyleGAN2
from tests.same import train_with_stops

SIZE = 8


class Noise(ToySet):
    """Three channels."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__(size)
        self.images = torch.rand(32, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def meta(size: int = SIZE) -> dict:
    return {"channels": 3, "image_size": size, "classes": [], "attributes": [], "dataset": "noise"}


def config(model: dict | None = None, loss: dict | None = None, **train: Any) -> Config:
    cadence = {"log_every": 7, "validate_every": 0, "sample_every": 0, "save_every": 1000, "val_images": 8}
    sizes = {"latent_dim": 8, "channel_base": 64, "channel_max": 16, "mapping_layers": 2}
    return Config(
        model=ModelConfig(**sizes | (model or {})),
        loss=LossConfig(**{"r1_every": 3, "path_every": 2} | (loss or {})),
        train=StyleGAN2TrainConfig(**{"total_steps": 20, "batch_size": 8, "sample_size": 8} | cadence | train),
    )


def batch(n: int = 8) -> dict[str, Tensor]:
    return Noise().fixed(n)


def build(model: dict | None = None, loss: dict | None = None, **train: Any) -> StyleGAN2:
    """A method with the same first weights each time."""
    torch.manual_seed(0)
    return StyleGAN2(config(model, loss, **train), meta()).train()


def run(folder: Path, cfg: Config, stops: tuple[int, ...] = (0,)) -> dict:
    """Train in `folder` with a stop after each of `stops`. Returns the last checkpoint."""
    return train_with_stops(folder, cfg, stops, lambda run, cfg: StyleGAN2(cfg, meta()), Noise())
