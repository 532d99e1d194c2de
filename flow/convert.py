"""Convert checkpoints of rosinality/glow-pytorch and openai/glow to a run directory of this project.

Squeeze, split, couplings and densities are at the same places in all three. They differ in scale parameters, borders
and the order of channels. Everything is converted in float64, so that a negative scale or a plain 1x1 loses no digits.

| checkpoint | here |
| --- | --- |
| actnorm scale (x + loc), any sign | b = loc, 3 g = ln abs(scale); a negative scale flips that input column of W |
| 1x1 as LU factors, or as a plain matrix | LU factors of the product |
| a convolution and its bias | b = bias, g = 0, no border |
| last convolutions padded with ones (rosinality) | the border's weight is the sum over input channels |
| a channel that marks the padding, the last (openai) | the border's weight |
| halves [log s, t], [mean, log sd] (rosinality) | every other channel, shift or mean first |
"""

import argparse
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from editing.convert import read_state_dict, write_run
from engine import UserError
from engine.errors import exit_on_user_error
from flow.bijectors import LOG_SCALE, EdgeConv, InvertibleConv1x1, Step, factorise
from flow.config import Config, LossConfig, ModelConfig
from flow.train import Glow

Weights = dict[str, Tensor]


def convert_checkpoint(args: argparse.Namespace) -> None:
    """Read a checkpoint, print the inferred settings, write the run directory --run-dir."""
    read, convert = LAYOUTS[args.layout]
    method = convert(read(Path(args.checkpoint)), args.image_size, args.n_bits, args.checkpoint)
    model = method.cfg.model
    print(
        f"{args.checkpoint}: {model.num_levels} levels of {model.num_steps} steps, width {model.width}, "
        f"{model.coupling}, {method.meta['channels']} channels; n_bits {args.n_bits} and {args.image_size} px as given"
    )
    write_run(method, args.run_dir)
    print(f"wrote {args.run_dir}")


# --- rosinality ------------------------------------------------------------------------------------------------------


def read_torch(path: Path) -> Weights:
    """Read a state dict of tensors in float64; code in the file is not executed."""
    return {key: value.double() for key, value in read_state_dict(path).items()}


def from_rosinality(weights: Weights, size: int, n_bits: int, source: str) -> Glow:
    """`blocks.i.flows.j.*` and `blocks.i.prior.*` -> a `Glow` method."""
    w = Checkpoint(weights, source)
    levels = w.count(r"blocks\.(\d+)\.")
    steps = w.count(r"blocks\.0\.flows\.(\d+)\.")
    first = w["blocks.0.flows.0.coupling.net.0.weight"]  # (width, 2C, 3, 3)
    channels = first.shape[1] // 2
    affine = w["blocks.0.flows.0.coupling.net.4.conv.weight"].shape[0] == 4 * channels
    method = empty_method(channels, size, n_bits, levels, steps, first.shape[0], affine)
    with torch.no_grad():
        for i, level in enumerate(method.flow.levels):
            for j, step in enumerate(level.steps):
                _rosinality_step(step, w, f"blocks.{i}.flows.{j}.", affine)
            padded_with_ones(level.prior, w, f"blocks.{i}.prior.", interleave)
    return mark_initialised(method)


def _rosinality_step(step: Step, w: "Checkpoint", at: str, affine: bool) -> None:
    scale = w[at + "actnorm.scale"].flatten()
    step.actnorm.b.copy_(w[at + "actnorm.loc"].flatten())
    step.actnorm.g.copy_(scale.abs().log() / LOG_SCALE)
    if at + "invconv.weight" in w:
        weight = w[at + "invconv.weight"][:, :, 0, 0]
    else:
        p, lower, upper, log_s, sign = (w[f"{at}invconv.{name}"] for name in ("w_p", "w_l", "w_u", "w_s", "s_sign"))
        eye = torch.eye(len(p), dtype=p.dtype)
        weight = p @ (lower.tril(-1) + eye) @ (upper.triu(1) + torch.diag(sign * log_s.exp()))
    set_mixing(step.conv, weight * scale.sign())
    for place, name in ((0, "net.0"), (1, "net.2")):
        plain(step.coupling.net[place], w[f"{at}coupling.{name}.weight"], w[f"{at}coupling.{name}.bias"])
    swapped = lambda v: interleave(torch.cat(v.chunk(2)[::-1]))  # noqa: E731  [log s, t] -> t, s in turn
    padded_with_ones(step.coupling.net[2], w, f"{at}coupling.net.4.", swapped if affine else lambda v: v)


def padded_with_ones(conv: EdgeConv, w: "Checkpoint", at: str, order: Callable[[Tensor], Tensor]) -> None:
    """A convolution that pads its input with ones: the border weight is the sum over input channels."""
    weight = order(w[at + "conv.weight"])
    if conv.weight is not None:
        conv.weight.copy_(weight)
    conv.edge.copy_(weight.sum(1, keepdim=True))
    conv.b.copy_(order(w[at + "conv.bias"]))
    conv.g.copy_(order(w[at + "scale"].flatten()))


def plain(conv: EdgeConv, weight: Tensor, bias: Tensor) -> None:
    """A convolution with zero padding and no actnorm."""
    conv.weight.copy_(weight)
    conv.b.copy_(bias)
    conv.g.zero_()
    if conv.edge is not None:
        conv.edge.zero_()


# --- openai ----------------------------------------------------------------------------------------------------------


def read_npz(path: Path) -> Weights:
    """Read an .npz of openai/glow's TensorFlow variables by name (`model/0/0/invconv/W`); no code is executed."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("one array without a name, an .npy")
        with archive:
            arrays = {key: torch.from_numpy(archive[key].astype(np.float64)) for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: expected an intact .npz of arrays ({str(error).splitlines()[0][:120]})") from None
    return {key.split(":")[0].removeprefix("model/"): value for key, value in arrays.items()}


def from_openai(weights: Weights, size: int, n_bits: int, source: str) -> Glow:
    """`i/j/*`, `pool<i>/conv/*`, `prior/p/*` -> a `Glow` method."""
    w = Checkpoint(weights, source)
    if "prior/y_emb/W" in w:
        raise UserError(f"{source}: was trained with --ycond; only models without labels can be read")
    levels, steps = w.count(r"(\d+)/0/"), w.count(r"0/(\d+)/")
    channels = w["0/0/invconv/W"].shape[0] // 4
    first, last = w["0/0/f1/l_1/W"], w["0/0/f1/l_last/W"]  # (3, 3, 2C + 1, width), (3, 3, width + 1, out)
    method = empty_method(channels, size, n_bits, levels, steps, first.shape[3], last.shape[3] == 4 * channels)
    with torch.no_grad():
        for i, level in enumerate(method.flow.levels):
            for j, step in enumerate(level.steps):
                _openai_step(step, w, f"{i}/{j}/")
            if not level.last:
                marked(level.prior, w, f"pool{i}/conv/", lambda v: v)
            elif "prior/p/W" in w:
                marked(level.prior, w, "prior/p/", interleave)
    return mark_initialised(method)


def _openai_step(step: Step, w: "Checkpoint", at: str) -> None:
    step.actnorm.b.copy_(w[at + "actnorm_center/b"].flatten())
    step.actnorm.g.copy_(w[at + "actnorm_scale/logs"].flatten())
    set_mixing(step.conv, w[at + "invconv/W"].T)
    for place, name in ((0, "l_1"), (1, "l_2")):
        conv, here = step.coupling.net[place], f"{at}f1/{name}/"
        edge_weights(conv, w[here + "W"])
        conv.b.copy_(w[here + "actnorm_center/b"].flatten())
        conv.g.copy_(w[here + "actnorm_scale/logs"].flatten())
    marked(step.coupling.net[2], w, f"{at}f1/l_last/", lambda v: v)


def marked(conv: EdgeConv, w: "Checkpoint", at: str, order: Callable[[Tensor], Tensor]) -> None:
    """`conv2d_zeros`: bias, 3 logs, and a last input channel that marks the padding."""
    edge_weights(conv, w[at + "W"], order)
    conv.b.copy_(order(w[at + "b"].flatten()))
    conv.g.copy_(order(w[at + "logs"].flatten()))


def edge_weights(conv: EdgeConv, weight: Tensor, order: Callable[[Tensor], Tensor] = lambda v: v) -> None:
    """Weight (h, w, in [+ 1], out) -> weight and border of `EdgeConv`."""
    weight = order(weight.permute(3, 2, 0, 1))
    if conv.edge is not None:
        weight, edge = weight[:, :-1], weight[:, -1:]
        conv.edge.copy_(edge)
    if conv.weight is not None:
        conv.weight.copy_(weight)


# --- both ------------------------------------------------------------------------------------------------------------


class Checkpoint(dict):
    """Weights of the checkpoint. A missing key raises UserError."""

    def __init__(self, weights: Weights, source: str) -> None:
        super().__init__(weights)
        self.source = source

    def __missing__(self, key: str) -> Tensor:
        raise UserError(f"{self.source}: has no '{key}'; it is not of this layout (--from), or it is cut short")

    def count(self, pattern: str) -> int:
        """Number of different matches of the group in `pattern`."""
        return len({match[1] for key in self if (match := re.match(pattern, key))})


def interleave(v: Tensor) -> Tensor:
    """Halves [a, b] along the first axis -> a and b in turn."""
    return torch.stack(v.chunk(2), 1).flatten(0, 1)


def set_mixing(conv: InvertibleConv1x1, weight: Tensor) -> None:
    """Set a 1x1 convolution to a matrix (C, C)."""
    order, lower, upper, sign, log_s = factorise(weight)
    pairs = ((conv.order, order), (conv.lower, lower), (conv.upper, upper), (conv.sign, sign), (conv.log_s, log_s))
    for target, value in pairs:
        target.copy_(value)


def empty_method(channels: int, size: int, n_bits: int, levels: int, steps: int, width: int, affine: bool) -> Glow:
    """A `Glow` method in float64, without labels, with the scale of openai/glow."""
    if not levels or not steps:
        raise UserError("import: no level was found in the checkpoint; it is not of the layout given by --from")
    model = ModelConfig(num_levels=levels, num_steps=steps, width=width, scale="sigmoid2", num_planes=0)
    model.coupling = "affine" if affine else "additive"
    cfg = Config(model=model, loss=LossConfig(n_bits=n_bits))
    cfg.data.dataset, cfg.data.image_size, cfg.data.grayscale = "celeba", size, channels == 1
    meta = {"dataset": "imported", "channels": channels, "image_size": size, "crop": None, "eyes": None}
    meta |= {"classes": [], "attributes": [], "class_counts": {}, "landmarks": 0, "num_train": 0}
    return Glow(cfg, meta | {"keys": ["image"], "fingerprint": "imported"}).double()


def mark_initialised(method: Glow) -> Glow:
    """Mark the flow as initialised, and set the average to the weights."""
    method.flow.initialised.fill_(True)
    method.flow.ready = True
    method.ema.reset(method.flow)
    return method


LAYOUTS = {"rosinality": (read_torch, from_rosinality), "openai": (read_npz, from_openai)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A checkpoint of another project becomes the run --run-dir.")
    parser.add_argument("checkpoint", help="a state dict (.pt), or an .npz of openai/glow's variables")
    parser.add_argument("--from", dest="layout", choices=list(LAYOUTS), required=True, help="the layout of the file")
    parser.add_argument("--run-dir", type=Path, required=True, help="the folder to write")
    parser.add_argument("--n-bits", type=int, required=True, help="it was trained with; not in the file")
    parser.add_argument("--image-size", type=int, required=True, help="it was trained with, px; not in the file")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        convert_checkpoint(args)


if __name__ == "__main__":
    main()
