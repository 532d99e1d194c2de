"""Small faces and small configs for the tests of a2f."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from a2f.config import (
    CGANConfig,
    CGANModel,
    FaceConfig,
    FaceModel,
    GANTrain,
    RoughConfig,
    RoughModel,
    RoughTrain,
    SharpConfig,
    SketchGANModel,
    SketchGANTrain,
)
from a2f.train import METHODS
from a2f.upstream import prepare_chain, resolve_upstream
from engine import Run, fit
from engine.checkpoint import checkpoints, read_checkpoint
from engine.config import to_yaml
from engine.files import atomic_text

SIZE, ATTRIBUTES = 32, ["Smiling", "Black_Hair", "Male", "Blond_Hair"]  # texture and colour mixed up on purpose


def meta(attributes: list[str] = ATTRIBUTES, channels: int = 3) -> dict:  # noqa: B006
    return {
        **{"dataset": "toy", "channels": channels, "image_size": SIZE, "landmarks": 0, "eyes": None, "crop": "auto"},
        **{"classes": [], "attributes": list(attributes), "num_train": 64, "keys": [], "fingerprint": "f"},
    }


class Toys:
    """64 faces: attribute k is a bright patch in corner k; hue and light differ. Batch t is a function of t."""

    def __init__(self, num: int = 64) -> None:
        g = torch.Generator().manual_seed(1)
        self.attr = (torch.rand(num, len(ATTRIBUTES), generator=g) > 0.5).float()
        self.attr[:, 3] *= 1 - self.attr[:, 1]  # one hair colour at most
        self.image = (
            0.3 * torch.rand(num, 3, 1, 1, generator=g) - 0.5 + 0.1 * torch.randn(num, 3, SIZE, SIZE, generator=g)
        )
        for k in range(len(ATTRIBUTES)):
            y, x = 16 * (k // 2) + 4, 16 * (k % 2) + 4
            self.image[:, :, y : y + 8, x : x + 8] += self.attr[:, k, None, None, None]
        self.image.clamp_(-1, 1)
        self.labels = {"attr": self.attr.numpy()}

    def __len__(self) -> int:
        return len(self.attr)

    def take(self, rows: Any, device: Any = "cpu") -> dict[str, Tensor]:
        rows = torch.as_tensor(np.asarray(rows))
        return {"image": self.image[rows], "attr": self.attr[rows], "index": rows}

    def fixed(self, n: int, device: Any = "cpu") -> dict[str, Tensor]:
        return self.take(torch.arange(n) % len(self))

    def batches(self, batch_size, seed=0, rank=0, world_size=1, device="cpu", first_step=0) -> Iterator[dict]:
        step = first_step
        while True:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed * 1000 + step))
            yield self.take(order[rank * batch_size : (rank + 1) * batch_size])
            step += 1


CADENCE = {"log_every": 7, "validate_every": 0, "sample_every": 0, "save_every": 1000, "val_images": 8}


def config(system: str, model: dict | None = None, loss: dict | None = None, **train: Any) -> Any:
    """A small config of a system; `upstream` is left empty."""
    train = {"total_steps": 6, "batch_size": 8, "sample_size": 8} | CADENCE | train
    kinds = {
        "cgan": (CGANConfig, CGANModel, {"latent_dim": 8}, GANTrain),
        "rough": (RoughConfig, RoughModel, {"latent_dim": 8}, RoughTrain),
        "sharp": (SharpConfig, SketchGANModel, {}, SketchGANTrain),
        "face": (FaceConfig, FaceModel, {"colour_dim": 4}, SketchGANTrain),
    }
    whole, models, defaults, trains = kinds[system]
    weights = dataclasses.replace(whole().loss, **(loss or {}))
    cfg = whole(model=models(**{"width": 8} | defaults | (model or {})), loss=weights, train=trains(**train))
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, image_size=SIZE, attributes=list(ATTRIBUTES)))
    if system in ("sharp", "face"):
        cfg = dataclasses.replace(cfg, rough=RoughModel(width=8, latent_dim=8))
    return dataclasses.replace(cfg, sharp=SketchGANModel(width=8)) if system == "face" else cfg


def build(system: str, model: dict | None = None, loss: dict | None = None, **train: Any) -> Any:
    """A method with the same first weights each time."""
    torch.manual_seed(0)
    return METHODS[system](config(system, model, loss, **train), meta()).train()


def batch(n: int = 8) -> dict[str, Tensor]:
    return Toys().fixed(n)


def run(folder: Path, cfg: Any, stops: tuple[int, ...] = (0,)) -> dict:
    """Train in `folder` as `main` does, leaving after each of `stops` and coming back; the last checkpoint."""
    for stop in stops:
        torch.manual_seed(0)
        part = resolve_upstream(dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, stop_at=stop)))
        here = Run(part, folder, torch.device("cpu"))
        method = METHODS[cfg.system](part, meta())
        if cfg.system in ("sharp", "face"):
            prepare_chain(here, method.chain)
        atomic_text(folder / "config.yaml", to_yaml(part))
        fit(here, method, Toys(), Toys())
    return read_checkpoint(checkpoints(folder)[-1])


def chain(folder: Path, **train: Any) -> dict[str, Path]:
    """Rough, sharp and face runs, each from the one before."""
    runs = {name: folder / name for name in ("rough", "sharp", "face")}
    run(runs["rough"], config("rough", **train))
    for name, before in (("sharp", "rough"), ("face", "sharp")):
        cfg = config(name, **train)
        cfg = dataclasses.replace(cfg, upstream=dataclasses.replace(cfg.upstream, run=str(runs[before])))
        run(runs[name], cfg)
    return runs
