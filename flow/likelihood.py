"""Uses of the density: bits per dimension, Bayes classification, calibration."""

import math

import torch
from torch import Tensor

from flow.labels import Labels
from flow.model import GlowFlow
from losses.quantise import bits_per_dim, dequantise, to_levels


def image_bits(
    flow: GlowFlow,
    x: Tensor,
    y: Tensor | None,
    n_bits: int,
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Upper bounds on bits per dimension of images x (N, C, H, H) in [-1, 1] -> (N,).

    draws M: -(1/D) log2 of the mean of p(v_m) over M dequantisations, plus n. A larger M gives a tighter bound.
    """
    k = to_levels(x, n_bits)
    log_probs = []
    for _ in range(draws):
        u = torch.rand(k.shape, generator=generator).to(k.device)
        log_probs.append(flow.encode(dequantise(k, n_bits, u), y).log_prob.double())
    log_prob = torch.stack(log_probs).logsumexp(0) - math.log(draws)
    return bits_per_dim(log_prob, flow.dim, n_bits)


def class_log_probs(flow: GlowFlow, labels: Labels, v: Tensor, y: Tensor | None = None) -> Tensor:
    """ln p(v | label) + ln prior, in nats.

    Classes: (N, K). Attributes: (N, K, 2), each bit at 0 and at 1, with the other bits from y (default: unknown).
    """
    y = labels.unknown(len(v)) if y is None else y
    prior = labels.frequency.clamp(1e-12, 1).log()
    if labels.are_classes:
        scores = [flow.encode(v, labels.with_bit(y, k, 1.0)).log_prob for k in range(len(labels))]
        return torch.stack(scores, 1) + prior
    sides = [[flow.encode(v, labels.with_bit(y, k, bit)).log_prob for bit in (0.0, 1.0)] for k in range(len(labels))]
    both = torch.stack([torch.log1p(-labels.frequency.clamp(max=1 - 1e-6)), prior], 1)  # (K, 2)
    return torch.stack([torch.stack(side, 1) for side in sides], 1) + both


def bayes_accuracy(scores: Tensor, targets: Tensor) -> Tensor:
    """Share of known labels that the largest of `class_log_probs` predicts; NaN if none is known."""
    if targets.ndim == 1:
        known = targets >= 0
        right = scores.argmax(1) == targets
    else:
        known = targets.isfinite()
        right = scores.argmax(2) == targets
    return (right & known).sum() / known.sum()


def fit_temperature(scores: Tensor, label: Tensor) -> float:
    """The T > 0 that minimises the cross-entropy of softmax(scores / T) (N, K) for labels (N,), -1 = unknown.

    Needed because sums over thousands of dimensions are overconfident. Golden-section search on log T.
    """
    scores, label = scores[label >= 0].double(), label[label >= 0]
    loss = lambda t: torch.nn.functional.cross_entropy(scores / math.exp(t), label).item()  # noqa: E731
    low, high, ratio = -2.0, 12.0, (math.sqrt(5) - 1) / 2
    while high - low > 1e-3:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return math.exp((low + high) / 2)
