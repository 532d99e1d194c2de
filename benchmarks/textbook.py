"""Training loops as papers and common public code write them, as the reference of scripts/bench.py.

Plain transcriptions: layer by layer, new fakes for each update, `torch.optim.Adam` without fused or foreach kernels.
Each function returns one turn: a function of no arguments that makes the update(s).
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Turn = Callable[[], object]
LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


def plain_adam(net: nn.Module, lr: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=lr, betas=betas, foreach=False)


def vae(encoder: nn.Module, decoder: nn.Module, x: Tensor, beta: float) -> Turn:
    """beta-VAE with Bernoulli pixels (Higgins et al., 2017): x (N, C, H, H) in [-1, 1]."""
    adam = plain_adam(nn.ModuleList([encoder, decoder]), 5e-4, (0.9, 0.999))

    def turn() -> None:
        mu, logvar = encoder(x)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        error = F.binary_cross_entropy_with_logits(decoder.logits(z), (x + 1) / 2, reduction="sum") / len(x)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
        adam.zero_grad()
        (error + beta * kl).backward()
        adam.step()

    return turn


def wgan_gp(g: nn.Module, d: nn.Module, x: Tensor, y: Tensor, noise_dim: int) -> Turn:
    """Five critic updates and one generator update of a conditional WGAN-GP (Gulrajani et al., 2017)."""
    adam_g, adam_d = (plain_adam(net, 2e-4, (0.0, 0.9)) for net in (g, d))

    def turn() -> None:
        for _ in range(5):
            adam_d.zero_grad()
            z, y_target = torch.randn(len(x), noise_dim, device=x.device), y[torch.randperm(len(y), device=y.device)]
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
        (-d(g(torch.randn(len(x), noise_dim, device=x.device), y), y).mean()).backward()
        adam_g.step()

    return turn


def r1_gan(
    g: nn.Module,
    d: nn.Module,
    average: nn.Module,
    x: Tensor,
    fakes: Callable[[], Tensor],
    score_real: Callable[[Tensor], Tensor],
    score_fake: Callable[[Tensor], Tensor],
    r1_every: int = 1,
    more: Callable[[Tensor], Tensor] | None = None,
) -> Turn:
    """`r1_every` steps of a logistic GAN with R1 in the first of them (Mescheder et al., 2018) and averaged weights.

    fakes() makes a batch with the graph of g. more(x_fake): further terms of the generator's loss.
    """
    adam_g, adam_d = (plain_adam(net, 1e-3, (0.0, 0.99)) for net in (g, d))

    def turn() -> None:
        for step in range(r1_every):
            loss = F.softplus(-score_real(x)).mean() + F.softplus(score_fake(fakes().detach())).mean()
            if step == 0:
                leaf = x.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(score_real(leaf).sum(), leaf, create_graph=True)
                loss = loss + 0.01 * r1_every * gradient.pow(2).flatten(1).sum(1).mean()
            adam_d.zero_grad()
            loss.backward()
            adam_d.step()
            x_fake = fakes()
            loss = F.softplus(-score_fake(x_fake)).mean() + (more(x_fake) if more else 0.0)
            adam_g.zero_grad()
            loss.backward()
            adam_g.step()
            for old, new in zip(average.parameters(), g.parameters(), strict=True):
                old.data.mul_(0.999).add_(new.data, alpha=0.001)

    return turn


class GlowStep(nn.Module):
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


class Glow(nn.Module):
    """Log-density (N,) of v (N, C, H, H): three levels of steps; half of the channels is split off after each level."""

    def __init__(self, channels: int = 3, num_levels: int = 3, num_steps: int = 8, width: int = 64) -> None:
        super().__init__()
        self.levels, self.priors = nn.ModuleList(), nn.ModuleList()
        for level in range(num_levels):
            channels = channels * 4 if level == 0 else channels * 2
            self.levels.append(nn.ModuleList(GlowStep(channels, width) for _ in range(num_steps)))
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


def glow(x: Tensor) -> Turn:
    """A step of Glow on 5-bit images x (N, 3, H, H) in [-1, 1]."""
    net = Glow().to(x.device)
    adam = plain_adam(net, 1e-4, (0.9, 0.999))

    def turn() -> None:
        levels = torch.floor((x + 1) * 127.5 / 8)
        v = levels / 32 - 0.5 + torch.rand_like(levels) / 32
        loss = -(net(v).mean() / x[0].numel() / math.log(2)) + 5
        adam.zero_grad()
        loss.backward()
        adam.step()

    return turn


class Folder(Dataset):
    """PNG files, decoded and mirrored at random in each access."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.png"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor:
        x = torch.from_numpy(np.array(Image.open(self.paths[i]).convert("RGB"))).permute(2, 0, 1)
        x = x.float().div(127.5).sub(1)
        return x.flip(2) if torch.rand(()) < 0.5 else x


def loader(folder: Path, batch_size: int) -> Turn:
    """A batch of PNG files through `torch.utils.data.DataLoader`, in this process."""

    def batches() -> Iterator[Tensor]:
        while True:
            yield from DataLoader(Folder(folder), batch_size, shuffle=True, drop_last=True)

    batch = batches()
    return lambda: next(batch)
