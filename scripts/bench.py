"""Time of training steps and of common uses, beside textbook loops:

    python scripts/bench.py [vae aae_cgan flow stargan stylegan2 cgan loader edit] [--device cpu]
    python scripts/bench.py --out results/performance.json   # also write the record behind docs/performance.md

The variants of a group have equal networks and batches, and run in turn on one thread. The first is the textbook loop
(benchmarks/textbook.py), where there is one. It has torch's default memory format, ours that of a run (channels-last).
`ms`: CPU time of the fastest turn, or time of the GPU. `ratio`: median over turns of the time over that of the textbook
loop in the same turn, so that a busy machine matters little.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from a2f.cgan import CGAN
from a2f.config import CGANConfig, CGANModel, GANLoss
from aae_cgan.config import AAECGANTrainConfig
from aae_cgan.config import Config as AAEConfig
from aae_cgan.config import LossConfig as AAELoss
from aae_cgan.config import ModelConfig as AAEModel
from aae_cgan.train import AAECGAN
from benchmarks import performance, textbook
from data import DataConfig, build_faces
from engine.loop import compile_network
from flow.config import Config as FlowConfig
from flow.config import LossConfig as FlowLoss
from flow.config import ModelConfig as FlowModel
from flow.edit import encode_photo, move
from flow.train import Glow
from gcgan.config import LabelModelConfig, StarGANConfig
from gcgan.config import LossConfig as StarGANLoss
from gcgan.stargan import StarGAN
from interface_gan.config import Config as StyleGANConfig
from interface_gan.config import LossConfig as StyleGANLoss
from interface_gan.config import ModelConfig as StyleGANModel
from interface_gan.train import StyleGAN2
from losses.targets import draw_request
from vae.config import Config as VAEConfig
from vae.config import LossConfig as VAELoss
from vae.config import ModelConfig as VAEModel
from vae.train import BetaVAE

TURNS, BATCH = 8, 16
CLASSES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
ATTRIBUTES = ["Smiling", "Male", "Young", "Eyeglasses"]
Variants = dict[str, Callable[[], object]]


def meta(channels: int = 3, size: int = 32) -> dict:
    return {
        **{"dataset": "noise", "image_size": size, "channels": channels, "classes": CLASSES, "attributes": ATTRIBUTES},
        **{"num_train": 700, "eyes": None, "landmarks": 0, "class_counts": {"train": [100] * 7}},
    }


def faces(device: str, channels: int = 3, size: int = 32, n: int = 0) -> dict[str, Tensor]:
    """A batch of n (0: BATCH) images of noise; the content does not change the time."""
    n = n or BATCH
    batch = {
        "image": torch.randint(0, 256, (n, channels, size, size)) / 127.5 - 1,
        "label": torch.arange(n) % 7,
        "attr": torch.randint(0, 2, (n, len(ATTRIBUTES))).float(),
    }
    return {key: value.to(device) for key, value in batch.items()}


def plain(kind: type, cfg: Any, device: str, channels: int = 3, size: int = 32) -> Any:
    """A method with the same first weights each time, whose networks the textbook loop trains."""
    torch.manual_seed(0)
    return kind(cfg, meta(channels, size)).to(device).train()


def method(kind: type, cfg: Any, device: str, channels: int = 3, size: int = 32) -> Any:
    """The same, in the memory format of a run."""
    return plain(kind, cfg, device, channels, size).to(memory_format=torch.channels_last)


def steps(net: Any, batch: dict[str, Tensor], count: int = 1) -> Callable[[], None]:
    """`count` steps of a method, from step 0 on."""

    def turn() -> None:
        for step in range(count):
            net.step(batch, step)

    return turn


def compiled(net: Any, device: str) -> Any:
    """The method with `train.compile=true`; the first step, which is not measured, compiles."""
    for name in net.compilable:
        compile_network(getattr(net, name), torch.device(device))
    return net


def vae(device: str) -> Variants:
    """beta-VAE of Burgess et al., 64 px RGB, Bernoulli pixels, batches of 64."""
    cfg = VAEConfig(model=VAEModel(arch="burgess", latent_dim=10))
    cfg.loss = VAELoss(beta=4.0, pixel="bernoulli", lambda_face=0.0, kl_warmup=0.0)
    batch = faces(device, size=64, n=4 * BATCH)
    nets = plain(BetaVAE, cfg, device, size=64), method(BetaVAE, cfg, device, size=64)
    first, second = (textbook.vae(net.encoder, net.decoder, batch["image"], 4.0) for net in nets)
    ours, fast = (method(BetaVAE, cfg, device, size=64) for _ in range(2))
    return {
        "textbook": first,
        "textbook, channels-last": second,
        "ours": steps(ours, batch),
        "ours, compiled": steps(compiled(fast, device), batch),
    }


def aae_cgan(device: str) -> Variants:
    """One round of WGAN-GP: five critic updates and one generator update. DCGAN of width 32, 32 px grey."""
    batch = faces(device, channels=1)

    def build(mismatch: float, make: Callable = method) -> AAECGAN:
        loss = AAELoss(gan="wgan", n_critic=5, lambda_mismatch=mismatch, prior_fraction=1.0)
        model = AAEModel(width=32, latent_dim=128, linear="none", norm="batch", condition_d="planes")
        train = AAECGANTrainConfig(lr=2e-4, lr_critic=2e-4, total_steps=100)
        return make(AAECGAN, AAEConfig(model=model, loss=loss, train=train), device, channels=1)

    def ours(mismatch: float) -> Callable[[], None]:
        net = build(mismatch)
        x, y, _ = net.faces(batch)

        def turn() -> None:
            for _ in range(5):
                request = draw_request(x, y, False, False)
                with torch.no_grad():
                    x_fake = net.generator(torch.randn(len(x), 128, device=device), request.y_target)
                net.update_d_image(x, y, x_fake, request.y_target, request)
            request = draw_request(x, y, False, False)
            x_fake = net.generator(torch.randn(len(x), 128, device=device), request.y_target)
            net.minimize(net.adversarial_loss(net.d_image, "wgan", x_fake, request.y_target), "generator")

        return turn

    common = build(0, plain)
    x, y, _ = common.faces(batch)
    return {
        "textbook": textbook.wgan_gp(common.generator, common.d_image, x, y, 128),
        "ours": ours(0),
        "ours, with mismatched pairs": ours(0.5),
    }


def glow(device: str, **model: Any) -> Glow:
    """K 8, L 3, width 64, 32 px RGB."""
    cfg = FlowConfig(model=FlowModel(**{"num_planes": 0, "memory": "stored"} | model), loss=FlowLoss(n_bits=5))
    net = method(Glow, cfg, device)
    net.warm_start(faces(device))
    return net


def flow(device: str) -> Variants:
    """One step of Glow; `as configured`: the recipe's planes of position and label, tanh, Adamax."""
    batch, recipe = faces(device), {"num_planes": 4, "condition": "planes"}
    torch.manual_seed(0)
    return {
        "textbook": textbook.glow(batch["image"]),
        "ours, stored": steps(glow(device), batch),
        "ours, reversible": steps(glow(device, memory="reversible"), batch),
        "ours, as configured": steps(glow(device, **recipe), batch),
        "ours, as configured, compiled": steps(compiled(glow(device, **recipe), device), batch),
    }


def stargan(device: str) -> Variants:
    """One update of critic (R1) and generator (adversarial, cycle), 32 px RGB."""
    cfg, batch = StarGANConfig(), faces(device)
    cfg.model = LabelModelConfig(output="skip", width=16, blocks=2, critic_width=32)
    cfg.loss = StarGANLoss(gamma_r1=0.02, lambda_class_d=0.0, lambda_class_g=0.0, lambda_mismatch=0.0, lambda_cycle=5.0)
    common, ours = plain(StarGAN, cfg, device), method(StarGAN, cfg, device)
    g, d, x = common.generator, common.critic, batch["image"]
    c = torch.eye(7, device=device)[batch["label"]]
    target = c.roll(1, 0)
    score = lambda v, y: d(v, y).mean((1, 2))  # noqa: E731 - of all patches
    loop = textbook.r1_gan(
        g, d, common.ema_generator.module, x, lambda: g(x, target), lambda v: score(v, c), lambda v: score(v, target),
        more=lambda x_fake: 5.0 * (g(x_fake, c) - x).abs().mean(),
    )  # fmt: skip
    return {"textbook": loop, "ours": steps(ours, batch)}


def stylegan2(device: str) -> Variants:
    """Four updates of both networks, R1 in one of them, 32 px RGB."""
    cfg, batch = StyleGANConfig(), faces(device)
    cfg.model = StyleGANModel(latent_dim=64, mapping_layers=2, channel_base=512, channel_max=64)
    cfg.loss = StyleGANLoss(gamma_r1=0.02, r1_every=4, lambda_path=0.0, mixing_prob=0.0)
    common, ours = plain(StyleGAN2, cfg, device), method(StyleGAN2, cfg, device)
    g, d = common.generator, common.discriminator
    draw = lambda: g.synthesis(g.broadcast(g.mapping(torch.randn(BATCH, 64, device=device))), "random")  # noqa: E731
    loop = textbook.r1_gan(g, d, common.ema_generator.module, batch["image"], draw, d, d, r1_every=4)
    return {"textbook": loop, "ours": steps(ours, batch, 4)}


def cgan(device: str) -> Variants:
    """Four updates of both networks, R1 in one of them; noise and attributes -> face, 32 px RGB."""
    cfg, batch = CGANConfig(), faces(device)
    cfg.model = CGANModel(width=16, latent_dim=64)
    cfg.loss = GANLoss(gamma_r1=0.02, r1_every=4, lambda_mismatch=0.0)
    common, ours = plain(CGAN, cfg, device), method(CGAN, cfg, device)
    g, d, a = common.generator, common.critic, 2 * batch["attr"] - 1
    other = a.roll(1, 0)
    draw = lambda: g(torch.randn(BATCH, 64, device=device), other)  # noqa: E731
    average, x = common.ema_generator.module, batch["image"]
    loop = textbook.r1_gan(g, d, average, x, draw, lambda v: d(v, a), lambda v: d(v, other), r1_every=4)
    return {"textbook": loop, "ours": steps(ours, batch, 4)}


def loader(device: str) -> Variants:
    """A batch of 64 faces of 64 px, mirrored at random: PNG files through a DataLoader, and a pack."""
    folder = Path(tempfile.mkdtemp())
    cfg = DataConfig(dataset="synthetic", image_size=64, num_train=128, num_val=8, num_test=8, cache=str(folder))
    train = build_faces(cfg).train
    for i, x in enumerate(train.take(range(len(train)))["image"]):
        levels = ((x + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(folder / f"{i}.png")
    batches = iter(train.batches(64, device=device))
    return {"textbook": textbook.loader(folder, 64), "ours": lambda: next(batches)}


def edit(device: str) -> Variants:
    """Glow: encode, edit and decode one photo; draw 64 samples."""
    net = glow(device).ema.module
    x, step = faces(device)["image"][:1], torch.zeros(net.dim, device=device)

    @torch.inference_mode()
    def one() -> None:
        move(net, encode_photo(net, x, 5), step, 5)

    return {"encode, edit and decode a photo": one, "64 samples": torch.inference_mode()(lambda: net.draw(64))}


GROUPS = {f.__name__: f for f in (vae, aae_cgan, flow, stargan, stylegan2, cgan, loader, edit)}


def milliseconds(turn: Callable[[], object], device: str) -> float:
    """Time of one call: CPU time of this process, or time of the GPU."""
    if torch.device(device).type != "cuda":
        start = time.process_time()
        turn()
        return (time.process_time() - start) * 1e3
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        turn()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e2


def measure(variants: Variants, device: str) -> list[dict[str, Any]]:
    """Rows {name, ms, ratio} of a group; ratio None in a group without a textbook loop."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in variants.values():
        turn()
    for _ in range(TURNS):
        for name, turn in variants.items():
            times[name].append(milliseconds(turn, device))
    rows = []
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times.get("textbook", []), strict=False)]
        ratio = round(statistics.median(ratios), 3) if ratios else None
        rows.append({"name": name, "ms": round(min(own), 2), "ratio": ratio})
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[[], *GROUPS], default=[], metavar="GROUP", help="default: all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="record to write the groups into, such as results/performance.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    where = performance.facts(args.device, TURNS)
    print("| group | | ms | ratio |\n| --- | --- | ---: | ---: |")
    for group in args.what or GROUPS:
        rows = measure(GROUPS[group](args.device), args.device)
        for row in rows:
            print(performance.line(group, row), flush=True)
        if args.out:
            performance.save(args.out, group, rows, where)


if __name__ == "__main__":
    main()
