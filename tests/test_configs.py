"""Every config of vae, flow, aae_cgan and a2f: complete header, and small networks take steps on random faces."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from test_vae_model import vgg_weights
from torch import Tensor

from a2f.config import RoughModel, SketchGANModel
from aae_cgan.schedule import boundaries
from engine import load_config
from engine.config import read_system
from families import editor_class

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SMALL = {
    "vae": ["model.width=8"],
    "flow": ["model.num_steps=1", "model.width=8", "train.precision=fp32", "train.alarm_every=0"],
    "aae_cgan": ["model.width=8", "model.latent_dim=16"],
    "a2f": ["model.width=8"],
}
FILES = [path for family in SMALL for path in sorted((CONFIGS / family).glob("*.yaml"))]


def small_method(path: Path, weights: str) -> torch.nn.Module:
    """The method of a config with narrow networks. weights: a file of VGG-19."""
    family = path.parent.name
    editor = editor_class(family)
    config_class, method_class = editor.config_class, editor.method_class
    if isinstance(config_class, dict):  # several systems: the file says which
        system = read_system(path, (), config_class)
        config_class, method_class = config_class[system], method_class[system]
    more = [f"loss.vgg19_weights={weights}"] if "dfc" in path.stem else []
    cfg = load_config(config_class, path, [*SMALL[family], *more])
    if hasattr(cfg, "rough"):  # a later stage of a2f: its upstream run has a config here
        assert (path.parent / f"{Path(cfg.upstream.run).name}.yaml").is_file()
        stages = {"rough": RoughModel(width=8, latent_dim=8), "sharp": SketchGANModel(width=8)}
        cfg = dataclasses.replace(cfg, **{name: model for name, model in stages.items() if hasattr(cfg, name)})
    return method_class(cfg, meta_of(family, cfg)).train()


def meta_of(family: str, cfg: Any) -> dict:
    """Facts of data as the config describes them; smaller images where the networks allow it."""
    size = cfg.data.image_size
    if family == "flow":
        size = 2**cfg.model.num_levels * (3 if size == 48 else 1)
    elif family == "aae_cgan":
        size = 16
    classes = [] if family == "aae_cgan" and cfg.data.dataset == "celeba" else ["angry", "happy", "sad", "neutral"]
    grey = cfg.data.grayscale or cfg.data.dataset in ("fer2013", "tfd")
    return {
        **{"dataset": cfg.data.dataset, "channels": 1 if grey else 3, "image_size": size, "landmarks": 0},
        **{"classes": classes, "class_counts": {"train": [250] * len(classes)}, "num_train": 1000, "keys": []},
        **{"attributes": list(cfg.data.attributes) or ["Smiling", "Male"], "eyes": [[-0.26, -0.06], [0.26, -0.06]]},
    }


def random_faces(meta: dict) -> dict[str, Tensor]:
    """Four faces; the label of the last one is unknown."""
    faces = {"image": 2 * torch.rand(4, meta["channels"], meta["image_size"], meta["image_size"]) - 1}
    return faces | {
        "attr": torch.randint(2, (4, len(meta["attributes"]))).float(),
        "label": torch.tensor([0, 1, 2, -1]),
    }


def steps_of(method: torch.nn.Module) -> list[int]:
    """The first and the last step of each phase of training."""
    if hasattr(method, "start_phase"):
        return [step for _, first, stop in boundaries(method.cfg) for step in sorted({first, stop - 1})]
    return [getattr(method.cfg.loss, "feature_steps", 0)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_config_has_a_header_and_takes_steps(path: Path, tmp_path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    for text in (f"# Command: python {path.parent.name}/train.py --config configs/{path.parent.name}/{path.name}",
                 "# Cost:", "# Measured:"):  # fmt: skip
        assert text in header
    torch.manual_seed(0)
    method = small_method(path, vgg_weights(tmp_path / "vgg19.pth", 11) if "dfc" in path.stem else "")
    faces = random_faces(method.meta)
    method.warm_start(faces)
    before = [p.clone() for p in method.parameters()]
    for step in steps_of(method):
        logs = method.step(faces, step)
        assert all(torch.as_tensor(value).isfinite().all() for value in logs.values()), step
    assert any(not torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))
