"""Contrastive loss: codes with the same label are pulled together, codes with different labels are pushed apart."""

from __future__ import annotations

import torch
from torch import Tensor

from losses.precision import raised


def pair_margin(z: Tensor, label: Tensor, person: Tensor, margin: float) -> Tensor:
    """Contrastive loss over all pairs of a batch: mean_P d / 2 + mean_Q max(0, margin - d) / 2, a scalar.

    d_ij = |z_i - z_j|^2 for codes z (N, D). P: pairs with the same label and different persons (if unknown, -1:
    different images). Q: pairs with different labels, also of the same person. Persons with the same label are not
    pushed apart, because then the code would encode the person. An empty P or Q gives 0.

    Source: Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping" (2006), with squared distances
    as in "Geometry-Contrastive GAN for Facial Expression Transfer" (arXiv 1802.01822).
    """
    z = raised(z)
    d = (z[:, None] - z[None]).square().sum(2)  # (N, N)
    same_label = label[:, None] == label[None]
    same_person = (person[:, None] == person[None]) & (person >= 0)[:, None]
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (same_label & ~same_person & ~itself).to(d.dtype)
    negative = (~same_label).to(d.dtype)
    pull = (d * positive).sum() / positive.sum().clamp_min(1)
    push = ((margin - d).clamp_min(0) * negative).sum() / negative.sum().clamp_min(1)
    return (pull + push) / 2
