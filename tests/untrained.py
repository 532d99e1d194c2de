"""Run directories of every system with untrained weights and tiny networks; no training, and almost no data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from data import build_faces
from engine import Method, load_config
from engine.checkpoint import name_of, save_checkpoint
from engine.config import read_system, to_yaml
from engine.files import atomic_text
from families import editor_class

DATA = (
    "data: {dataset: synthetic, image_size: 32, num_train: 300, num_val: 40, num_test: 40, attributes: [Smiling, Male]"
)
A2F = DATA.replace("[Smiling, Male]", "[Smiling, Eyeglasses, Male, Black_Hair]") + "}\n"
SYSTEMS = {  # name: (family, configuration)
    "vae": ("vae", DATA + "}\nmodel: {width: 8, latent_dim: 8}\n"),
    "aae_cgan": ("aae_cgan", DATA + "}\nmodel: {width: 8, latent_dim: 16, linear: pca}\nloss: {guide: own}\n"),
    "flow": ("flow", DATA + "}\nmodel: {num_levels: 2, num_steps: 1, width: 8, condition: planes, num_planes: 2}\n"),
    "stargan": ("gcgan", f"system: stargan\n{DATA}}}\nmodel: {{width: 4, blocks: 1, critic_width: 4}}\n"),
    "gcgan": ("gcgan", f"system: gcgan\n{DATA}, pair: true}}\nmodel: {{width: 4, blocks: 1, critic_width: 4}}\n"),
    "interface_gan": (
        "interface_gan",
        DATA + "}\nmodel: {latent_dim: 8, mapping_layers: 1, channel_base: 256, channel_max: 16}\n",
    ),
    "a2f_cgan": ("a2f", f"system: cgan\n{A2F}model: {{width: 8, latent_dim: 8}}\n"),
    "a2f_rough": ("a2f", f"system: rough\n{A2F}model: {{width: 8, latent_dim: 8}}\n"),
    "a2f_sharp": ("a2f", f"system: sharp\n{A2F}model: {{width: 8}}\nrough: {{width: 8, latent_dim: 8}}\n"),
    "a2f_face": (
        "a2f",
        f"system: face\n{A2F}model: {{width: 8, colour_dim: 4}}\nrough: {{width: 8, latent_dim: 8}}\n"
        "sharp: {width: 8}\n",
    ),
}


def build(system: str, run_dir: Path, overrides: Sequence[str] = ()) -> tuple[Any, Method, Any]:
    """The configuration of a system, also written to `run_dir`; its method with untrained weights; its faces."""
    family, text = SYSTEMS[system]
    atomic_text(run_dir / "config.yaml", text)
    editor = editor_class(family)
    config, method_class = editor.config_class, editor.method_class
    if isinstance(config, dict):
        name = read_system(run_dir / "config.yaml", (), config)
        config, method_class = config[name], method_class[name]
    cfg = load_config(config, run_dir / "config.yaml", overrides)
    atomic_text(run_dir / "config.yaml", to_yaml(cfg))
    faces = build_faces(cfg.data)
    torch.manual_seed(0)
    method = method_class(cfg, faces.meta)
    prepare(family, method, faces, run_dir)
    return cfg, method, faces


def untrained(system: str, run_dir: Path) -> Path:
    """Write the run directory of a system at step 0."""
    _, method, faces = build(system, run_dir)
    family = SYSTEMS[system][0]
    state = {"step": 0, "method": method.state_dict(), "meta": faces.meta}
    save_checkpoint(run_dir / "checkpoints" / name_of(0), state)
    atomic_text(run_dir / "meta.json", json.dumps(faces.meta))
    launch = {"family": family, "command": [f"{family}/train.py"], "commit": "0" * 40, "seed": 0}
    atomic_text(run_dir / "environment.json", json.dumps([launch]))
    if family == "interface_gan":
        write_boundaries(run_dir)
    return run_dir


def prepare(family: str, method, faces, run_dir: Path) -> None:
    """What a method takes from the data before its first step; and weights that start at zero are moved."""
    with torch.no_grad():
        for p in method.parameters():
            p += 0.1 * torch.randn_like(p)
    if family == "flow":
        method.fit_labels(faces.train)
        method.warm_start(faces.train.take(list(range(32))))
    if getattr(method, "linear", None) is not None:
        from aae_cgan import linear

        with mock.patch.object(linear, "MAX_EXACT_DIM", 0):  # randomised PCA; it saves ten seconds
            fitted = linear.fit_linear([faces.train.take(list(range(100)))["image"]], method.cfg.model.latent_dim)
        method.linear.set(fitted)
        method.ema_encoder.reset(method.encoder)
        method.ema_generator.reset(method.generator)
    if hasattr(method, "class_codes"):
        from gcgan.geometry import LandmarkBank

        method.use_bank(LandmarkBank.of(faces.train, len(method.labels.names)))
        method.fix_class_codes()
    if family == "a2f":
        from a2f.requests import ATTRIBUTE_TABLE, AttributeTable

        AttributeTable.of(faces.train.labels["attr"], faces.meta["attributes"]).save(run_dir / ATTRIBUTE_TABLE)


def write_boundaries(run_dir: Path) -> None:
    """Boundaries of scores that are linear in w."""
    from engine.checkpoint import save_fields
    from families import open_editor
    from interface_gan.boundary import boundaries_path, fit_boundaries
    from interface_gan.codes import draw_z, map_z
    from interface_gan.score import Scores

    editor = open_editor(run_dir, device="cpu")
    w = map_z(editor.generator, draw_z(2000, 8, 0))
    logits = (w - w.mean(0))[:, :3]
    weights = editor.method.origin.sha256
    scores = Scores(logits, logits, ["happy", "neutral", "Smiling"], ["happy", "neutral"], 0, weights, {"guide": "0"})
    save_fields(fit_boundaries(w, scores, "w"), boundaries_path(run_dir, "w", "ridge_rank"))
