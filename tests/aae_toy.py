"""Small faces of noise and small configs for the tests of aae_cgan."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aae_cgan.config import AAECGANTrainConfig, Config, LossConfig, ModelConfig
from aae_cgan.linear import fit_linear
from aae_cgan.train import AAECGAN, prepare_linear
from engine import Run
from tests.same import train_with_stops

SIZE, CLASSES = 16, ["angry", "happy", "sad", "neutral"]


def meta(size: int = SIZE, classes: list[str] = CLASSES, attributes: list[str] = (), channels: int = 1) -> dict:  # noqa: B006
    counts = [8] * len(classes)
    return {
        **{"dataset": "noise", "channels": channels, "image_size": size, "landmarks": 0, "eyes": [[-0.3, 0], [0.3, 0]]},
        **{"classes": list(classes), "attributes": list(attributes), "class_counts": {"train": counts}},
        **{"num_train": sum(counts), "keys": [], "fingerprint": "f"},
    }


class Noise:
    """32 faces; a face of class k has a bright band in row k. Batch t is a function of t."""

    def __init__(self, size: int = SIZE, num_classes: int = len(CLASSES)) -> None:
        generator = torch.Generator().manual_seed(1)
        self.label = torch.arange(32) % num_classes
        self.image = 0.3 * torch.randn(32, 1, size, size, generator=generator)
        self.image[torch.arange(32), 0, 2 * self.label] += 0.9
        self.image.clamp_(-1, 1)

    def __len__(self) -> int:
        return 32

    def take(self, rows: Tensor) -> dict[str, Tensor]:
        return {"image": self.image[rows], "label": self.label[rows], "index": rows}

    def fixed(self, n: int, device: Any = "cpu") -> dict[str, Tensor]:
        return self.take(torch.arange(n) % 32)

    def once(self, batch_size: int, device: Any = "cpu") -> Iterator[dict]:
        yield self.take(torch.arange(32))

    def batches(self, batch_size, seed=0, rank=0, world_size=1, device="cpu", first_step=0) -> Iterator[dict]:
        step = first_step
        while True:
            order = torch.randperm(32, generator=torch.Generator().manual_seed(seed * 1000 + step))
            yield self.take(order[rank * batch_size : (rank + 1) * batch_size])
            step += 1


def config(model: dict | None = None, loss: dict | None = None, **train: Any) -> Config:
    cadence = {"log_every": 7, "validate_every": 0, "sample_every": 0, "save_every": 1000, "val_images": 8}
    return Config(
        model=ModelConfig(**{"width": 8, "latent_dim": 16} | (model or {})),
        loss=LossConfig(**{"guide_steps": 4} | (loss or {})),
        train=AAECGANTrainConfig(**{"total_steps": 40, "batch_size": 8, "sample_size": 8} | cadence | train),
    )


def batch(n: int = 8) -> dict[str, Tensor]:
    return Noise().fixed(n)


def build(model: dict | None = None, loss: dict | None = None, **train: Any) -> AAECGAN:
    """A method with fixed initial weights and a fitted linear path."""
    torch.manual_seed(0)
    method = AAECGAN(config(model, loss, **train), meta())
    if method.linear is not None:
        method.linear.set(fit_linear([Noise().image], 16))
    return method.train()


def run(folder: Path, cfg: Config, stops: tuple[int, ...] = (0,)) -> dict:
    """Train in `folder` with a stop after each of `stops`. Returns the last checkpoint."""

    def prepared(run: Run, cfg: Config) -> AAECGAN:
        method = AAECGAN(cfg, meta())
        prepare_linear(run, method, Noise())
        return method

    return train_with_stops(folder, cfg, stops, prepared, Noise())
