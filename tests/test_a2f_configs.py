"""Every config of a2f: it loads, its header is complete, and its system takes a step on random faces."""

import dataclasses
from pathlib import Path

import pytest
import torch

from a2f.config import CONFIGS, RoughModel, SketchGANModel
from a2f.train import METHODS
from engine import load_config
from engine.config import read_system

CONFIG_FILES = sorted((Path(__file__).parent.parent / "configs" / "a2f").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda p: p.stem)
def test_every_config_has_a_header_and_takes_a_step(path):
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    for word in (f"configs/a2f/{path.name}", "# Cost:", "# Measured:"):
        assert word in header
    system = read_system(path, (), CONFIGS)
    cfg = load_config(CONFIGS[system], path, ["model.width=8"])
    size = cfg.data.image_size
    meta = {"dataset": "toy", "channels": 3, "image_size": size, "attributes": cfg.data.attributes, "classes": []}
    if system in ("sharp", "face"):
        cfg = dataclasses.replace(cfg, rough=RoughModel(width=8, latent_dim=8))
        assert Path(cfg.upstream.run).parts[:2] == ("runs", "a2f")
        assert (path.parent / f"{Path(cfg.upstream.run).name}.yaml").is_file()
    if system == "face":
        cfg = dataclasses.replace(cfg, sharp=SketchGANModel(width=8))
    torch.manual_seed(0)
    method = METHODS[system](cfg, meta).train()
    batch = {
        "image": 2 * torch.rand(4, 3, size, size) - 1,
        "attr": (torch.rand(4, len(cfg.data.attributes)) > 0.5).float(),
    }
    before = [p.clone() for p in method.parameters() if p.requires_grad]
    logs = method.step(batch, 0)
    assert all(torch.as_tensor(value).isfinite() for value in logs.values())
    after = [p for p in method.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
