"""A linear autoencoder on noise images; a run takes milliseconds. `python tests/toy.py --config FILE`."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import engine
from engine import EMA, Grid, Method, TrainConfig


@dataclass
class ToyData:
    size: int = 4  # pixels


@dataclass
class ToyModel:
    width: int = 3  # units
    dropout: float = 0.1  # 0 .. 1


@dataclass
class ToyLoss:
    weight: float = 1.0  # no unit


@dataclass
class ToyTrain(TrainConfig):
    lr: float = 1.0e-2  # per step


@dataclass
class ToyConfig:
    data: ToyData = field(default_factory=ToyData)
    model: ToyModel = field(default_factory=ToyModel)
    loss: ToyLoss = field(default_factory=ToyLoss)
    train: ToyTrain = field(default_factory=ToyTrain)


class ToySet:
    """Noise images; batch t of rank r is a pure function of (seed, t, r)."""

    def __init__(self, size: int, count: int = 32) -> None:
        self.images = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size, seed=0, rank=0, world_size=1, device="cpu", first_step=0) -> Iterator[dict]:
        step = first_step
        while True:
            g = torch.Generator().manual_seed(seed * 1000003 + step)
            rows = torch.randint(len(self), (batch_size * world_size,), generator=g)[rank::world_size]
            yield {"image": self.images[rows].to(device)}
            step += 1

    def fixed(self, n: int, device="cpu") -> dict:
        return {"image": self.images[:n].to(device)}


class Toy(Method):
    best = ("error", "min")

    def __init__(self, cfg, meta) -> None:
        super().__init__(cfg, meta)
        pixels = cfg.data.size**2
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(pixels, cfg.model.width),
            nn.BatchNorm1d(cfg.model.width),
            nn.Dropout(cfg.model.dropout),
            nn.Linear(cfg.model.width, pixels),
        )
        self.ema = EMA(self.net)
        self.register_buffer("warm", torch.zeros(()))
        self.optimizers = {"net": engine.adam(self.net.parameters(), cfg.train.lr)}

    def warm_start(self, batch) -> None:
        self.warm += 1

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        x = batch["image"]
        loss = self.cfg.loss.weight * (self.net(x).float() - x.flatten(1)).square().mean()
        norm = self.minimize(loss, "net")
        self.ema.update(self.net, 0.9)
        return {"loss": loss, "norm": norm}

    def validate(self, batch) -> dict[str, Tensor]:
        x = batch["image"]
        return {"error": (self.ema(x) - x.flatten(1)).square().mean()}

    def sample(self, batch) -> dict[str, Grid]:
        x = batch["image"]
        return {"recon": Grid(torch.stack([x, self.ema(x).view_as(x).clamp(-1, 1)]), ["input", "output"])}


def main(argv: list[str] | None = None) -> None:
    with engine.start(ToyConfig, argv=argv) as run:
        faces = ToySet(run.cfg.data.size)
        engine.fit(run, Toy(run.cfg, {"image_size": run.cfg.data.size}), faces, faces)


if __name__ == "__main__":
    main()
