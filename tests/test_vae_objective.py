"""The VAE's formulas against closed forms (derivations in the comments)."""

import itertools
import math

import pytest
import torch

from vae.objective import (
    beta_effective,
    decompose_kl,
    linear_capacity,
    log_density,
    mss_log_weights,
    peer_weights,
    permute_dims,
    warm_up,
)


def codes(batch: int, latent_dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mu, logvar, noise = (torch.randn(batch, latent_dim, generator=generator, dtype=torch.float64) for _ in range(3))
    return mu + noise * torch.exp(logvar / 2), mu, logvar


@pytest.mark.parametrize("estimator", ["mss", "mws"])
def test_kl_decomposition_sums_to_the_kl(estimator: str) -> None:
    z, mu, logvar = codes(16, 5)
    parts = decompose_kl(z, mu, logvar, 1000, estimator)
    rate = (log_density(z, mu, logvar) - log_density(z, torch.zeros_like(z), torch.zeros_like(z))).sum(1).mean()
    assert sum(parts).item() == pytest.approx(rate.item(), abs=1e-9)


@pytest.mark.parametrize("num_train", [16, 10_000])
def test_weighted_estimate_of_equal_posteriors_is_zero(num_train: int) -> None:
    """All posteriors equal the prior: no information and no correlation, whatever the number of images."""
    z = codes(16, 5)[0]
    parts = decompose_kl(z, torch.zeros_like(z), torch.zeros_like(z), num_train, "mws")
    assert all(abs(part.item()) < 1e-9 for part in parts)


def test_stratified_weights() -> None:
    weights = mss_log_weights(8, 100).exp()
    assert torch.allclose(weights.sum(1), torch.ones(8, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(weights.diagonal(), torch.full((8,), 1 / 100, dtype=torch.float64))


def test_stratified_estimate_is_unbiased() -> None:
    """N = 12, B = 4: averaged over every ordered choice of the other three, the estimate is the exact mixture."""
    z, mu, logvar = codes(12, 2)
    density = torch.exp(log_density(z[:1, None], mu[None], logvar[None]).sum(2))[0]  # q(z_0 | x_k), k = 0..11
    weights = mss_log_weights(4, 12).exp()[0]
    estimates = [weights @ density[[0, *others]] for others in itertools.permutations(range(1, 12), 3)]
    assert torch.stack(estimates).mean().item() == pytest.approx(density.mean().item(), rel=1e-9)


def test_mutual_information_is_at_most_log_n() -> None:
    n = 500
    mu = torch.arange(8, dtype=torch.float64)[:, None].expand(8, 3) * 1e3
    z, logvar = mu.clone(), torch.full_like(mu, -4.0)
    assert decompose_kl(z, mu, logvar, n)[0].item() == pytest.approx(math.log(n), abs=1e-3)
    for seed in range(5):
        z, mu, logvar = codes(6, 4, seed)
        assert decompose_kl(z, mu, logvar - 3, 7)[0].item() <= math.log(7) + 1e-9


@pytest.mark.parametrize("estimator", ["mss", "mws"])
def test_chunked_decomposition_equals_full(estimator: str) -> None:
    z, mu, logvar = codes(6, 7)
    results = []
    for chunk in (2**26, 6 * 6 * 2):
        leaf = z.clone().requires_grad_()
        parts = torch.stack(decompose_kl(leaf, mu, logvar, 50, estimator, chunk))
        (parts * torch.tensor([1.0, 6.0, 2.0])).sum().backward()
        results.append((parts.detach(), leaf.grad))
    for whole, sliced in zip(*results, strict=True):
        assert torch.allclose(whole, sliced, atol=1e-10)


def test_permute_dims() -> None:
    torch.manual_seed(0)
    column = torch.randn(4096, 1)
    z = column.repeat(1, 2)
    shuffled = permute_dims(z)
    assert torch.equal(shuffled.sort(0).values, z.sort(0).values)
    correlation = torch.corrcoef(shuffled.T)[0, 1].abs().item()
    assert correlation < 4 / math.sqrt(4096)


def test_schedules() -> None:
    assert [linear_capacity(t, 25.0, 100) for t in (0, 50, 100, 200)] == [0.0, 12.5, 25.0, 25.0]
    assert [warm_up(t, 10) for t in (0, 5, 10, 20)] == [0.0, 0.5, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0


def test_peer_weights_have_the_same_optimum() -> None:
    """One latent, x01 = a z + noise: each author's loss has the same optimal posterior variance as ours.

    E_q |x - a z|^2 = const + a^2 s, KL = (s - log s) / 2 + const: for c SSE + k KL the optimum is
    s = k / (k + 2 c a^2); ours, SSE / 2 + beta_eff KL, gives beta_eff / (beta_eff + a^2).
    """
    dimensions, a2, beta_eff = 12288, 3.7, 0.37

    def optimum(c: float, k: float) -> float:
        return k / (k + 2 * c * a2)

    ours = optimum(0.5, beta_eff)
    peers = peer_weights(beta_eff, dimensions)
    assert optimum(1 / dimensions, peers["AntixK kld_weight"]) == pytest.approx(ours, abs=1e-6)
    assert optimum(255.0, peers['YannDubs "gaussian" beta']) == pytest.approx(ours, abs=1e-6)
    assert optimum(1.0, peers["SSE + beta KL"]) == pytest.approx(ours, abs=1e-6)
    # The sizes that the README prints: 2.5e-4 on 12288 values is 1.536; 2.5e-6 on 3 * 224 * 192 is 0.161.
    assert peer_weights(1.536, 12288)["AntixK kld_weight"] == pytest.approx(2.5e-4)
    assert peer_weights(0.1613, 3 * 224 * 192)["AntixK kld_weight"] == pytest.approx(2.5e-6, rel=1e-3)
    assert beta_effective(1.0, 2.0) == 1.0 and beta_effective(0.161, 2.0) == pytest.approx(0.161)
    assert beta_effective(1.0, 2 * 10 ** (-24 / 20)) == pytest.approx(0.004, rel=0.01)  # calibrated at 24 dB
