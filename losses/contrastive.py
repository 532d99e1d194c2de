"""Pairs of codes: alike where the label is, apart where it is not."""

from __future__ import annotations

import torch
from torch import Tensor

from losses.precision import raised


def pair_margin(z: Tensor, label: Tensor, person: Tensor, margin: float) -> Tensor:
    """Contrastive loss over all pairs of a batch: mean_P d / 2 + mean_Q max(0, margin - d) / 2, a scalar.

    z (N, D); d_ij = |z_i - z_j|^2. P: pairs of one label and two persons (person -1, unknown: of two images). Q: pairs
    of two labels, those of one person included. Persons are never pushed apart: that would put them into the code. An
    empty P or Q gives 0. Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping (2006), with squared
    distances as in GC-GAN (1802.01822).
    """
    z = raised(z)
    d = (z[:, None] - z[None]).square().sum(2)  # (N, N)
    alike = label[:, None] == label[None]
    one_person = (person[:, None] == person[None]) & (person >= 0)[:, None]
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (alike & ~one_person & ~itself).to(d.dtype)
    negative = (~alike).to(d.dtype)
    pull = (d * positive).sum() / positive.sum().clamp_min(1)
    push = ((margin - d).clamp_min(0) * negative).sum() / negative.sum().clamp_min(1)
    return (pull + push) / 2
