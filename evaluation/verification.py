"""Face verification: cosines of embeddings, and the true acceptance rate at a fixed false acceptance rate."""

import torch
from torch import Tensor

FAR = 1e-2  # false acceptance rate
MAX_IMAGES = 2000  # faces; they make two million pairs


def pair_cosines(embedding: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of all genuine pairs (G,) and all impostor pairs (I,), float64, of unit vectors (N, D).

    Rows with identity -1 are ignored. Of more than 2,000 faces a part of the persons is used, evenly spaced.
    """
    known = torch.nonzero(identity >= 0)[:, 0]
    if len(known) > MAX_IMAGES:
        persons = identity[known].unique()
        step = len(known) / MAX_IMAGES
        chosen = persons[(torch.arange(int(len(persons) / step)) * step).long()]
        known = known[torch.isin(identity[known], chosen)]
    vectors, label = embedding[known].double(), identity[known]
    cosines = vectors @ vectors.T
    pairs = torch.ones(len(known), len(known), dtype=torch.bool).triu(1)
    genuine = label[:, None] == label
    return cosines[pairs & genuine], cosines[pairs & ~genuine]


def threshold(impostor: Tensor, far: float = FAR) -> float:
    """The cosine that a share `far` of the impostor pairs (I,) exceeds."""
    return float(torch.quantile(_subsample(impostor), 1 - far))


def verification(embedding: Tensor, identity: Tensor, far: float = FAR) -> dict:
    """True acceptance rate (`rate`) at false acceptance rate `far`, threshold, mean cosines, number of genuine pairs.

    Args:
        embedding: (N, D) unit vectors. identity: (N,), -1 is ignored.
    """
    genuine, impostor = pair_cosines(embedding, identity)
    if not len(genuine) or not len(impostor):
        return {"rate": 0.0, "threshold": 1.0, "genuine": 0.0, "impostor": 0.0, "pairs": 0}
    limit = threshold(impostor, far)
    rate = float((genuine > limit).double().mean())
    means = {"genuine": float(genuine.mean()), "impostor": float(impostor.mean())}
    return {"rate": rate, "threshold": limit, **means, "pairs": len(genuine)}


def _subsample(values: Tensor, max_values: int = 10_000_000) -> Tensor:
    """Fewer values: torch.quantile accepts at most 16 million."""
    return values[:: len(values) // max_values + 1]
