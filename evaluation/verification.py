"""Is it still the same person: cosines of embeddings, and the rate of right acceptances at a fixed false rate."""

import torch
from torch import Tensor

FAR = 1e-2  # false acceptances
MAX_IMAGES = 2000  # faces whose pairs are looked at: two million pairs


def pair_cosines(embedding: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of all pairs of one person and of all pairs of two, (G,) and (I,) float64, from unit vectors (N, D).

    Rows without a known identity (-1) are left out; of more than 2,000 faces whole persons are taken, evenly spread.
    """
    known = torch.nonzero(identity >= 0)[:, 0]
    if len(known) > MAX_IMAGES:
        persons = identity[known].unique()
        step = len(known) / MAX_IMAGES
        chosen = persons[(torch.arange(int(len(persons) / step)) * step).long()]
        known = known[torch.isin(identity[known], chosen)]
    vectors, who = embedding[known].double(), identity[known]
    cosines = vectors @ vectors.T
    above = torch.ones(len(known), len(known), dtype=torch.bool).triu(1)
    same = who[:, None] == who
    return cosines[above & same], cosines[above & ~same]


def threshold(impostor: Tensor, far: float = FAR) -> float:
    """The cosine that a share `far` of the impostor pairs exceeds."""
    return float(torch.quantile(_thinned(impostor), 1 - far))


def verification(embedding: Tensor, identity: Tensor, far: float = FAR) -> dict:
    """Verification rate at false acceptance rate `far`, its threshold, mean cosines and number of genuine pairs."""
    genuine, impostor = pair_cosines(embedding, identity)
    if not len(genuine) or not len(impostor):
        return {"rate": 0.0, "threshold": 1.0, "genuine": 0.0, "impostor": 0.0, "pairs": 0}
    limit = threshold(impostor, far)
    rate = float((genuine > limit).double().mean())
    means = {"genuine": float(genuine.mean()), "impostor": float(impostor.mean())}
    return {"rate": rate, "threshold": limit, **means, "pairs": len(genuine)}


def _thinned(values: Tensor, most: int = 10_000_000) -> Tensor:
    """torch.quantile takes at most 16 million values."""
    return values[:: len(values) // most + 1]
