"""Directions that depend on the face, on Gaussians with known answers."""

import pytest
import torch

from latents.local import transport_vectors


def test_transport_of_equal_covariances_is_the_mean_difference() -> None:
    g = torch.Generator().manual_seed(0)
    target = (torch.arange(4000) % 2).float()
    mu = torch.randn(4000, 5, generator=g)
    mu[1::2] = mu[::2] + torch.tensor([2.0, 0, 0, 0, 1])  # the same cloud, moved
    v = transport_vectors(mu[:3], mu, target, 1)
    assert torch.allclose(v, torch.tensor([2.0, 0, 0, 0, 1]).expand(3, 5), atol=1e-4)


def test_transport_of_a_rotated_gaussian_and_back() -> None:
    """The other side is stretched 3 along one axis: a code's move follows its own place, which no vector does."""
    g = torch.Generator().manual_seed(1)
    base, moved = (torch.randn(20_000, 3, generator=g) for _ in range(2))
    scale, shift = torch.tensor([3.0, 1.0, 0.5]), torch.tensor([0.0, 4.0, 0.0])
    mu = torch.cat([base, moved * scale + shift])
    target = torch.arange(40_000).ge(20_000).float()
    query = torch.tensor([[1.0, -1.0, 2.0], [-2.0, 0.0, 0.0]])
    there = query + transport_vectors(query, mu, target, 1)
    assert torch.allclose(there, query * scale + shift, atol=0.15)
    back = there - transport_vectors(there, mu, target, 0)
    assert torch.allclose(back, query, atol=1e-3)


def test_transport_from_few_codes_is_finite() -> None:
    g = torch.Generator().manual_seed(2)
    mu = torch.randn(3000, 16, generator=g)
    target = torch.zeros(3000)
    target[:10] = 1  # fewer than dimensions
    mu[:10, 0] += 4
    v = transport_vectors(torch.randn(100, 16, generator=g), mu, target, 1)
    assert v.isfinite().all() and v[:, 0].mean().item() == pytest.approx(4, abs=1) and v[:, 1:].norm(dim=1).max() < 4


def test_transport_without_variance_is_finite() -> None:
    mu = torch.zeros(20, 4)
    mu[10:, 0] = 1
    v = transport_vectors(torch.zeros(1, 4), mu, torch.arange(20).ge(10).float(), 1)
    assert torch.allclose(v, torch.tensor([[1.0, 0, 0, 0]]), atol=1e-5)


def test_an_empty_class_is_an_error() -> None:
    mu = torch.randn(5, 3)
    with pytest.raises(ValueError, match="5 without, 0 with"):
        transport_vectors(mu, mu, torch.zeros(5), 1)
