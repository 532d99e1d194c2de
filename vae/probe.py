"""The edit kind `probe`: the least move of a code after which a small network reads it as asked.

A network of two hidden layers reads all labels from the codes of training faces; an edit descends its loss from the
face's own code. It leaks little, for everything else is held by name; it is only as good as its reader: what the
reader takes for a smile need not look like one.
"""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.request import Move
from engine.files import atomic_write
from vae.attributes import MIN_SIDE, Codes

logger = logging.getLogger("faces")
HIDDEN, STEPS, BATCH = 128, 1500, 256
MARGIN = 3.0  # logit on the side asked for, from which nothing is gained
PULL = 0.1  # weight of the squared move, in standard deviations of the codes
MOVES, RATE = 150, 0.05  # Adam steps of one edit, in standard deviations


class Probe(nn.Module):
    """Codes (N, Z) -> logits (N, L) of all labels, attributes first."""

    def __init__(self, latent_dim: int, labels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("std", torch.ones(latent_dim))
        self.layers = nn.Sequential(
            *(nn.Linear(latent_dim, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU()),
            nn.Linear(HIDDEN, labels),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers((z - self.mean) / self.std)


def fit_probe(codes: Codes, seed: int = 0, steps: int = STEPS) -> Probe:
    """Binary cross-entropy on each known label; a function of codes and seed."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        mu, labels = codes.mu.clone(), codes.labels.clone()
        probe = Probe(mu.shape[1], labels.shape[1])
        probe.mean.copy_(mu.mean(0))
        probe.std.copy_(mu.std(0).clamp_min(1e-6))
        adam = torch.optim.Adam(probe.parameters(), lr=2e-3)
        known, target = labels.isfinite(), labels.nan_to_num()
        for step in range(steps):
            adam.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
            rows = torch.randint(0, len(mu), (BATCH,))
            loss = F.binary_cross_entropy_with_logits(probe(mu[rows]), target[rows], reduction="none")
            loss = (loss * known[rows]).sum() / known[rows].sum().clamp_min(1)
            adam.zero_grad()
            loss.backward()
            adam.step()
    return probe.requires_grad_(False).eval()


def get_probe(codes: Codes, run_dir: Path, sha256: str, steps: int = STEPS) -> Probe:
    """The run's probe: read, or fitted to the weights `sha256` and kept."""
    path = run_dir / "probe.pt"
    if path.is_file():
        held = torch.load(path, map_location="cpu", weights_only=True)
        if held["sha256"] == sha256:
            with torch.inference_mode(False):  # gradients go through these weights
                probe = Probe(codes.mu.shape[1], codes.labels.shape[1])
                probe.load_state_dict({name: value.clone() for name, value in held["probe"].items()})
            return probe.requires_grad_(False).eval()
    logger.info(f"fitting the probe of {len(codes.mu)} codes, into {path}")
    probe = fit_probe(codes, steps=steps)
    with atomic_write(path) as file:
        torch.save({"sha256": sha256, "probe": probe.state_dict()}, file)
    return probe


def held_labels(codes: Codes, shown: Tensor, wanted: Tensor) -> Tensor:
    """Which labels of each face are to stay, (Q, L) bool.

    shown (Q, L) in {0, 1, NaN}: what the faces are; wanted (Q, L): 1 or 0 where asked for, NaN elsewhere. Not
    held: what is asked for, what is unknown, and what excludes it (an angry face that is to smile need not stay angry:
    fewer than 20 training faces are both).
    """
    hold = wanted.isnan() & shown.isfinite()
    for column in torch.nonzero(wanted.isfinite().any(0)).flatten().tolist():
        for value in (0.0, 1.0):
            side = codes.labels[codes.labels[:, column] == value]
            both = torch.stack([(side == v).sum(0) for v in (0, 1)], 1)  # (L, 2)
            found = both[torch.arange(both.shape[0])[None], shown.nan_to_num().long()]  # (Q, L)
            hold &= (wanted[:, column] != value)[:, None] | (found >= MIN_SIDE)
    return hold


def least_move(probe: Probe, mu: Tensor, wanted: Tensor, hold: Tensor) -> Tensor:
    """Codes near mu (Q, Z) that the probe reads as wanted (Q, L; NaN = not asked), the labels `hold` staying.

    Minimises softplus(3 - signed logit) of what is asked, the cross-entropy of what is held to its own probability,
    and a tenth of the squared move in standard deviations. A face of which nothing is asked stays.
    """
    with torch.inference_mode(False), torch.enable_grad():
        mu, wanted, hold = mu.clone(), wanted.clone(), hold.clone()
        asked, sign = wanted.isfinite(), 2 * wanted.nan_to_num() - 1
        before = torch.sigmoid(probe(mu)).detach()
        step = torch.zeros_like(mu, requires_grad=True)  # in standard deviations
        adam = torch.optim.Adam([step], RATE)
        for _ in range(MOVES):
            logits = probe(mu + step * probe.std)
            loss = (F.softplus(MARGIN - sign * logits) * asked).sum() + PULL * step.square().sum()
            loss = loss + (F.binary_cross_entropy_with_logits(logits, before, reduction="none") * hold).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        moved = mu + step.detach() * probe.std
        return torch.where(asked.any(1, keepdim=True), moved, mu)


def wanted_labels(
    wishes: list[Move], ways: list[Tensor], labels: Tensor, names: list[str], classes: list[str]
) -> Tensor:
    """(Q, L): the side that each request asks for where it asks for a change (way (Q,) not 0), NaN elsewhere; an
    expression also asks the others to go."""
    wanted = torch.full_like(labels, float("nan"))
    for wish, way in zip(wishes, ways, strict=True):
        rows = way != 0
        if wish.is_class:
            for name in classes:
                wanted[rows, names.index(name)] = float(name == wish.name)
        else:
            wanted[rows, names.index(wish.name)] = (way[rows] > 0).float()
    return wanted
