"""The losses and training steps of a2f: values against NumPy, updated networks, gradients."""

import numpy as np
import pytest
import torch
from a2f_toy import batch, build, meta

from a2f import gan
from a2f.gan import wrong_pair_loss
from a2f.requests import signed
from a2f.train import METHODS
from engine import UserError
from losses.gaussian import kl_standard_normal

softplus = lambda v: np.log1p(np.exp(-np.abs(v))) + np.maximum(v, 0)  # noqa: E731


def state(method: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in method.state_dict().items()}


def moved(before: dict, after: dict) -> set[str]:
    return {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}


def test_wrong_pair_loss_equals_numpy():
    real, wrong = np.array([0.3, -1.2, 2.0]), np.array([1.0, 0.5, -0.7])
    differs = np.array([True, False, True])
    given = [torch.tensor(v) for v in (real, wrong, differs)]
    assert float(wrong_pair_loss(*given, "logistic")) == pytest.approx((softplus(wrong) * differs).sum() / 3)
    assert float(wrong_pair_loss(*given, "wgan")) == pytest.approx((softplus(wrong - real) * differs).sum() / 3)


def test_rows_with_equal_requests_have_no_wrong_pair_loss():
    """A batch whose rows all show the same has no wrong request."""
    given = batch()
    given["attr"][:] = given["attr"][0]
    losses = [
        build("cgan", loss={"lambda_mismatch": value, "gamma_r1": 0.0}).step(given, 0)["D/loss"] for value in (0.0, 5.0)
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


@pytest.mark.parametrize("loss", [{"gan": "logistic"}, {"gan": "wgan", "lambda_gp": 10.0}])
def test_critic_loss_equals_numpy(loss):
    method = build("cgan", loss=loss | {"lambda_mismatch": 0.5})
    x, a = batch()["image"], signed(batch()["attr"])
    p = torch.arange(8).flip(0)
    x_fake, a_fake, step = x.roll(1, 0) * 0.5, a[p], 0
    with torch.no_grad():
        real, fake = method.critic(x, a).double().numpy(), method.critic(x_fake, a_fake).double().numpy()
        wrong = method.critic(x, a.roll(1, 0)).double().numpy()
    differs = (a.roll(1, 0) != a).any(1).numpy()
    torch.manual_seed(3)
    logs = method.update_critic(x, a, x_fake, a_fake, x[p], step)
    if loss["gan"] == "logistic":
        expected = softplus(-real).mean() + softplus(fake).mean() + 0.5 * (softplus(wrong) * differs).mean()
        expected += 0.1 * float(logs["D/r1"].detach())
    else:
        expected = fake.mean() - real.mean() + 0.5 * (softplus(wrong - real) * differs).mean()
        method = build("cgan", loss=loss | {"lambda_mismatch": 0.5})  # the first weights again
        torch.manual_seed(3)
        penalty, _ = gan.gradient_penalty(lambda v: method.critic(v, a_fake), x[p], x_fake)
        expected += 10 * float(penalty)
    assert float(logs["D/loss"]) == pytest.approx(expected, rel=1e-4)


def test_r1_is_half_the_mean_squared_gradient_at_real_faces():
    method = build("cgan", loss={"lambda_mismatch": 0.0})
    x, a = batch()["image"].requires_grad_(), signed(batch()["attr"])
    (gradient,) = torch.autograd.grad(method.critic(x, a).sum(), x)
    logs = method.update_critic(x.detach(), a, x.detach() * 0.5, a, x.detach(), 0)
    assert float(logs["D/r1"]) == pytest.approx(0.5 * gradient.flatten(1).square().sum(1).mean().item(), rel=1e-4)


def test_lazy_r1_is_multiplied_by_its_interval():
    def loss(every: int, step: int) -> dict:
        method = build("cgan", loss={"lambda_mismatch": 0.0, "r1_every": every})
        x, a = batch()["image"], signed(batch()["attr"])
        return method.update_critic(x, a, x * 0.5, a, x, step)

    whole, lazy, out = loss(1, 0), loss(4, 0), loss(4, 1)
    assert "D/r1" not in out
    assert float(lazy["D/loss"] - out["D/loss"]) == pytest.approx(4 * 0.1 * float(whole["D/r1"]), abs=1e-6)


def test_gradient_penalty_interpolates_faces_with_equal_requests(monkeypatch):
    """The real end of each line shows what the made face was asked for."""
    seen = {}

    def spy(critic, real, fake):
        seen["real"] = real
        return critic(fake).mean() * 0, torch.zeros(())

    monkeypatch.setattr(gan, "gradient_penalty", spy)
    method, given = build("cgan", loss={"gan": "wgan", "lambda_gp": 10.0}), batch()
    fakes = []
    method.generator.register_forward_hook(lambda net, args, out: fakes.append(args[1]))
    method.step(given, 0)
    rows = [int((given["image"] == x).flatten(1).all(1).nonzero()[0]) for x in seen["real"]]
    assert torch.equal(signed(given["attr"])[rows], fakes[0])


@pytest.mark.parametrize("system", ["cgan", "sharp", "face"])
def test_each_update_changes_only_its_networks(system):
    """Generator and critic move, averages follow, the stages before stay as they are."""
    method = build(system)
    before = state(method)
    method.step(batch(), 0)
    changed = moved(before, state(method))
    extra = {"photo_encoder", "ema_photo_encoder"} if system == "face" else set()
    assert changed == {"generator", "critic", "ema_generator"} | extra


@pytest.mark.parametrize("system", ["cgan", "face"])
def test_generator_updates_every_n_critic_steps(system):
    method = build(system, n_critic=3)
    for step in range(3):
        before = state(method)
        logs = method.step(batch(), step)
        assert ("generator" in moved(before, state(method))) == (step == 2) == ("G/loss" in logs)


@pytest.mark.parametrize("system", ["cgan", "sharp"])
def test_generator_updates_raise_the_critic_score(system):
    method, given = build(system, lr=1e-4, lr_critic=1e-9), batch()

    def score() -> float:
        torch.manual_seed(7)
        with torch.no_grad():
            a = signed(given["attr"])[:, method.columns]
            if system == "cgan":
                x_fake = method.generator(method.noise(8), a)
            else:
                x_fake = method.generator(method.dream(a, torch.randn(8, method.noise_dim)), a)
            return float(method.critic(x_fake, a).mean())

    if system == "sharp":
        method = build(system, loss={"lambda_l1": 0.0, "lambda_redraw": 0.0}, lr=1e-4, lr_critic=1e-9)
    before = score()
    for step in range(5):
        method.step(given, step)
    assert score() > before


def test_paired_and_unpaired_rows_have_separate_loss_terms():
    """L1 alone gives the dreamt half no gradient; redraw alone gives the paired half none."""
    for term, own, other in (("lambda_l1", slice(0, 4), slice(4, 8)), ("lambda_redraw", slice(4, 8), slice(0, 4))):
        method = build("face", loss={"lambda_l1": 0.0, "lambda_redraw": 0.0, term: 1.0})
        y_hat = (0.5 * batch()["image"]).requires_grad_()
        a, s = signed(batch()["attr"]), method.chain.sketch(batch()["image"].flip(0))
        terms = method.generator_terms(y_hat, a, s, batch()["image"], 4)
        (gradient,) = torch.autograd.grad(sum(v for k, v in terms.items() if k != "adv"), y_hat)
        assert gradient[own].any() and not gradient[other].any()


def test_pixel_terms_equal_numpy():
    method = build("sharp")
    y, s = method.picture_of(batch()), method.picture_of(batch()).flip(0)
    y_hat, a = 0.5 * y, signed(batch()["attr"])[:, method.columns]
    terms = method.generator_terms(y_hat, a, s, y, 5)
    pool = lambda v: v.double().numpy().reshape(-1, 8, 4, 8, 4).mean((2, 4))  # noqa: E731
    assert float(terms["l1"]) == pytest.approx(20 * np.abs(y_hat[:5].numpy() - y[:5].numpy()).mean(), rel=1e-5)
    assert float(terms["redraw"]) == pytest.approx(10 * np.abs(pool(y_hat[5:]) - pool(s[5:])).mean(), rel=1e-5)


def test_sampled_sketches_match_their_requests(monkeypatch):
    """What the critic hears of a row, what the sketch was drawn for and what the U-Net is told are one request."""
    method, given = build("face"), batch()
    heard, drawn, told = [], [], []
    method.generator.register_forward_hook(lambda net, args, out: told.append(args[1]))
    update, dream = method.update_critic, method.dream
    monkeypatch.setattr(method, "update_critic", lambda *args: heard.append(args[1:5]) or update(*args))
    monkeypatch.setattr(method, "dream", lambda a, noise: drawn.append(a) or dream(a, noise))
    method.step(given, 0)
    a, _, a_fake, x_match = heard[0]
    assert torch.equal(told[0][:, :4], a_fake) and torch.equal(drawn[0], a_fake[4:])
    assert torch.equal(a_fake[:4], a[:4])  # the paired half keeps its own request
    rows = [int((given["image"] == x).flatten(1).all(1).nonzero()[0]) for x in x_match]
    assert torch.equal(signed(given["attr"])[rows], a_fake)


def test_elbo_equals_numpy():
    """-log p(s | z) with the batch's sigma, and KL(q || p(z | a)), both in nats per image."""
    method = build("rough", loss={"kl_warmup": 0.0, "beta": 0.5})
    torch.nn.init.normal_(method.prior.net[2].bias, std=0.3)
    given = batch()
    torch.manual_seed(5)
    with torch.no_grad():
        s, a = method.picture_of(given), signed(given["attr"])[:, method.columns]
        mu, logvar = method.encoder(s, a)
        z = mu + torch.exp(0.5 * logvar) * torch.randn(mu.shape)
        s_hat, (mu_p, logvar_p) = method.decoder(z, a), method.prior(a)
    mse = (s - s_hat).double().square().mean().item()
    nll = 0.5 * 32 * 32 * (1 + np.log(mse) + np.log(2 * np.pi))
    v, v_p = (t.double().exp().numpy() for t in (logvar, logvar_p))
    d = (mu - mu_p).double().numpy()
    kl = 0.5 * (np.log(v_p / v) + (v + d**2) / v_p - 1).sum(1).mean()
    torch.manual_seed(5)
    logs = method.step(given, 0)
    assert float(logs["nll"]) == pytest.approx(nll, rel=1e-4) and float(logs["kl"]) == pytest.approx(kl, rel=1e-4)
    assert float(logs["loss"]) == pytest.approx(nll + 0.5 * kl, rel=1e-4)


def test_learned_prior_with_zero_weights_is_standard_normal():
    learned, normal = build("rough"), build("rough", {"prior": "normal"})
    mu, logvar, a = torch.randn(4, 8), torch.randn(4, 8), torch.ones(4, 2)
    expected = kl_standard_normal(mu, logvar).sum(1)
    assert torch.allclose(learned.divergence(mu, logvar, a), expected)
    assert torch.allclose(normal.divergence(mu, logvar, a), expected)


def test_noise_path_decodes_without_attributes():
    method = build("rough", {"prior": "noise"})
    logs = method.step(batch(), 0)
    assert float(logs["loss"]) == pytest.approx(float(logs["nll"] + logs["nll_noise"]), rel=1e-5)  # beta is 0 at first
    assert method.decoder.norm.gain is None
    grid = method.eval().sample(batch())["requests"].images
    assert grid.shape[-3:] == (1, 32, 32)


def test_colour_code_is_from_the_posterior_of_photos_else_from_the_prior():
    method = build("face")
    torch.nn.init.zeros_(method.photo_encoder.net[-1].weight)
    with torch.no_grad():
        method.photo_encoder.net[-1].bias.copy_(torch.tensor([3.0] * 4 + [-10.0] * 4))
    code, kl = method.colour_code(batch()["image"][:4], 512)
    assert torch.allclose(code[:4], torch.full((4, 4), 3.0), atol=0.1)
    assert abs(float(code[4:].mean())) < 0.1 and float(code[4:].std()) == pytest.approx(1, abs=0.1)
    assert float(kl) == pytest.approx(4 * 0.5 * (9 + np.exp(-10) + 10 - 1), rel=1e-5)


def test_mismatch_weight_falls_over_the_last_third():
    method = build("cgan", loss={"lambda_mismatch": 2.0}, total_steps=300)
    assert [method.mismatch_weight(step) for step in (0, 200, 250, 300)] == pytest.approx([2.0, 2.0, 1.0, 0.0])


def test_study_critic_with_penalty_or_wrong_pairs_is_an_error():
    with pytest.raises(UserError, match=r"model.nets: study has BatchNorm"):
        build("cgan", {"nets": "study"})


def test_data_without_attributes_are_an_error():
    from a2f_toy import config

    with pytest.raises(UserError, match="has no attributes"):
        METHODS["cgan"](config("cgan"), meta(attributes=[]))
