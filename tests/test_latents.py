"""Directions and paths on toy codes with known ground truth."""

import math
import time

import pytest
import torch

from latents.directions import (
    Moments,
    alphas_to_targets,
    balanced_vector,
    class_means,
    knn_vectors,
    lda_scores,
    mean_codes,
    mean_vectors,
    ols_from_moments,
    ols_vectors,
    orthogonalize,
    side_of,
)
from latents.paths import lerp, slerp

NAMES = ("Smiling", "Male")


@pytest.fixture(scope="module")
def toy():
    """Two orthogonal unit directions in 16 dimensions, labels correlated 0.33."""
    rng = torch.Generator().manual_seed(3)
    n, z = 20_000, 16
    male = (torch.rand(n, generator=rng) < 0.5).double()
    smiling = (torch.rand(n, generator=rng) < 1 / 3 + male / 3).double()
    attr = torch.stack([smiling, male], 1)
    truth = torch.zeros(2, z, dtype=torch.float64)
    truth[0, 0], truth[1, 1] = 1.0, 1.0
    mu = attr @ truth + 0.5 * torch.randn(n, z, dtype=torch.float64, generator=rng)
    return mu, attr, truth


def cosine_and_leak(v, truth):
    unit = v / v.norm()
    return (unit @ truth[0]).item(), (unit @ truth[1]).abs().item()


# --- directions ------------------------------------------------------------------------------------------------------


def test_ols_and_balanced_vectors_remove_confounding(toy):
    mu, attr, truth = toy
    assert torch.corrcoef(attr.T)[0, 1].item() == pytest.approx(0.33, abs=0.02)
    balanced, _ = balanced_vector(mu, attr, 0, [1])
    for v in (ols_vectors(mu, attr)[0], balanced):
        cosine, leak = cosine_and_leak(v, truth)
        assert cosine >= 0.99 and leak <= 0.02
        assert v.norm().item() == pytest.approx(1.0, abs=0.03)  # alpha 1 = one class distance
    assert cosine_and_leak(mean_vectors(mu, attr)[0], truth)[1] >= 0.3


def test_directions_have_the_right_sign_and_dtype(toy):
    mu, attr, _ = toy
    means = mean_codes(mu, attr)
    assert means.shape == (2, 2, 16)
    assert torch.allclose(means[0, 1], mu[attr[:, 0] == 1].mean(0)) and torch.allclose(
        means[1, 0], mu[attr[:, 1] == 0].mean(0)
    )
    assert torch.allclose(mean_vectors(mu, attr), means[:, 1] - means[:, 0])
    for fit in (mean_vectors, ols_vectors, lda_scores):
        assert fit(mu.float(), attr.float()).dtype == torch.float32


def test_ols_equals_least_squares_with_a_small_ridge(toy):
    mu, attr, _ = toy
    design = torch.cat([torch.ones(len(attr), 1, dtype=torch.float64), attr], 1)
    expected = torch.linalg.lstsq(design, mu).solution[1:]
    assert torch.allclose(ols_vectors(mu, attr, ridge=0.0), expected, atol=1e-9)


def test_moments_in_batches_equal_one_pass(toy):
    mu, attr, _ = toy
    moments = Moments()
    for part in torch.arange(len(mu)).split(777):
        moments.add(mu[part], attr[part])
    assert moments.n == len(mu)
    assert torch.allclose(ols_from_moments(moments), ols_vectors(mu, attr), atol=1e-10)


def test_ols_accepts_one_hot_classes():
    rng = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (4000,), generator=rng)
    centres = torch.randn(4, 8, dtype=torch.float64, generator=rng)
    mu = centres[label] + 0.1 * torch.randn(4000, 8, dtype=torch.float64, generator=rng)
    y = torch.nn.functional.one_hot(label, 4).double()
    v = ols_vectors(mu, y, ridge=1e-6)
    assert torch.allclose(
        v[2] - v[0], centres[2] - centres[0], atol=0.02
    )  # neutral -> happy: the difference of two rows


def test_unknown_labels_are_left_out(toy):
    mu, attr, _ = toy
    holes = attr.clone()
    holes[::3, 0] = float("nan")
    known = ~torch.isnan(holes[:, 0])
    spoilt = mu.clone()
    spoilt[::3] += 100  # must not count where the label is unknown
    assert torch.allclose(mean_vectors(spoilt, holes)[0], mean_vectors(mu[known], attr[known])[0])
    assert torch.allclose(ols_vectors(spoilt, holes), ols_vectors(mu[known], attr[known]))
    assert torch.allclose(lda_scores(spoilt, holes)[0], lda_scores(mu[known], attr[known])[0], atol=1e-9)
    got, cells = balanced_vector(spoilt, holes, 0, [1])
    assert torch.allclose(got, balanced_vector(mu[known], attr[known], 0, [1])[0])
    assert sum(map(sum, cells.kept.values())) == int(known.sum())


def test_labels_of_minus_one_are_an_error(toy):
    mu, attr, _ = toy
    for fit in (mean_vectors, ols_vectors, lda_scores):
        with pytest.raises(ValueError, match="Smiling.*found -1.*mapped to 0 and 1"):
            fit(mu, 2 * attr - 1, names=NAMES)
    with pytest.raises(ValueError, match="expected 0, 1 or NaN"):
        balanced_vector(mu, 2 * attr - 1, 0, [1])
    with pytest.raises(ValueError, match="expected 0, 1 or NaN"):
        knn_vectors(mu[:1], mu, 2 * attr[:, 0] - 1)


def test_a_constant_attribute_is_an_error(toy):
    mu, attr, _ = toy
    constant = attr.clone()
    constant[:, 1] = 1
    for fit in (mean_vectors, ols_vectors, lda_scores):
        with pytest.raises(ValueError, match="Male does not vary.*0 faces without"):
            fit(mu, constant, names=NAMES)
    with pytest.raises(ValueError, match="Male"):
        balanced_vector(mu, constant, "Male", ["Smiling"], names=NAMES)
    with pytest.raises(ValueError, match="does not vary"):
        knn_vectors(mu[:1], mu, constant[:, 1])
    with pytest.raises(ValueError, match="so it has no direction"):  # constant among the complete rows only
        holes = attr.clone()
        holes[attr[:, 0] == 0, 1] = float("nan")
        ols_vectors(mu, holes, names=NAMES)


def test_small_cells_are_dropped_and_listed(toy):
    mu, attr, truth = toy
    subsample = attr.clone()
    rows = torch.nonzero((subsample[:, 0] == 1) & (subsample[:, 1] == 0)).flatten()
    keep = torch.ones(len(mu), dtype=torch.bool)
    keep[rows[5:]] = False  # five smiling women are left
    v, cells = balanced_vector(mu[keep], subsample[keep], "Smiling", ["Male"], names=NAMES)
    assert list(cells.kept) == [(1,)] and cells.dropped[(0,)][1] == 5
    assert "dropped Male=0" in cells.describe() and "with 5" in cells.describe()
    assert torch.isfinite(v).all() and cosine_and_leak(v, truth)[0] > 0.99
    with pytest.raises(ValueError, match="Smiling: 0 of 2 cells.*Male=0"):
        balanced_vector(mu[keep], subsample[keep], "Smiling", ["Male"], min_cell=10**6, names=NAMES)
    with pytest.raises(ValueError, match="at most 4"):
        balanced_vector(mu, torch.cat([attr] * 3, 1), 0, [1, 2, 3, 4, 5])


def test_lda_equals_the_whitened_mean_difference():
    rng = torch.Generator().manual_seed(1)
    n = 20_000
    attr = (torch.arange(n) % 2).double()[:, None]
    mu = torch.randn(n, 2, dtype=torch.float64, generator=rng) @ torch.diag(
        torch.tensor([0.2, 2.0], dtype=torch.float64)
    )
    mu = mu + attr * torch.tensor([0.2, 1.0])
    w = lda_scores(mu, attr, shrink=0.0)[0]
    # S^-1 d = (0.2 / 0.04, 1 / 4) = (5, 0.25); one standard deviation within a class
    assert (w / w.norm() @ torch.tensor([5, 0.25], dtype=torch.float64) / math.hypot(5, 0.25)).item() > 0.9999
    for side in (0, 1):
        assert (mu[attr[:, 0] == side] @ w).std().item() == pytest.approx(1.0, abs=0.02)
    means = class_means(mu, attr, w[None])
    assert (means[0, 1] - means[0, 0]).item() == pytest.approx(math.sqrt(0.2**2 / 0.04 + 1 / 4), abs=0.05)


# --- nearest neighbours ----------------------------------------------------------------------------------------------


def test_knn_with_all_codes_is_the_mean_vector(toy):
    mu, attr, _ = toy
    query = torch.zeros(2, 16, dtype=torch.float64)
    got = knn_vectors(query, mu, attr[:, 0], k=len(mu))
    assert torch.allclose(got, mean_vectors(mu, attr)[:1].expand(2, -1), atol=1e-9)


def test_knn_excludes_the_query():
    mu = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    target = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert knn_vectors(mu[:1], mu, target, k=1).item() == pytest.approx(1.0 - 3.0)
    assert knn_vectors(mu[:1] + 1e-3, mu, target, k=1).item() == pytest.approx(0.0 - 3.0)  # near is not itself


def test_knn_finds_local_directions():
    rng = torch.Generator().manual_seed(2)
    n = 4000
    cluster = (torch.rand(n, generator=rng) < 0.5).double() * 2 - 1
    attr = (torch.rand(n, generator=rng) < 0.5).double()
    mu = 0.05 * torch.randn(n, 4, dtype=torch.float64, generator=rng)
    mu[:, 0] += 10 * cluster
    mu[:, 1] += cluster * attr  # opposite on the two sides
    query = torch.zeros(2, 4, dtype=torch.float64)
    query[:, 0] = torch.tensor([-10.0, 10.0])
    v = knn_vectors(query, mu, attr, k=100)
    assert v[0, 1].item() == pytest.approx(-1, abs=0.15) and v[1, 1].item() == pytest.approx(1, abs=0.15)
    assert mean_vectors(mu, attr[:, None])[0, 1].abs().item() < 0.1


def test_a_batch_of_queries_equals_single_queries(toy):
    mu, attr, _ = toy
    whole = knn_vectors(mu[:70], mu[60:3000], attr[60:3000, 0], k=10)  # the last ten are among the codes
    alone = torch.cat([knn_vectors(mu[i : i + 1], mu[60:3000], attr[60:3000, 0], 10) for i in (0, 66, 69)])
    assert torch.allclose(whole[[0, 66, 69]], alone, atol=1e-12)


@pytest.mark.slow
def test_speed_of_fits_and_neighbors_at_the_size_of_celeba():
    """CPU seconds for a quarter of CelebA's 162,000 training codes, with its 40 attributes."""
    rng = torch.Generator().manual_seed(0)
    attr = (torch.rand(40_500, 40, generator=rng) < 0.3).float()
    mu = torch.randn(40_500, 128, generator=rng) + attr @ torch.randn(40, 128, generator=rng)
    calls = {
        "fits": (2.5, lambda: (ols_vectors(mu, attr), lda_scores(mu, attr))),
        "knn": (0.75, lambda: knn_vectors(mu[:64] + 0.01, mu, attr[:, 0])),
    }
    for name, (limit, call) in calls.items():
        start = time.process_time()
        call()
        seconds = time.process_time() - start
        assert seconds < limit, f"{name}: {seconds:.1f} CPU-seconds"


# --- using them ------------------------------------------------------------------------------------------------------


def test_orthogonalize():
    rng = torch.Generator().manual_seed(0)
    v, keep = (
        torch.randn(3, 9, dtype=torch.float64, generator=rng),
        torch.randn(4, 9, dtype=torch.float64, generator=rng),
    )
    rest = orthogonalize(v, keep)
    assert (rest @ keep.T).abs().max() < 1e-12
    dependent = torch.cat([keep, 2 * keep[:1], keep[1:2] - keep[2:3]])
    assert torch.allclose(orthogonalize(v, dependent), rest, atol=1e-12)  # the same span takes the same away
    assert (orthogonalize(v[0], keep[0]) @ keep[0]).abs() < 1e-12
    with pytest.raises(ValueError, match="in the span"):
        orthogonalize(keep[:1] + keep[1:2], keep)


def test_alphas_are_clamped_and_a_direction_without_effect_gives_zero():
    score, target = torch.tensor([[1.0, 0.0]]), torch.tensor([1.0])
    query = torch.tensor([[-100.0, 0.0], [100.0, 0.0]])
    assert alphas_to_targets(query, torch.tensor([[1.0, 0.0]]), score, target).tolist() == [[3.0], [-3.0]]
    assert alphas_to_targets(query, torch.tensor([[0.0, 1.0]]), score, target).tolist() == [[0.0], [0.0]]


def test_side_of():
    query = torch.tensor([[0.2], [0.9], [5.0]])
    assert side_of(query, torch.tensor([1.0]), torch.tensor([0.0, 1.0])).tolist() == [0, 1, 1]


def test_alphas_to_targets_reach_all_targets(toy):
    mu, attr, _ = toy
    v, score = mean_vectors(mu, attr), lda_scores(mu, attr)  # entangled on purpose: each moves both readings
    means = class_means(mu, attr, score)
    query, target = mu[:20], torch.stack([means[0, 1], means[1, 0]])
    alpha = alphas_to_targets(query, v, score, target)
    inside = (alpha.abs() < 3).all(1)
    assert inside.sum() >= 10
    landed = (query + alpha @ v) @ score.T
    assert torch.allclose(landed[inside], target.expand(int(inside.sum()), 2), atol=1e-6)
    apart = torch.cat([alphas_to_targets(query, v[i : i + 1], score[i : i + 1], target[i : i + 1]) for i in (0, 1)], 1)
    assert not torch.allclose((query + apart @ v) @ score.T, target.expand(20, 2), atol=0.1)  # one by one misses
    local = v * torch.linspace(0.5, 2, 20, dtype=torch.float64)[:, None, None]  # directions and targets per query
    each = target + torch.arange(20)[:, None] / 20
    alpha = alphas_to_targets(query, local, score, each)
    inside = (alpha.abs() < 3).all(1)
    assert torch.allclose((query + torch.einsum("qk,qkz->qz", alpha, local))[inside] @ score.T, each[inside], atol=1e-6)


def test_alphas_to_targets_with_a_singular_system():
    v = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    alpha = alphas_to_targets(torch.zeros(1, 2), v, v, torch.tensor([1.0, 1.0]))
    assert torch.allclose(alpha, torch.tensor([[0.5, 0.5]]), atol=1e-6)


# --- paths -----------------------------------------------------------------------------------------------------------


def test_paths_have_exact_ends_and_broadcast():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 7, generator=rng), 3 * torch.randn(5, 7, generator=rng)
    for path in (lerp, slerp):
        assert torch.equal(path(a, b, 0.0), a) and torch.equal(path(a, b, 1.0), b)
        assert torch.equal(path(a.double(), b.double(), 0.0), a.double())
        assert torch.equal(path(a.double(), b.double(), 1.0), b.double())
        strip = path(a, b, torch.linspace(0, 1, 9)[:, None])
        assert strip.shape == (9, 5, 7) and strip.dtype == torch.float32
        assert torch.equal(strip[0], a) and torch.equal(strip[8], b)
        assert torch.allclose(strip[4, 2], path(a[2], b[2], 0.5), atol=1e-6)
        assert path(a[0], b[0], torch.linspace(0, 1, 4)).shape == (4, 7)
        per_row = path(a, b, torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0]))
        assert torch.equal(per_row[1], b[1]) and torch.equal(per_row[3], a[3])


def test_slerp_has_constant_speed_and_a_monotone_norm():
    a, b = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 3.0], dtype=torch.float64)
    path = slerp(a, b, torch.linspace(0, 1, 7, dtype=torch.float64))
    angles = torch.atan2(path[:, 1], path[:, 0])
    assert torch.allclose(angles, torch.linspace(0, math.pi / 2, 7, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(path.norm(dim=1), torch.linspace(1, 3, 7, dtype=torch.float64), atol=1e-12)
    assert lerp(a, b, 0.5).norm() < path[3].norm() - 0.3  # the chord cuts through


def test_slerp_is_finite_for_zero_and_antipodal_codes():
    a = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    nearly = a + torch.tensor([1e-6, 0, 0], dtype=torch.float64)
    for b in (-a, torch.zeros(3, dtype=torch.float64), 2 * a, a, nearly, -nearly):
        for t in (0.0, 0.3, 1.0):
            assert torch.allclose(slerp(a, b, t), lerp(a, b, t)), (b, t)
    zero = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(slerp(zero, zero, 0.5), zero)
