"""Speed of operations on the codes of a large data set: CelebA has 162,770 training faces and 40 attributes."""

import time

import pytest
import torch

from latents.directions import knn_vectors, lda_scores, ols_vectors

pytestmark = pytest.mark.slow  # large tables

Z, ATTRIBUTES = 128, 40


def table(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    attr = (torch.rand(n, ATTRIBUTES, generator=g) < 0.3).float()
    return torch.randn(n, Z, generator=g) + attr @ torch.randn(ATTRIBUTES, Z, generator=g), attr


def test_speed_of_knn_edits() -> None:
    mu, attr = table(160_000)
    start = time.process_time()
    v = knn_vectors(mu[:64] + 0.01, attr[:64], mu, attr, 0)
    seconds = time.process_time() - start
    assert v.shape == (64, Z)
    assert seconds < 3, f"{seconds:.1f} CPU-seconds"


def test_speed_of_attribute_vectors() -> None:
    mu, attr = table(200_000)
    start = time.process_time()
    v, scores = ols_vectors(mu, attr), lda_scores(mu, attr)
    seconds = time.process_time() - start
    assert v.shape == scores.shape == (ATTRIBUTES, Z)
    assert seconds < 10, f"{seconds:.1f} CPU-seconds"
