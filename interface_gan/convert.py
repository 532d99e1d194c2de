"""Convert a published StyleGAN2 generator to a run directory: `python -m interface_gan.convert FILE --from LAYOUT ...`.

| layout | file |
| --- | --- |
| nvlabs | a .pkl of stylegan2-ada-pytorch: {"G_ema": ...} |
| rosinality | a .pt of stylegan2-pytorch: {"g_ema": state dict}, or the state dict alone |

No code of the file runs. A .pt is read with `weights_only`. A .pkl is read by an unpickler that allows nine harmless
names only. It ignores the source code of networks in such files.

The new run has a discriminator with random weights, because the files have none. Image sizes above 256 px are refused,
because `data/` does not support them.
"""

from __future__ import annotations

import argparse
import io
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import DataConfig
from editing.convert import write_run
from engine import UserError
from engine.errors import exit_on_user_error
from interface_gan.codes import draw_z, map_z
from interface_gan.config import Config, ModelConfig
from interface_gan.train import StyleGAN2

Weights = dict[str, Tensor]
NUM_CODES = 10_000  # samples for w_avg if a file has none


# --- reading ---------------------------------------------------------------------------------------------------------


class Persistent:
    """Placeholder for a pickled network. It has the attributes of the network, but not its code."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.state = meta["state"]

    def tensors(self, prefix: str = "") -> Weights:
        """Parameters and buffers, by dotted name."""
        found = {
            f"{prefix}{name}": value
            for kind in ("_parameters", "_buffers")
            for name, value in self.state.get(kind, {}).items()
            if value is not None
        }
        for name, module in self.state.get("_modules", {}).items():
            found |= module.tensors(f"{prefix}{name}.")
        return found


class EasyDict(dict):
    """The dict class in these files."""


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


KNOWN = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Persistent,
    ("dnnlib.util", "EasyDict"): EasyDict,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "scalar"): np._core.multiarray.scalar,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy._core.multiarray", "scalar"): np._core.multiarray.scalar,
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
}


class SafeUnpickler(pickle.Unpickler):
    """An unpickler that allows only the names in `KNOWN`. It refuses any other name before it calls anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise UserError(f"the file needs {module}.{name}, which could run code, so it was not read")
        return KNOWN[module, name]


def read_nvlabs(path: Path) -> Weights:
    """Read the averaged generator of a .pkl as float32 tensors."""
    try:
        with path.open("rb") as file:
            held = SafeUnpickler(file).load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: expected an intact .pkl of stylegan2-ada-pytorch ({str(error)[:100]})") from None
    if not isinstance(held, dict) or not isinstance(held.get("G_ema"), Persistent):
        raise UserError(f"{path}: expected a .pkl with a network under 'G_ema'")
    return {name: value.detach().float() for name, value in held["G_ema"].tensors().items()}


def read_rosinality(path: Path) -> Weights:
    """Read `g_ema` of a .pt, or the state dict itself."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UserError(f"{path}: expected an intact .pt file with tensors only ({reason})") from None
    state = held.get("g_ema", held) if isinstance(held, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if "input.input" not in tensors:
        raise UserError(f"{path}: expected a generator of stylegan2-pytorch ('g_ema' with 'input.input')")
    return {name: value.float() for name, value in tensors.items()}


# --- our names -------------------------------------------------------------------------------------------------------


def from_nvlabs(weights: Weights) -> Weights:
    """The names are the same. The filters are removed, because they are constants here."""
    if any(name.startswith("mapping.embed") for name in weights):
        raise UserError("this generator is conditional; expected a generator without labels")
    return {name: value for name, value in weights.items() if not name.endswith("resample_filter")}


def from_rosinality(weights: Weights) -> Weights:
    """Rename the weights. Convolutions have the shape (1, O, I, k, k) there, and a scale that is applied in forward."""
    found = {}
    layers = sum(name.startswith("style.") and name.endswith(".weight") for name in weights)
    for i in range(layers):
        for part in ("weight", "bias"):
            found[f"mapping.fc{i}.{part}"] = weights[f"style.{i + 1}.{part}"]
    found["synthesis.b4.const"] = weights["input.input"][0]
    convs = sum(name.startswith("convs.") and name.endswith("conv.weight") for name in weights)
    theirs = ["conv1", *(f"convs.{i}" for i in range(convs))]
    for i, name in enumerate(theirs):
        size = 4 * 2 ** ((i + 1) // 2)
        at = f"synthesis.b{size}.conv{'1' if i % 2 == 0 else '0'}"
        kernel = weights[f"{name}.conv.weight"][0]
        found[f"{at}.weight"] = kernel / math.sqrt(kernel[0].numel())
        found[f"{at}.bias"] = weights[f"{name}.activate.bias"]
        found[f"{at}.noise_strength"] = weights[f"{name}.noise.weight"].reshape(())
        found[f"{at}.noise_const"] = weights[f"noises.noise_{i}"][0, 0]
        for part in ("weight", "bias"):
            found[f"{at}.affine.{part}"] = weights[f"{name}.conv.modulation.{part}"]
    for i, name in enumerate(["to_rgb1", *(f"to_rgbs.{j}" for j in range(convs // 2))]):
        at = f"synthesis.b{4 * 2**i}.torgb"
        found[f"{at}.weight"] = weights[f"{name}.conv.weight"][0]
        found[f"{at}.bias"] = weights[f"{name}.bias"].flatten()
        for part in ("weight", "bias"):
            found[f"{at}.affine.{part}"] = weights[f"{name}.conv.modulation.{part}"]
    return found


LAYOUTS = {"nvlabs": (read_nvlabs, from_nvlabs), "rosinality": (read_rosinality, from_rosinality)}


# --- a run -----------------------------------------------------------------------------------------------------------


def convert(path: Path, layout: str, eyes: tuple[float, ...] | None = None) -> StyleGAN2:
    """A `StyleGAN2` whose generator and averaged generator have the file's weights."""
    if not path.is_file():
        raise UserError(f"{path}: this file does not exist")
    read, rename = LAYOUTS[layout]
    try:
        weights = rename(read(path))
    except KeyError as error:
        raise UserError(f"{path}: {error} is missing; expected a complete file in the layout {layout}") from None
    method = empty_method(weights, path, eyes)
    state = method.generator.state_dict()
    missing = [name for name in state if name not in weights and not name.endswith(("resample_filter", "w_avg"))]
    unknown = [name for name in weights if name not in state]
    wrong = [name for name in weights if name in state and weights[name].shape != state[name].shape]
    for what, names in (("lacks", missing), ("has an unknown", unknown), ("has another shape of", wrong)):
        if names:
            raise UserError(f"{path}: {what} {names[0]} ({len(names)} in total); expected StyleGAN2 with skips")
    method.generator.load_state_dict(state | weights)
    if "mapping.w_avg" not in weights:
        z = draw_z(NUM_CODES, method.cfg.model.latent_dim, 0)
        method.generator.mapping.w_avg.copy_(map_z(method.generator, z).mean(0))
    method.ema_generator.reset(method.generator)
    return method


def empty_method(weights: Weights, path: Path, eyes: tuple[float, ...] | None) -> StyleGAN2:
    """A `StyleGAN2` with the sizes of the weights."""
    sizes = {int(name.split(".")[1][1:]): name for name in weights if name.endswith("torgb.weight")}
    if not sizes:
        raise UserError(f"{path}: there are no torgb layers; only StyleGAN2 with skip connections is supported")
    widths = {size: weights[name].shape[1] for size, name in sizes.items()}
    size = max(sizes)
    model = ModelConfig(
        latent_dim=weights["mapping.fc0.weight"].shape[1],
        mapping_layers=sum(name.startswith("mapping.fc") and name.endswith("weight") for name in weights),
        channel_base=size * widths[size],
        channel_max=max(widths.values()),
    )
    cfg = Config(DataConfig(dataset="celeba", image_size=size), model)
    channels = weights[sizes[size]].shape[0]
    meta = {"dataset": "imported", "channels": channels, "image_size": size, "crop": None, "eyes": eyes}
    meta |= {"classes": [], "attributes": [], "class_counts": {}, "landmarks": 0, "num_train": 0}
    return StyleGAN2(cfg, meta | {"keys": ["image"], "fingerprint": "imported"})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a .pkl or .pt with a StyleGAN2 generator")
    parser.add_argument("--from", dest="layout", choices=list(LAYOUTS), required=True, help="the layout of the file")
    parser.add_argument("--run-dir", type=Path, required=True, help="the new run directory")
    parser.add_argument("--eyes", help="x1,y1,x2,y2: mean eye positions of its images in -1 .. 1, to align photos")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        eyes = None
        if args.eyes:
            eyes = tuple(float(v) for v in args.eyes.split(","))
        method = convert(args.file, args.layout, eyes)
        write_run(method, args.run_dir)
        m = method.cfg.model
        print(f"{method.meta['image_size']} px, Z {m.latent_dim}, {m.mapping_layers} mapping layers: {args.run_dir}")


if __name__ == "__main__":
    main()
