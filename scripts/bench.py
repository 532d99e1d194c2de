"""Time of a training step in several implementations: `python scripts/bench.py [gan flow edit] [--device cpu]`.

The variants of a group have equal networks and batches. They run in turn, and the shortest time counts: CPU
milliseconds of one thread, or milliseconds on a GPU. A ratio is the time over that of the first row of the group.

gan   WGAN-GP, 5 critic updates and 1 generator update (DCGAN of width 32, 32 px grey, batch 32): a common
      implementation (two forward passes, fakes with gradients, plain Adam), ours, and ours with mismatched pairs
flow  a step of Glow (K 8, L 3, width 64, 32 px RGB, batch 32): a common implementation (layer by layer, the 1x1
      convolution composed in each call, plain Adam), ours with stored activations, in bf16, compiled, and reversible
edit  encode, edit and decode one photo with this flow, and draw 64 samples
"""

import argparse
import math
import os
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aae_cgan.config import AAECGANTrainConfig, LossConfig, ModelConfig
from aae_cgan.config import Config as AAEConfig
from aae_cgan.train import AAECGAN
from flow.config import Config as FlowConfig
from flow.config import LossConfig as FlowLoss
from flow.config import ModelConfig as FlowModel
from flow.edit import encode_photo, move
from flow.train import Glow
from losses.targets import draw_request

TURNS = 30
LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)
CLASSES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
META = {
    "dataset": "noise", "image_size": 32, "classes": CLASSES, "attributes": [], "num_train": 700, "eyes": None,
    "landmarks": 0, "class_counts": {"train": [100] * 7},
}  # fmt: skip


def faces(channels: int, device: str) -> dict[str, Tensor]:
    """A batch of noise; the content does not change the time."""
    image = torch.randint(0, 256, (32, channels, 32, 32)) / 127.5 - 1
    return {"image": image.to(device), "label": (torch.arange(32) % 7).to(device)}


def gan(device: str) -> dict[str, Callable[[], object]]:
    """{variant: one round of 5 critic updates and 1 generator update}."""

    def build(mismatch: float) -> AAECGAN:
        torch.manual_seed(0)
        loss = LossConfig(gan="wgan", n_critic=5, lambda_mismatch=mismatch, prior_fraction=1.0)
        model = ModelConfig(width=32, latent_dim=128, linear="none", norm="batch", condition_d="planes")
        train = AAECGANTrainConfig(lr=2e-4, lr_critic=2e-4, total_steps=100)
        return AAECGAN(AAEConfig(model=model, loss=loss, train=train), META | {"channels": 1}).to(device).train()

    def ours(mismatch: float) -> Callable[[], None]:
        method, batch = build(mismatch), faces(1, device)
        x, y, _ = method.faces(batch)

        def turn() -> None:
            for _ in range(5):
                request = draw_request(x, y, False, False)
                with torch.no_grad():
                    x_fake = method.generator(torch.randn(32, 128, device=device), request.y_target)
                method.update_d_image(x, y, x_fake, request.y_target, request)
            request = draw_request(x, y, False, False)
            x_fake = method.generator(torch.randn(32, 128, device=device), request.y_target)
            method.minimize(method.adversarial_loss(method.d_image, "wgan", x_fake, request.y_target), "generator")

        return turn

    common = build(0)
    return {
        "common implementation": common_round(common, faces(1, device)),
        "ours": ours(0),
        "ours, with mismatched pairs": ours(0.5),
    }


def common_round(method: AAECGAN, batch: dict[str, Tensor]) -> Callable[[], None]:
    """WGAN-GP as in common public code, with our networks."""
    g, d = method.generator, method.d_image
    adam_g, adam_d = (torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.0, 0.9), foreach=False) for net in (g, d))
    x, y, _ = method.faces(batch)

    def turn() -> None:
        for _ in range(5):
            adam_d.zero_grad()
            z, y_target = torch.randn(len(x), 128, device=x.device), y[torch.randperm(len(y), device=y.device)]
            x_fake = g(z, y_target)
            real, fake = d(x, y), d(x_fake, y_target)
            a = torch.rand(len(x), 1, 1, 1, device=x.device)
            between = (a * x + (1 - a) * x_fake.detach()).requires_grad_()
            score = d(between, y_target)
            (gradient,) = torch.autograd.grad(score, between, torch.ones_like(score), create_graph=True)
            penalty = ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
            (fake.mean() - real.mean() + 10 * penalty).backward()
            adam_d.step()
        adam_g.zero_grad()
        (-d(g(torch.randn(len(x), 128, device=x.device), y), y).mean()).backward()
        adam_g.step()

    return turn


def glow(memory: str, device: str) -> Glow:
    torch.manual_seed(0)
    model = FlowModel(num_levels=3, num_steps=8, width=64, num_planes=0, memory=memory)
    method = Glow(FlowConfig(model=model, loss=FlowLoss(n_bits=5)), META | {"channels": 3}).to(device).train()
    method.warm_start(faces(3, device))
    return method


class CommonStep(nn.Module):
    """Actnorm, 1x1 convolution by LU factors, affine coupling; returns y and the log-determinant (N,)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.loc, self.log_scale = (nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))
        p, lower, upper = torch.linalg.lu(torch.linalg.qr(torch.randn(channels, channels))[0])
        self.register_buffer("p", p)
        self.register_buffer("sign", upper.diag().sign())
        self.lower, self.upper = nn.Parameter(lower), nn.Parameter(upper)
        self.log_s = nn.Parameter(upper.diag().abs().log())
        self.net = nn.Sequential(
            *(nn.Conv2d(channels // 2, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU()),
            nn.Conv2d(width, channels, 3),
        )
        nn.init.zeros_(self.net[-1].weight)
        self.gain = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        num_pixels = x.shape[2] * x.shape[3]
        x = (x + self.loc) * self.log_scale.exp()
        eye = torch.eye(len(self.p), device=x.device)
        weight = self.p @ (self.lower.tril(-1) + eye) @ (self.upper.triu(1) + (self.sign * self.log_s.exp()).diag())
        a, b = F.conv2d(x, weight[:, :, None, None]).chunk(2, 1)
        h = F.pad(self.net[:-1](a), [1, 1, 1, 1], value=1.0)
        log_s, t = (self.net[-1](h) * (3 * self.gain).exp()).chunk(2, 1)
        s = torch.sigmoid(log_s + 2)
        log_det = num_pixels * (self.log_scale.sum() + self.log_s.sum()) + s.log().flatten(1).sum(1)
        return torch.cat([a, (b + t) * s], 1), log_det


class CommonGlow(nn.Module):
    """Log-density (N,) of v (N, C, H, H): three levels of steps; half of the channels is split off after each level."""

    def __init__(self, channels: int = 3, num_levels: int = 3, num_steps: int = 8, width: int = 64) -> None:
        super().__init__()
        self.levels, self.priors = nn.ModuleList(), nn.ModuleList()
        for level in range(num_levels):
            channels = channels * 4 if level == 0 else channels * 2
            self.levels.append(nn.ModuleList(CommonStep(channels, width) for _ in range(num_steps)))
            last = level == num_levels - 1
            self.priors.append(nn.Conv2d(channels if last else channels // 2, 2 * channels if last else channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for level, (steps, prior) in enumerate(zip(self.levels, self.priors, strict=True)):
            x = F.pixel_unshuffle(x, 2)
            for step in steps:
                x, log_det = step(x)
                total = total + log_det
            x, z = x.chunk(2, 1) if level < len(self.levels) - 1 else (torch.zeros_like(x), x)
            mean, log_sd = prior(F.pad(x, [1, 1, 1, 1], value=1.0)).chunk(2, 1)
            total = total - (0.5 * ((z - mean) / log_sd.exp()).square() + log_sd + LOG_ROOT_2PI).flatten(1).sum(1)
        return total


def common_glow_step(batch: dict[str, Tensor], device: str) -> Callable[[], None]:
    torch.manual_seed(0)
    net = CommonGlow().to(device)
    adam = torch.optim.Adam(net.parameters(), lr=1e-4, foreach=False)

    def turn() -> None:
        levels = torch.floor((batch["image"] + 1) * 127.5 / 8)
        v = levels / 32 - 0.5 + torch.rand_like(levels) / 32
        loss = -(net(v).mean() / 3072 / math.log(2)) + 5
        adam.zero_grad()
        loss.backward()
        adam.step()

    return turn


def flow(device: str) -> dict[str, Callable[[], object]]:
    """{variant: one training step}."""
    batch = faces(3, device)

    def step(memory: str, bf16: bool, compiled: bool = False) -> Callable[[], object]:
        method = glow(memory, device)
        if compiled:
            method.flow.compile()

        def turn() -> None:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                method.step(batch, 0)

        return turn

    return {
        "common implementation": common_glow_step(batch, device),
        "ours, stored": step("stored", False),
        "ours, stored, bf16 networks": step("stored", True),
        "ours, stored, compiled": step("stored", False, True),
        "ours, stored, bf16 networks, compiled": step("stored", True, True),
        "ours, reversible": step("reversible", False),
        "ours, reversible, bf16 networks": step("reversible", True),
        "ours, reversible, bf16 networks, compiled": step("reversible", True, True),
    }


def edit(device: str) -> dict[str, Callable[[], object]]:
    """{variant: one call}."""
    net = glow("stored", device).ema.module
    x, step = faces(3, device)["image"][:1], torch.zeros(net.dim, device=device)

    @torch.inference_mode()
    def one() -> None:
        move(net, encode_photo(net, x, 5), step, 5)

    return {"encode, edit and decode a photo": one, "64 samples": torch.inference_mode()(lambda: net.draw(64))}


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


def main() -> None:
    groups = {"gan": gan, "flow": flow, "edit": edit}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what",
        nargs="*",
        choices=[[], *groups],
        default=[],
        metavar="GROUP",
        help=f"of {', '.join(groups)}; default: all",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"one thread of {os.cpu_count()} cores"
    print(f"torch {torch.__version__}, {name}, the shortest of {TURNS} turns\n")
    print("| | ms | ratio |\n| --- | ---: | ---: |")
    for group in args.what or groups:
        variants = groups[group](args.device)
        for turn in variants.values():
            turn()
        best = dict.fromkeys(variants, float("inf"))
        for _ in range(TURNS):
            for label, turn in variants.items():
                best[label] = min(best[label], milliseconds(turn, args.device))
        first = next(iter(best.values()))
        for label, value in best.items():
            print(f"| {group}: {label} | {value:.1f} | {value / first:.2f} |")


if __name__ == "__main__":
    main()
