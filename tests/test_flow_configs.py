"""Every config of configs/flow builds and trains one step on generated images."""

from pathlib import Path

import pytest
import torch
from flow_toy import META, pictures

from engine.config import load_config
from flow.config import Config
from flow.train import Glow

FILES = sorted((Path(__file__).resolve().parent.parent / "configs" / "flow").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_config_takes_a_step(path: Path) -> None:
    """Levels, coupling, labels and memory of the config, with fewer steps, channels and pixels."""
    small = ["model.num_steps=1", "model.width=8", "train.batch_size=2", "train.precision=fp32", "train.alarm_every=0"]
    cfg = load_config(Config, path, small)
    size = 2**cfg.model.num_levels * (3 if cfg.data.image_size == 48 else 1)
    channels = 1 if cfg.data.dataset in ("fer2013", "tfd") else 3
    torch.manual_seed(0)
    meta = {"channels": channels, "image_size": size, "attributes": cfg.model.condition_on or META["attributes"]}
    method = Glow(cfg, META | meta)
    attr = torch.randint(0, 2, (2, len(meta["attributes"]))).float()
    batch = {"image": pictures(2, channels, size), "label": torch.tensor([0, -1]), "attr": attr}
    method.warm_start(batch)
    log = method.step(batch, 0)
    assert all(torch.isfinite(value) for value in log.values())
    lines = path.read_text().splitlines()
    assert any(line.startswith(f"# Command: python flow/train.py --config configs/flow/{path.name}") for line in lines)
    assert all(any(line.startswith(f"# {word}:") for line in lines) for word in ("Cost", "Measured"))
