"""Every experiment of configs/flow: it is read, and its network starts and learns one step on stand-in pictures."""

from pathlib import Path

import pytest
import torch
from flow_toy import META, pictures

from engine.config import load_config
from flow.config import Config
from flow.train import Glow

FILES = sorted((Path(__file__).resolve().parent.parent / "configs" / "flow").glob("*.yaml"))


def test_there_is_one_file_for_every_set() -> None:
    assert {f.stem.split("_")[0] for f in FILES} == {
        "synthetic32", "fer2013", "tfd48", "celeba64", "celeba256", "folder64"
    }  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_config_starts_and_learns(path: Path) -> None:
    """Its own levels, coupling, labels and memory; fewer steps, channels and pixels than a CPU would feel."""
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
