"""Converted generators give the same images as their own formulas, and a file cannot run code."""

import math
import os
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import UserError
from interface_gan.config import ModelConfig
from interface_gan.convert import convert, write_run
from interface_gan.model import Generator

Z, SIZE = 8, 32


def rosinality_state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under that project's names, in its shapes."""
    torch.manual_seed(seed)
    state = {}

    def styled(at: str, inputs: int, outputs: int, kernel: int) -> None:
        state[f"{at}.conv.weight"] = torch.randn(1, outputs, inputs, kernel, kernel)
        state[f"{at}.conv.modulation.weight"] = torch.randn(inputs, Z)
        state[f"{at}.conv.modulation.bias"] = 1 + 0.1 * torch.randn(inputs)

    for i in (1, 2, 3):
        state[f"style.{i}.weight"], state[f"style.{i}.bias"] = torch.randn(Z, Z) / 0.01, torch.randn(Z)
    state["input.input"] = torch.randn(1, 16, 4, 4)
    plan = [("conv1", 16, 16, 4), ("convs.0", 16, 8, 8), ("convs.1", 8, 8, 8), ("convs.2", 8, 4, 16)]
    plan += [("convs.3", 4, 4, 16), ("convs.4", 4, 2, 32), ("convs.5", 2, 2, 32)]
    for i, (at, inputs, outputs, size) in enumerate(plan):
        styled(at, inputs, outputs, 3)
        state[f"{at}.noise.weight"], state[f"{at}.activate.bias"] = torch.randn(1), torch.randn(outputs)
        state[f"noises.noise_{i}"] = torch.randn(1, 1, size, size)
    for at, inputs in (("to_rgb1", 16), ("to_rgbs.0", 8), ("to_rgbs.1", 4), ("to_rgbs.2", 2)):
        styled(at, inputs, 3, 1)
        state[f"{at}.bias"] = torch.randn(1, 3, 1, 1)
    return state


def fir(h: Tensor, up: int, pad: tuple[int, int], gain: float) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = (torch.outer(taps, taps) / 64 * gain).expand(h.shape[1], 1, 4, 4)
    wide = h.new_zeros(*h.shape[:2], h.shape[2] * up, h.shape[3] * up)
    wide[:, :, ::up, ::up] = h
    return F.conv2d(F.pad(wide, [*pad, *pad]), kernel, groups=h.shape[1])


def rosinality_picture(s: dict[str, Tensor], z: Tensor) -> Tensor:
    """The forward pass of that project, written down anew: one kernel a sample, grouped."""

    def linear(x: Tensor, at: str, multiplier: float) -> Tensor:
        scale = multiplier / math.sqrt(x.shape[1])
        return F.linear(x, s[f"{at}.weight"] * scale, s[f"{at}.bias"] * multiplier)

    def modulated(x: Tensor, w: Tensor, at: str, demodulate: bool, up: bool) -> Tensor:
        weight = s[f"{at}.conv.weight"]
        n, o, i, k = len(x), *weight.shape[1:4]
        style = linear(w, f"{at}.conv.modulation", 1.0).view(n, 1, i, 1, 1)
        kernel = weight / math.sqrt(i * k * k) * style
        if demodulate:
            kernel = kernel * torch.rsqrt(kernel.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        x = x.reshape(1, n * i, *x.shape[2:])
        if up:
            kernel = kernel.transpose(1, 2).reshape(n * i, o, k, k)
            x = F.conv_transpose2d(x, kernel, stride=2, groups=n)
            return fir(x.view(n, o, *x.shape[2:]), 1, (1, 1), 4)
        x = F.conv2d(x, kernel.view(n * o, i, k, k), padding=k // 2, groups=n)
        return x.view(n, o, *x.shape[2:])

    def styled(x: Tensor, w: Tensor, at: str, noise: Tensor, up: bool = False) -> Tensor:
        x = modulated(x, w, at, True, up) + s[f"{at}.noise.weight"] * noise
        return F.leaky_relu(x + s[f"{at}.activate.bias"].view(1, -1, 1, 1), 0.2) * 2**0.5

    def pixels(x: Tensor, w: Tensor, at: str) -> Tensor:
        return modulated(x, w, at, False, False) + s[f"{at}.bias"]

    w = z * torch.rsqrt(z.pow(2).mean(1, keepdim=True) + 1e-8)
    for i in (1, 2, 3):
        w = F.leaky_relu(linear(w, f"style.{i}", 0.01), 0.2) * 2**0.5
    x = styled(s["input.input"].repeat(len(z), 1, 1, 1), w, "conv1", s["noises.noise_0"])
    rgb = pixels(x, w, "to_rgb1")
    for i in (0, 1, 2):
        x = styled(x, w, f"convs.{2 * i}", s[f"noises.noise_{2 * i + 1}"], up=True)
        x = styled(x, w, f"convs.{2 * i + 1}", s[f"noises.noise_{2 * i + 2}"])
        rgb = fir(rgb, 2, (2, 1), 4) + pixels(x, w, f"to_rgbs.{i}")
    return rgb


def test_rosinality_weights_give_the_same_image(tmp_path):
    state, z = rosinality_state(), torch.randn(3, Z)
    torch.save({"g_ema": state, "latent_avg": torch.zeros(Z)}, tmp_path / "g.pt")
    method = convert(tmp_path / "g.pt", "rosinality")
    assert torch.allclose(method.ema_generator(z), rosinality_picture(state, z), atol=1e-3)
    w = method.generator.mapping(torch.randn(4000, Z)).mean(0)
    assert torch.allclose(method.generator.mapping.w_avg, w, atol=0.1)


def test_a_converted_file_is_a_run(tmp_path):
    from engine import load
    from interface_gan.config import Config
    from interface_gan.train import StyleGAN2

    torch.save(rosinality_state(), tmp_path / "g.pt")
    method = convert(tmp_path / "g.pt", "rosinality")
    write_run(method, tmp_path / "run")
    z = torch.randn(2, Z)
    assert torch.equal(load(tmp_path / "run", Config, StyleGAN2).ema_generator(z), method.ema_generator(z))
    with pytest.raises(UserError, match="already"):
        write_run(method, tmp_path / "run")


def nvlabs_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Generator]:
    """A .pkl as that project writes it: a persistent object that carries source text and the module's attributes."""
    persistence, dnnlib = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta):  # their function would execute meta["module_src"]
        raise AssertionError("the file's code was run")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    for name in ("torch_utils", "dnnlib"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", persistence)
    monkeypatch.setitem(sys.modules, "dnnlib.util", dnnlib)
    sys.modules["torch_utils"].persistence, sys.modules["dnnlib"].util = persistence, dnnlib

    class Persistent:
        def __init__(self, state):
            self.meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "state": state}

        def __reduce__(self):
            return _reconstruct_persistent_obj, (self.meta,)

    def wrapped(module: nn.Module) -> Persistent:
        children = {name: wrapped(child) for name, child in module.named_children() if name not in ("blur", "skip")}
        buffers = dict(module._buffers)
        if hasattr(module, "blur"):
            buffers["resample_filter"] = torch.ones(4, 4)
        return Persistent({"_parameters": dict(module._parameters), "_buffers": buffers, "_modules": children})

    torch.manual_seed(0)
    net = Generator(3, SIZE, ModelConfig(latent_dim=Z, channel_base=64, channel_max=16))
    net.mapping.w_avg.normal_()
    path = folder / "network.pkl"
    path.write_bytes(pickle.dumps({"G": None, "G_ema": wrapped(net), "training_set_kwargs": {"path": "x"}}))
    return path, net


def test_nvlabs_weights_are_read_without_running_code(tmp_path, monkeypatch):
    path, net = nvlabs_file(tmp_path, monkeypatch)
    method, z = convert(path, "nvlabs"), torch.randn(2, Z)
    assert torch.equal(method.ema_generator(z, psi=0.7), net(z, psi=0.7))


class Hostile:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("layout", ["nvlabs", "rosinality"])
def test_a_malicious_file_runs_no_code(layout, tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Hostile(tmp_path / "made")}))
    with pytest.raises(UserError):
        convert(path, layout)
    torch.save({"g_ema": Hostile(tmp_path / "made")}, path)
    with pytest.raises(UserError):
        convert(path, layout)
    assert not (tmp_path / "made").exists()


def test_invalid_files_are_user_errors(tmp_path):
    state = rosinality_state()
    del state["convs.3.activate.bias"]
    torch.save(state, tmp_path / "short.pt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "text.pkl").write_text("hello")
    for name, layout, words in (
        ("short.pt", "rosinality", "convs.3.activate.bias"),
        ("other.pt", "rosinality", "g_ema"),
        ("text.pkl", "nvlabs", "intact"),
        ("none.pkl", "nvlabs", "does not exist"),
    ):
        with pytest.raises(UserError, match=words):
            convert(tmp_path / name, layout)
