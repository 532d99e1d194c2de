"""Convert checkpoints of the StarGAN reference code (yunjey/stargan: 200000-G.ckpt, 200000-D.ckpt) to a run directory.

    python -m gcgan.convert G.ckpt D.ckpt --attributes Black_Hair,Blond_Hair,Brown_Hair,Male,Young --run-dir DIR

Sizes are read from the shapes. The order of the labels is not in the files, so --classes or --attributes must give it.
The running statistics of InstanceNorm layers are removed: the reference code stays in training mode and does not use
them.

| reference code | here |
| --- | --- |
| G main.0, .3, .6; norms after each | down.0 .. 2, down_norms.0 .. 2 |
| G main.9 .. : residual blocks, main.0, .1, .3, .4 inside | blocks.i: conv1, norm1, conv2, norm2 |
| G then two transposed convolutions with norms, and the last convolution | up.0, .1, up_norms.0, .1, out |
| D main.0, .2, ...; conv1; conv2 | convs.i; psi; head |
"""

import argparse
from pathlib import Path

from torch import Tensor

from editing.convert import read_state_dict, write_run
from engine import UserError
from engine.errors import exit_on_user_error
from gcgan.config import LabelModelConfig, LossConfig, StarGANConfig
from gcgan.model import halvings
from gcgan.stargan import StarGAN

Weights = dict[str, Tensor]
FIRST_BLOCK = 9  # place of the first residual block in G's `main`


def read_weights(path: str | Path) -> Weights:
    """Read a state dict as float32 tensors, without running statistics. Raises UserError as `read_state_dict`."""
    dropped = ("running_mean", "running_var", "num_batches_tracked")
    return {key: v.float() for key, v in read_state_dict(path).items() if not key.endswith(dropped)}


def our_generator(theirs: Weights, source: str) -> Weights:
    """Rename the weights of the generator."""
    blocks = len({key.split(".")[1] for key in theirs if ".main." in key})
    last = FIRST_BLOCK + blocks
    places = {0: "down.0", 1: "down_norms.0", 3: "down.1", 4: "down_norms.1", 6: "down.2", 7: "down_norms.2"}
    places |= {last: "up.0", last + 1: "up_norms.0", last + 3: "up.1", last + 4: "up_norms.1", last + 6: "out"}
    names = {f"main.{i}": name for i, name in places.items()}
    for b in range(blocks):
        inside = ("conv1", "norm1", None, "conv2", "norm2")
        names |= {f"main.{FIRST_BLOCK + b}.main.{i}": f"blocks.{b}.{name}" for i, name in enumerate(inside) if name}
    return renamed(theirs, names, source)


def our_critic(theirs: Weights, source: str) -> Weights:
    """Rename the weights of the critic."""
    count = len([key for key in theirs if key.startswith("main.") and key.endswith(".weight")])
    names = {f"main.{2 * i}": f"convs.{i}" for i in range(count)} | {"conv1": "psi", "conv2": "head"}
    return renamed(theirs, names, source)


def renamed(theirs: Weights, names: dict[str, str], source: str) -> Weights:
    """Weights under the names of this project. Raises UserError for an unknown name."""
    found = {}
    for key, value in theirs.items():
        place, _, kind = key.rpartition(".")
        if place not in names:
            raise UserError(f"{source}: '{key}' is no layer of StarGAN's networks; the file comes from other code")
        found[f"{names[place]}.{kind}"] = value
    return found


def build(g: Weights, d: Weights, classes: list[str], attributes: list[str], sources: tuple[str, str]) -> StarGAN:
    """A `StarGAN` method with these weights.

    Raises:
        UserError: the number of labels or the size of the critic does not fit the files.
    """
    ours_g, ours_d = our_generator(g, sources[0]), our_critic(d, sources[1])
    try:
        width, seen = ours_g["down.0.weight"].shape[:2]
        channels, widths = ours_g["out.weight"].shape[0], [v.shape[0] for k, v in ours_d.items() if k.endswith("bias")]
        kernel, critic_width = ours_d["head.weight"].shape[-1], ours_d["convs.0.weight"].shape[0]
    except KeyError as missing:
        raise UserError(f"{' and '.join(sources)}: {missing} is missing; give G's checkpoint, then D's") from None
    names, size = classes or attributes, kernel * 2 ** len(widths)
    if seen - channels != len(names):
        raise UserError(f"{sources[0]}: takes {seen - channels} labels, and {len(names)} names were given")
    if halvings(size) != (len(widths), kernel):
        raise UserError(f"{sources[1]}: a critic of {len(widths)} layers with last kernel {kernel} is not supported")
    blocks = len({key.split(".")[1] for key in ours_g if key.startswith("blocks.")})
    model = LabelModelConfig(conditioning="planes", output="tanh", width=width, blocks=blocks, critic="class")
    model.critic_width, model.max_width = critic_width, max(widths)
    loss = LossConfig(gan="wgan", n_critic=5, lambda_mismatch=0.0)
    cfg = StarGANConfig(model=model, loss=loss)
    cfg.data.dataset, cfg.data.image_size, cfg.data.grayscale = "celeba", size, channels == 1
    meta = {"dataset": "imported", "channels": channels, "image_size": size, "crop": None, "eyes": None}
    meta |= {"classes": classes, "attributes": attributes, "class_counts": {}, "landmarks": 0, "num_train": 0}
    method = StarGAN(cfg, meta | {"keys": ["image"], "fingerprint": "imported"})
    for network, weights, source in ((method.generator, ours_g, sources[0]), (method.critic, ours_d, sources[1])):
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"{source}: does not fit: {str(error).splitlines()[1].strip()}") from None
    method.ema_generator.reset(method.generator)
    return method


def convert(args: argparse.Namespace) -> None:
    """Read both checkpoints, print their sizes, write the run directory."""
    if bool(args.classes) == bool(args.attributes):
        raise UserError("give --classes or --attributes: the labels in the order of the training command")
    split = lambda text: [name.strip() for name in text.split(",") if name.strip()] if text else []  # noqa: E731
    g, d = read_weights(args.generator), read_weights(args.critic)
    method = build(g, d, split(args.classes), split(args.attributes), (args.generator, args.critic))
    m, size = method.cfg.model, method.meta["image_size"]
    print(f"{size} px, {method.labels.num} labels, width {m.width}, {m.blocks} blocks, critic {m.critic_width}")
    write_run(method, args.run_dir)
    print(f"wrote {args.run_dir}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m gcgan.convert", description=__doc__.splitlines()[0])
    parser.add_argument("generator", help="G's checkpoint")
    parser.add_argument("critic", help="D's checkpoint")
    parser.add_argument("--classes", help="the labels, if they exclude each other, joined by commas, in their order")
    parser.add_argument("--attributes", help="the labels, if they do not, as in the reference's --selected_attrs")
    parser.add_argument("--run-dir", type=Path, required=True, help="the folder to write")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        convert(args)


if __name__ == "__main__":
    main()
