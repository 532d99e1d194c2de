"""losses/ against torch.distributions, closed forms and hand-computed values."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from losses.adversarial import GANS, critic_loss, generator_loss, gradient_penalty, r1_penalty
from losses.gaussian import (
    batch_log_sigma2,
    calibrated_nll,
    gaussian_nll,
    kl_gaussians,
    kl_standard_normal,
    reparameterize,
)
from losses.perceptual import feature_distance
from losses.pixels import boxes_from_eyes, face_weight
from losses.quantise import bits_per_dim, dequantise, lost_bits, to_levels, to_pixels


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def normal(*shape, rng):
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


# --- gaussian --------------------------------------------------------------------------------------------------------


def test_kl_equals_torch_distributions(rng):
    mu, logvar, mu_p, logvar_p = (normal(5, 7, rng=rng) for _ in range(4))
    q, p = Normal(mu, (logvar / 2).exp()), Normal(mu_p, (logvar_p / 2).exp())
    assert torch.allclose(kl_standard_normal(mu, logvar), kl_divergence(q, Normal(0.0, 1.0)), atol=1e-10, rtol=0)
    assert torch.allclose(kl_gaussians(mu, logvar, mu_p, logvar_p), kl_divergence(q, p), atol=1e-10, rtol=0)


def test_kl_to_a_learned_prior_at_zero_equals_the_standard_kl(rng):
    mu, logvar = normal(4, 3, rng=rng).requires_grad_(), normal(4, 3, rng=rng).requires_grad_()
    zero = torch.zeros(4, 3, dtype=torch.float64)
    plain, learned = kl_standard_normal(mu, logvar).sum(), kl_gaussians(mu, logvar, zero, zero).sum()
    assert torch.allclose(plain, learned, atol=1e-12)
    for a, b in zip(torch.autograd.grad(plain, [mu, logvar]), torch.autograd.grad(learned, [mu, logvar]), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_kl_near_the_prior_is_accurate_in_float32():
    logvar = torch.tensor([1e-3])
    assert kl_standard_normal(torch.zeros(1), logvar).item() == pytest.approx(2.500834e-7, rel=1e-3)


def test_nll_equals_summed_log_prob(rng):
    x, x_hat = normal(3, 2, 4, 4, rng=rng), normal(3, 2, 4, 4, rng=rng)
    expected = -Normal(x_hat, 0.7).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(gaussian_nll(x, x_hat, 2 * math.log(0.7)), expected, atol=1e-10)


def test_reparameterize_moments_and_gradients(rng):
    mu = torch.full((20000, 2), 3.0, requires_grad=True)
    logvar = torch.full((20000, 2), 2 * math.log(0.5), requires_grad=True)
    z = reparameterize(mu, logvar, generator=rng)
    assert z.mean().item() == pytest.approx(3.0, abs=0.02)
    assert z.std().item() == pytest.approx(0.5, abs=0.01)
    d_mu, d_logvar = torch.autograd.grad(z.sum(), [mu, logvar])
    assert torch.equal(d_mu, torch.ones_like(mu))
    assert torch.allclose(d_logvar, (z - mu) / 2, atol=1e-5)


def test_calibrated_nll_value_and_gradient(rng):
    x, x_hat = normal(3, 1, 4, 4, rng=rng), normal(3, 1, 4, 4, rng=rng).requires_grad_()
    mse = (x - x_hat).square().mean()
    assert not batch_log_sigma2(x, x_hat).requires_grad
    calibrated = calibrated_nll(x, x_hat).mean()
    assert torch.allclose(calibrated, gaussian_nll(x, x_hat, mse.detach().log()).mean(), atol=1e-9)
    (got,) = torch.autograd.grad(calibrated, x_hat)
    (expected,) = torch.autograd.grad(16 / 2 * mse.log(), x_hat)
    assert torch.allclose(got, expected, atol=1e-9)


def test_a_perfect_reconstruction_is_finite(rng):
    x = normal(2, 1, 4, 4, rng=rng)
    x_hat = x.clone().requires_grad_()
    nll = calibrated_nll(x, x_hat).mean()
    (grad,) = torch.autograd.grad(nll, x_hat)
    assert torch.isfinite(nll) and torch.isfinite(grad).all()
    assert nll.item() == pytest.approx(16 * (-6 + math.log(2 * math.pi) / 2))  # log sigma stops at -6


def test_calibrated_nll_on_two_ranks_equals_one_rank(rng):
    x, x_hat = normal(4, 1, 4, 4, rng=rng), normal(4, 1, 4, 4, rng=rng).requires_grad_()
    (whole,) = torch.autograd.grad(calibrated_nll(x, x_hat).mean(), x_hat)
    mse = (x - x_hat).detach().square().mean()
    halves = [
        torch.autograd.grad(calibrated_nll(x[r], x_hat[r], average=lambda own: mse).mean(), x_hat)[0]
        for r in (slice(0, 2), slice(2, 4))
    ]
    assert torch.allclose((halves[0] + halves[1]) / 2, whole, atol=1e-12)


def test_weights_apply_to_nll_and_calibration(rng):
    x, x_hat = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    weight = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
    x_hat[0, 0, 0, 0] = 3.0  # the only error that counts: 9 x 4 / 4 pixels
    assert batch_log_sigma2(x, x_hat, weight).item() == pytest.approx(math.log(9.0))
    assert gaussian_nll(x, x_hat, 0.0, weight).item() == pytest.approx(18 + 2 * math.log(2 * math.pi))


def test_half_precision_is_converted_to_float32():
    x = torch.full((1, 1, 64, 64), 1.0, dtype=torch.bfloat16)
    nll = gaussian_nll(x, torch.zeros_like(x), 0.0)
    assert nll.dtype == torch.float32 and nll.item() == pytest.approx(
        4096 * (0.5 + math.log(2 * math.pi) / 2), rel=1e-6
    )


# --- pixels ----------------------------------------------------------------------------------------------------------


def face_points():
    points = torch.zeros(1, 68, 2)
    points[0, 36:42], points[0, 42:48] = torch.tensor([-0.4, -0.25]), torch.tensor([0.4, -0.25])
    points[0, 48:68] = torch.tensor([0.0, 0.5])
    return points


def test_face_weight_has_mean_one_and_covers_eyes_and_mouth():
    weight = face_weight(32, 4.0, face_points())
    assert weight.shape == (1, 1, 32, 32)
    assert weight.mean().item() == pytest.approx(1.0, abs=1e-6)
    at = lambda x, y: weight[0, 0, int((y + 1) * 16), int((x + 1) * 16)].item()  # noqa: E731
    inside, outside = at(0.0, 0.5), at(-0.95, 0.95)
    assert inside / outside == pytest.approx(5.0, rel=1e-5)  # 1 + lambda against 1
    assert at(-0.4, -0.25) == pytest.approx(inside) and at(0.4, -0.25) == pytest.approx(inside)
    # grown by 0.35 x 0.8 = 0.28: the mouth's box ends at y = 0.78
    assert at(0.0, 0.65) == pytest.approx(inside) and at(0.0, 0.95) == pytest.approx(outside)
    assert at(0.0, -0.9) == pytest.approx(outside)


def test_face_weight_has_soft_edges():
    values = face_weight(32, 4.0, face_points())[0, 0].unique()
    assert len(values) > 2  # 1 and 5 alone would be a hard box


def test_rows_without_landmarks_use_boxes_or_uniform_weights():
    points = torch.cat([face_points(), torch.full((1, 68, 2), float("nan"))])
    assert torch.allclose(face_weight(32, 4.0, points)[1], torch.ones(1, 32, 32))
    boxes = [[0.25, 0.5, 0.75, 0.9]]
    mixed, fixed = face_weight(32, 4.0, points, boxes), face_weight(32, 4.0, boxes=boxes)
    assert torch.equal(mixed[1:], fixed)
    assert torch.equal(mixed[:1], face_weight(32, 4.0, points[:1]))
    assert fixed[0, 0, 22, 16] > fixed[0, 0, 2, 2]


def test_five_landmarks_and_mean_eyes_give_similar_weights():
    five = torch.tensor([[[-0.4, -0.3], [0.4, -0.3], [0.0, 0.1], [-0.3, 0.54], [0.3, 0.54]]])
    by_points = face_weight(32, 4.0, five)
    by_eyes = face_weight(32, 4.0, boxes=boxes_from_eyes([[-0.4, -0.3], [0.4, -0.3]]))
    for x, y in ((-0.4, -0.3), (0.4, -0.3), (0.0, 0.54)):
        row, column = int((y + 1) * 16), int((x + 1) * 16)
        assert by_points[0, 0, row, column] > 1.5 and by_eyes[0, 0, row, column] > 1.5
    assert by_eyes[0, 0, 31, 0] < 1


def test_lambda_zero_gives_uniform_weights():
    assert torch.equal(face_weight(16, 0.0, face_points()), torch.ones(1, 1, 16, 16))


# --- quantise --------------------------------------------------------------------------------------------------------


def test_all_256_levels_are_recovered():
    x8 = torch.arange(256)
    assert torch.equal(to_levels((x8 / 127.5 - 1).float(), 8).long(), x8)
    assert torch.equal(to_levels((x8 / 127.5 - 1).float(), 5).long(), x8 // 8)


@pytest.mark.parametrize("n_bits", [1, 3, 5, 8])
def test_dequantization_noise_stays_in_its_cell(n_bits):
    k = torch.arange(2**n_bits, dtype=torch.int32)
    x8 = k if n_bits == 8 else k * 2 ** (8 - n_bits) + 2 ** (7 - n_bits)
    for u in (0.0, 0.5, 1 - 2.0**-24):  # the largest that torch.rand can give
        v = dequantise(k, n_bits, torch.full(k.shape, u))
        assert v.min() >= -0.5 and v.max() < 0.5
        assert torch.equal(to_levels(to_pixels(v, n_bits), n_bits), k)
        assert torch.equal(((to_pixels(v, n_bits) + 1) * 127.5).round().int(), x8.int())


def test_dequantise_draws_new_noise_and_keeps_its_input():
    k = torch.full((4, 1, 8, 8), 7, dtype=torch.int32)
    a, b = dequantise(k, 5), dequantise(k, 5)
    assert not torch.equal(a, b) and bool((k == 7).all())
    assert a.min() >= 7 / 32 - 0.5 and a.max() < 8 / 32 - 0.5 and a.std() > 0.005


@pytest.mark.parametrize("n_bits", [2, 5, 8])
def test_lost_bits_restore_the_image(n_bits):
    x = torch.arange(256).float() / 127.5 - 1
    v = dequantise(to_levels(x, n_bits), n_bits, 0.5)
    back = to_pixels(v, n_bits, lost_bits(x, n_bits))
    assert torch.equal(((back + 1) * 127.5).round(), torch.arange(256).float())


def test_bits_per_dim_of_a_uniform_density():
    # log p(v) = 0 everywhere: a uniform density on a cube of volume 1
    assert torch.equal(bits_per_dim(torch.zeros(3), 3 * 8 * 8, 5), torch.full((3,), 5.0))
    assert bits_per_dim(torch.tensor([12.0 * math.log(2)]), 12, 8).item() == pytest.approx(7.0)


def test_bits_per_dim_is_an_upper_bound(rng):
    # Pixels with the mass of a Gaussian over cells; the density bounds the mass, M = 64 draws more tightly.
    sigma, n_bits, num = 0.01, 8, 4000
    density = Normal(torch.tensor(0.0, dtype=torch.float64), torch.tensor(sigma, dtype=torch.float64))
    k = (((normal(num, 1, rng=rng) * sigma) + 0.5) * 256).floor().to(torch.int32)
    mass = density.cdf((k + 1) / 256 - 0.5) - density.cdf(k / 256 - 0.5)
    exact = -mass.clamp_min(1e-300).log2().mean().item()
    u = torch.rand(64, num, 1, dtype=torch.float64, generator=rng)
    log_p = torch.stack([density.log_prob(dequantise(k, n_bits, draw))[:, 0] for draw in u])
    one = bits_per_dim(log_p[0], 1, n_bits).mean().item()
    many = bits_per_dim(log_p.logsumexp(0) - math.log(64), 1, n_bits).mean().item()
    assert exact < many + 1e-3 and many < one
    assert abs(many - exact) < abs(one - exact) / 2


# --- perceptual ------------------------------------------------------------------------------------------------------


def test_feature_distance_equals_hand_computed_values():
    target = [torch.full((2, 1, 2, 2), 2.0), torch.full((2, 3, 1, 1), 1.0)]
    features = [target[0] + 1.0, target[1] + 0.5]  # MSE 1, 0.25; target's mean squares 4, 1
    assert feature_distance(features, target, "mse").item() == pytest.approx((1 + 0.25) / 2)
    assert feature_distance(features, target, "log", 12).item() == pytest.approx(6 * math.log(0.2501), rel=1e-5)


def test_feature_distance_has_gradients_for_the_reconstruction_only(rng):
    f, t = normal(2, 3, 4, 4, rng=rng).requires_grad_(), normal(2, 3, 4, 4, rng=rng).requires_grad_()
    for form in ("log", "mse"):
        d_f, d_t = torch.autograd.grad(feature_distance([f], [t], form, 48), [f, t], allow_unused=True)
        assert d_f.abs().sum() > 0 and d_t is None
    (got,) = torch.autograd.grad(feature_distance([f], [t], "log", 48), f)
    (expected,) = torch.autograd.grad(24 * (1e-4 + (f - t).square().mean() / t.square().mean()).log(), f)
    assert torch.allclose(got, expected, atol=1e-12)


def test_feature_distance_on_two_ranks_equals_one_rank(rng):
    f, t = normal(4, 3, 2, 2, rng=rng).requires_grad_(), normal(4, 3, 2, 2, rng=rng)
    (whole,) = torch.autograd.grad(feature_distance([f], [t], "log", 48), f)
    halves = [slice(0, 2), slice(2, 4)]
    square = t.square().mean()
    ratios = [(f[r] - t[r]).detach().square().mean() / square for r in halves]
    parts = []
    for r in halves:
        means = iter([square, (ratios[0] + ratios[1]) / 2])
        loss = feature_distance([f[r]], [t[r]], "log", 48, average=lambda own, means=means: next(means))
        parts.append(torch.autograd.grad(loss, f)[0])
    assert torch.allclose((parts[0] + parts[1]) / 2, whole, atol=1e-12)


def test_feature_distance_errors():
    maps = [torch.zeros(1, 1, 1, 1)]
    with pytest.raises(ValueError, match="'log' or 'mse'"):
        feature_distance(maps, maps, "l1")
    with pytest.raises(ValueError, match="num_dims"):
        feature_distance(maps, maps, "log")


# --- adversarial -----------------------------------------------------------------------------------------------------

REAL, FAKE = torch.tensor([2.0, -0.5]), torch.tensor([0.5, -3.0])


def softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("gan", "critic", "generator"),
    [
        (
            "logistic",
            (softplus(-2) + softplus(0.5)) / 2 + (softplus(0.5) + softplus(-3)) / 2,
            (softplus(-0.5) + softplus(3)) / 2,
        ),
        ("wgan", -1.25 - 0.75, 1.25),
    ],
)
def test_adversarial_losses_equal_hand_computed_values(gan, critic, generator):
    assert critic_loss(REAL, FAKE, gan).item() == pytest.approx(critic)
    assert generator_loss(FAKE, gan).item() == pytest.approx(generator)


@pytest.mark.parametrize("gan", GANS)
def test_critic_and_generator_have_opposite_gradients(gan):
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    d_real, d_fake = torch.autograd.grad(critic_loss(real, fake, gan), [real, fake], allow_unused=True)
    (g_fake,) = torch.autograd.grad(generator_loss(fake, gan), fake)
    assert bool((d_real < 0).all())  # real scores up
    assert bool((g_fake < 0).all())  # the generator lifts its own
    assert bool((d_fake > 0).all())


def test_unknown_gan_is_an_error():
    for call in (lambda: critic_loss(REAL, FAKE, "dcgan"), lambda: generator_loss(FAKE, "dcgan")):
        with pytest.raises(ValueError, match="logistic, wgan"):
            call()


@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 4, 4), (7,)])
def test_penalties_of_a_linear_critic(shape, rng):
    w = normal(*shape, rng=rng).requires_grad_()
    real, fake = normal(6, *shape, rng=rng), normal(6, *shape, rng=rng)
    critic = lambda x: (x * w).flatten(1).sum(1)  # noqa: E731
    length = w.detach().norm()
    penalty, norm = gradient_penalty(critic, real, fake)
    assert penalty.item() == pytest.approx((length.item() - 1) ** 2, rel=1e-9)
    assert norm.item() == pytest.approx(length.item(), rel=1e-9) and not norm.requires_grad
    (grad,) = torch.autograd.grad(penalty, w)
    assert torch.allclose(grad, 2 * (length - 1) * w.detach() / length, atol=1e-9)
    r1 = r1_penalty(critic, real)
    assert r1.item() == pytest.approx(length.item() ** 2 / 2, rel=1e-10)
    assert torch.allclose(torch.autograd.grad(r1, w)[0], w.detach(), atol=1e-10)


def test_gradient_penalty_sums_patches_and_interpolates():
    seen = []

    def critic(x):  # a patch map; slope of the summed scores: 2 in each of 2 x 2 values, norm 4
        seen.append(x.detach())
        return torch.cat([x, x], 1)

    real, fake = torch.zeros(64, 1, 2, 2), torch.ones(64, 1, 2, 2)
    penalty, norm = gradient_penalty(critic, real, fake)
    assert norm.item() == pytest.approx(4.0) and penalty.item() == pytest.approx(9.0)
    points = seen[0].flatten(1)
    assert bool((points == points[:, :1]).all())  # one a per sample
    assert points[:, 0].std() > 0.2 and points.min() >= 0 and points.max() <= 1


def test_gradient_penalty_has_second_derivatives(rng):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(64, 1)).double()
    real, fake = normal(3, 1, 4, 4, rng=rng), normal(3, 1, 4, 4, rng=rng)

    def penalty_at(weight):
        torch.manual_seed(1)  # the same points in between
        return gradient_penalty(lambda x: torch.func.functional_call(net, {"0.weight": weight}, (x,)), real, fake)[0]

    weight = net[0].weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(penalty_at, (weight,), eps=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(
        lambda w: r1_penalty(lambda x: torch.func.functional_call(net, {"0.weight": w}, (x,)), real),
        (weight,),
        atol=1e-6,
    )


def test_gradient_penalty_of_a_constant_critic_is_finite():
    w = torch.zeros(4, requires_grad=True)
    penalty, _ = gradient_penalty(lambda x: (x * w).sum(1), torch.randn(3, 4), torch.randn(3, 4))
    (grad,) = torch.autograd.grad(penalty, w)
    assert penalty.item() == pytest.approx(1.0, abs=1e-5) and torch.isfinite(grad).all()


def test_penalties_ignore_autocast_and_detach_the_data():
    w = torch.full((8, 8), 1.01, requires_grad=True)
    real, fake = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, norm = gradient_penalty(lambda x: x @ w, real, fake)
        loss = r1_penalty(lambda x: x @ w, real)
    assert norm.item() == pytest.approx(8 * 1.01 * 8**0.5, rel=1e-6)  # bf16 keeps 1.0078
    assert torch.autograd.grad(loss, real, allow_unused=True, retain_graph=True)[0] is None
