"""Small flows for the tests: random weights, random labels, and a method on drawn faces."""

from typing import Any

import torch
from torch import Tensor

from flow.config import Config, FlowTrainConfig, LossConfig, ModelConfig
from flow.model import GlowFlow
from flow.train import Glow

META = {
    "dataset": "noise",
    "channels": 3,
    "image_size": 8,
    "classes": ["happy", "sad", "neutral"],
    "attributes": ["Smiling", "Male"],
    "class_counts": {"train": [30, 10, 60]},
    "num_train": 100,
}
VARIANTS = {
    "tanh": {},
    "sigmoid2": {"scale": "sigmoid2"},
    "additive": {"coupling": "additive"},
    "shuffle": {"permutation": "shuffle"},
    "no planes": {"num_planes": 0},
    "top": {"condition": "top"},
    "planes": {"condition": "planes"},
}


def small_flow(
    channels: int = 3,
    size: int = 8,
    noise: float = 0.05,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **model: Any,
) -> GlowFlow:
    """A flow with all its parameters moved by `noise`, ready to encode."""
    torch.manual_seed(seed)
    cfg = ModelConfig(**{"num_levels": 2, "num_steps": 2, "width": 8, "memory": "stored"} | model)
    flow = GlowFlow(channels, size, cfg, 3 if cfg.condition != "none" else 0).to(dtype)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(noise * torch.randn_like(p))
    return made_ready(flow)


def made_ready(flow: GlowFlow) -> GlowFlow:
    flow.initialised.fill_(True)
    flow.ready = True
    return flow


def labels_for(flow: GlowFlow, n: int, seed: int = 0) -> Tensor | None:
    """Any real mixture of labels, or None."""
    if not flow.num_labels:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, flow.num_labels, generator=generator, dtype=torch.float64).to(next(flow.parameters()).dtype)


def pictures(n: int = 4, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    """(n, C, H, H) in [-1, 1] on the 256 grey levels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator).float() / 127.5 - 1


def batch(n: int = 8, channels: int = 3, size: int = 8, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    attr = torch.randint(0, 2, (n, 2), generator=generator).float()
    attr[0, 0] = float("nan")
    label = torch.randint(-1, 3, (n,), generator=generator)
    return {"image": pictures(n, channels, size, seed), "attr": attr, "label": label, "index": torch.arange(n)}


def method(
    meta: dict | None = None, seed: int = 0, loss: dict | None = None, train: dict | None = None, **model: Any
) -> Glow:
    torch.manual_seed(seed)
    model = {"num_levels": 2, "num_steps": 2, "width": 8} | model
    train = {"total_steps": 100, "batch_size": 8} | (train or {})
    cfg = Config(model=ModelConfig(**model), loss=LossConfig(**loss or {}), train=FlowTrainConfig(**train))
    return Glow(cfg, META | (meta or {})).train()
