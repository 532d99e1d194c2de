"""latents.boundaries and latents.steps against published code, closed forms, and codes with known ground truth."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, leaky_relu

from latents.boundaries import best_offset, extremes, linear_normal, normal_ranks, ridge_rank
from latents.directions import orthogonalize
from latents.steps import affordable, cost, least_step


def analytic(num: int = 20_000, d: int = 64, seed: int = 0):
    """Codes of two leaky ReLU layers, far from round, and five readings a' c of known normals, two at cosine .6.

    -> codes (N, d), true normals (5, d), scores (N, 5), which are no linear functions of the codes.
    """
    g = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=g, dtype=torch.float64)  # noqa: E731
    h = draw(num, d)
    for _ in range(2):
        h = leaky_relu(h @ draw(d, d) / d**0.5, 0.2)
    values, vectors = torch.linalg.eigh(torch.cov(h.T))
    h = (h - h.mean(0)) @ (vectors / values.sqrt())  # white, then a spectrum of condition 5e3
    spectrum = torch.logspace(0, -np.log10(5e3) / 2, d, dtype=torch.float64)
    codes = h * spectrum @ torch.linalg.qr(draw(d, d))[0]
    cov = torch.cov(codes.T)
    inverse_root = torch.linalg.inv(torch.linalg.cholesky(cov)).T
    units = torch.linalg.qr(draw(d, 5))[0].T  # (5, d), readings of unit variance
    units[1] = 0.6 * units[0] + 0.8 * units[1]
    normals = units @ inverse_root.T
    a = (codes - codes.mean(0)) @ normals.T
    score = 3 * (a - 0.3) + 0.3 * a * a.roll(1, 1) + 0.3 * draw(num, 5)
    return codes, torch.nn.functional.normalize(normals, dim=1), score


def correlation(codes, a, b):
    cov = torch.cov(codes.T)
    return float((a @ cov @ b) / ((a @ cov @ a) * (b @ cov @ b)).sqrt())


# Boundaries.


def published_normal(latent_codes: np.ndarray, scores: np.ndarray, share: float, split: float, seed: int) -> np.ndarray:
    """The steps of the authors' recipe, in their order."""
    from sklearn import svm

    np.random.seed(seed)
    order = np.argsort(scores)[::-1]
    latent_codes = latent_codes[order]
    chosen = min(int(len(scores) * share), len(scores) // 2)
    train = int(chosen * split)
    place = np.arange(chosen)
    np.random.shuffle(place)
    positive = latent_codes[:chosen][place[:train]]
    place = np.arange(chosen)
    np.random.shuffle(place)
    negative = latent_codes[-chosen:][place[:train]]
    labels = np.concatenate([np.ones(train, dtype=np.int64), np.zeros(train, dtype=np.int64)])
    fitted = svm.SVC(kernel="linear").fit(np.concatenate([positive, negative]), labels)
    return fitted.coef_[0] / np.linalg.norm(fitted.coef_[0])


def test_svc_equals_the_published_code():
    codes, _, scores = analytic(4000, 16)
    theirs = published_normal(codes.numpy(), scores[:, 2].numpy(), 0.05, 0.7, 3)
    mine = linear_normal(codes, scores[:, 2], "svc", 0.05, 0.7, seed=3)
    assert np.abs(mine.numpy() - theirs).max() < 1e-9


def test_extremes_equal_the_published_code():
    score = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    high, low, rest = extremes(score, 0.02)
    order = np.argsort(score.numpy())[::-1]
    assert high.tolist() == order[:80].tolist() and low.tolist() == order[-80:].tolist()
    assert rest.tolist() == order[80:-80].tolist()
    assert len(extremes(score, 500)[0]) == 500 and len(extremes(score, 9000)[0]) == 2000
    with pytest.raises(ValueError, match="larger"):
        extremes(score, 1e-9)


def test_ranks_share_ties_and_are_normal():
    ranks = normal_ranks(torch.tensor([3.0, 1.0, 1.0, 9.0]))
    assert torch.allclose(ranks, torch.special.ndtri(torch.tensor([2.5, 1.0, 1.0, 3.5], dtype=torch.float64) / 4))


def test_ridge_rank_finds_the_true_normal_better_than_svc():
    codes, normals, scores = analytic()
    found = ridge_rank(codes, scores)
    assert torch.allclose(found.norm(dim=1), torch.ones(5, dtype=found.dtype))
    for a in range(5):
        svc = linear_normal(codes, scores[:, a], "svc", 0.02)
        good, poor = correlation(codes, found[a], normals[a]), correlation(codes, svc, normals[a])
        assert good > 0.99 and good > poor, (a, good, poor)
        assert cosine_similarity(found[a], normals[a], 0) > 0.97


def test_ridge_rank_depends_on_the_order_of_scores_only():
    codes, _, scores = analytic(2000, 16)
    assert torch.allclose(ridge_rank(codes, scores), ridge_rank(codes, scores.exp()), atol=1e-12)
    assert torch.allclose(ridge_rank(codes, scores), -ridge_rank(codes, -scores), atol=1e-12)


@pytest.mark.parametrize("estimator", ["linear_svc", "logreg"])
def test_the_other_estimators_point_to_the_same_side(estimator):
    codes, normals, scores = analytic(4000, 16)
    assert correlation(codes, linear_normal(codes, scores[:, 0], estimator, 0.1), normals[0]) > 0.5


def test_a_nan_score_is_an_error_with_its_row():
    codes, _, scores = analytic(100, 8)
    scores[17, 1] = float("nan")
    for call in (lambda: ridge_rank(codes, scores), lambda: extremes(scores[:, 1], 0.1)):
        with pytest.raises(ValueError, match="row 17"):
            call()


def test_the_offset_has_the_best_balanced_accuracy():
    g = torch.Generator().manual_seed(0)
    reading = torch.randn(500, generator=g)
    positive = reading + 0.5 * torch.randn(500, generator=g) > 0.8

    def balanced(b):
        told = reading + b > 0
        return (told[positive].double().mean() + (~told[~positive]).double().mean()) / 2

    found = balanced(best_offset(reading, positive))
    assert all(balanced(-float(v) + e) <= found + 1e-9 for v in reading for e in (-1e-6, 1e-6))
    with pytest.raises(ValueError, match="same side of 0"):
        best_offset(reading, torch.ones(500, dtype=torch.bool))


# Steps.


def test_least_step_reaches_the_target_at_the_lowest_cost():
    codes, normals, _ = analytic(4000, 16)
    cov, g = torch.cov(codes.T), torch.Generator().manual_seed(0)
    delta = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0], [0.3, 0.0, -2.0, 0.0, 0.0]], dtype=torch.float64)
    step = least_step(normals, delta, cov)
    assert torch.allclose(step @ normals.T, delta, atol=1e-8)
    null = torch.linalg.svd(normals, full_matrices=True)[2][5:]  # feasible changes of the step
    for _ in range(200):
        other = step + 0.1 * torch.randn(2, len(null), generator=g, dtype=torch.float64) @ null
        assert (cost(other, cov) >= cost(step, cov) - 1e-9).all()


def test_least_step_without_covariance_equals_the_paper():
    normals = analytic(2000, 16)[1]
    step = least_step(normals, torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64))
    projected = orthogonalize(normals[0], normals[1:])
    assert torch.allclose(step, projected / (projected @ normals[0]), atol=1e-6)


def test_cost_of_one_standard_deviation():
    codes, normals, _ = analytic(4000, 16)
    cov = torch.cov(codes.T)
    std = (normals @ cov * normals).sum(1).sqrt()
    step = least_step(normals[:2], torch.tensor([float(std[0]), 0.0], dtype=torch.float64), cov)
    r = correlation(codes, normals[0], normals[1])
    assert float(cost(step, cov)) == pytest.approx((1 - r**2) ** -0.5, rel=1e-6)
    assert float(cost(least_step(normals[:1], std[:1], cov), cov)) == pytest.approx(1)


def test_least_step_costs_less_than_half_of_the_paper_step():
    codes, normals, scores = analytic()
    cov, found = torch.cov(codes.T), ridge_rank(codes, scores)
    true_std = (normals @ cov * normals).sum(1).sqrt()
    std = (found @ cov * found).sum(1).sqrt()
    for a in range(5):
        delta = torch.zeros(5, dtype=torch.float64)
        delta[a] = std[a]
        mine, paper = least_step(found, delta, cov), least_step(found, delta)
        others = [b for b in range(5) if b != a]
        assert float(cost(mine, cov)) < 0.5 * float(cost(paper, cov))
        assert ((mine @ normals.T)[others] / true_std[others]).abs().max() < 0.03
        assert float((mine @ normals[a]) / true_std[a]) == pytest.approx(1, abs=0.03)


def test_repeated_rows_are_merged_and_contradicting_rows_are_errors():
    codes, normals, _ = analytic(2000, 16)
    cov = torch.cov(codes.T)
    delta = torch.tensor([1.0, 0.0], dtype=torch.float64)
    once = least_step(normals[:2], delta, cov)
    twice = least_step(torch.cat([normals[:2], -normals[1:2]]), torch.tensor([1.0, 0.0, 0.0]).double(), cov)
    assert torch.allclose(once, twice)
    with pytest.raises(ValueError, match="equal"):
        least_step(torch.stack([normals[0], normals[0]]), delta, cov)
    almost = torch.nn.functional.normalize(normals[0] + 5e-3 * normals[2], dim=0)
    with pytest.raises(ValueError, match="nearly"):
        least_step(torch.stack([normals[0], almost]), delta, cov)


def test_affordable_leaves_out_expensive_rows():
    normals = torch.eye(3, dtype=torch.float64)
    cov = torch.tensor([[1.0, 0.95, 0.5], [0.95, 1.0, 0.5], [0.5, 0.5, 1.0]], dtype=torch.float64)
    kept, dropped = affordable([0], [1, 2], normals, cov, 1.5)
    assert kept == [2] and list(dropped) == [1] and dropped[1] == pytest.approx(3.2, abs=0.01)
