"""The training step of interface_gan: updated networks, regularization, moving averages, resume."""

import math

import pytest
import torch
from gan_toy import batch, build, config, run
from torch import nn

from interface_gan.train import lazy_rates, path_lengths
from losses.adversarial import r1_penalty
from tests.same import equal


def state(net: nn.Module) -> dict:
    return {name: value.clone() for name, value in net.state_dict().items()}


class Linear(nn.Module):
    """D(x) = <a, x>."""

    def __init__(self, a: torch.Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.a * x).flatten(1).sum(1)


def test_r1_of_a_linear_discriminator():
    a = torch.randn(3, 8, 8)
    assert torch.allclose(r1_penalty(Linear(a), torch.randn(5, 3, 8, 8)), a.square().sum() / 2)


def test_r1_weight_is_multiplied_by_its_interval():
    """The discriminator's gradient in an R1 update is that of r1_every gamma/2 |a|^2, hence r1_every gamma a."""
    method = build(loss={"gamma_r1": 0.5, "r1_every": 4, "lambda_path": 0})
    a = torch.randn(3, 8, 8)
    method.discriminator = Linear(a.clone())
    method.optimizers["discriminator"] = torch.optim.SGD(method.discriminator.parameters(), 1e-3)
    seen = []
    minimize = method.minimize
    method.minimize = lambda loss, name, **k: (seen.append((name, float(loss))), minimize(loss, name, **k))[1]
    for step in range(5):
        seen.clear()
        before = float(method.discriminator.a.detach().square().sum())
        method.step(batch(), step)
        names = [name for name, _ in seen]
        assert names == ["generator", "discriminator"] + ["discriminator"] * (step % 4 == 0)
        if step == 0:
            assert seen[2][1] == pytest.approx(4 * 0.5 * before / 2, rel=0.02)


def test_without_noise_all_strengths_stay_zero():
    for noise in (True, False):
        method = build(loss={"lambda_path": 1.0}, noise=noise)
        for step in range(2):
            method.step(batch(), step)
        strengths = [p for name, p in method.generator.named_parameters() if name.endswith("noise_strength")]
        assert len(strengths) > 2 and all(bool(p) == noise for p in strengths)


def test_path_lengths_of_a_linear_generator():
    """x = A sum_l w_l with orthonormal A: |J' y|^2 of each layer is chi^2 of Z degrees / H^2."""
    torch.manual_seed(0)
    z, h = 16, 8
    a = torch.linalg.qr(torch.randn(3 * h * h, z))[0]

    class Synthesis(nn.Module):
        def forward(self, ws, noise):
            return (ws.sum(1) @ a.T).view(-1, 3, h, h)

    lengths = path_lengths(Synthesis(), torch.randn(4000, 5, z))
    assert float(lengths.mean()) == pytest.approx(math.sqrt(z) / h, rel=0.02)


def test_path_regularization_updates_generator_mapping_and_mean():
    method = build(loss={"lambda_path": 2.0, "path_every": 1, "path_decay": 0.5, "gamma_r1": 0})
    before = state(method.generator)
    length = path_lengths(method.generator.synthesis, method.styles(4))
    penalty = (length - 0.3).square().mean()
    method.minimize(penalty, "generator")
    moved = {name for name, value in method.generator.state_dict().items() if not torch.equal(value, before[name])}
    assert {"mapping.fc0.weight", "synthesis.b4.conv1.weight", "synthesis.b8.torgb.weight"} <= moved
    logs = method.step(batch(), 0)
    assert float(method.path_mean) == pytest.approx(0.5 * float(logs["G/path_length"]), rel=1e-5)


def test_lazy_rates_equal_the_paper():
    lr, betas = lazy_rates(2e-3, 0.99, 16 / 17)
    assert lr == pytest.approx(2e-3 * 16 / 17) and betas == (0.0, pytest.approx(0.99 ** (16 / 17)))
    on, off = build(loss={"r1_every": 16}, lr=2e-3), build(loss={"gamma_r1": 0.0}, lr=2e-3)
    assert on.optimizers["discriminator"].param_groups[0]["lr"] == pytest.approx(2e-3 * 16 / 17)
    assert off.optimizers["discriminator"].param_groups[0]["lr"] == 2e-3


def test_ema_has_the_given_half_life():
    method = build(ema_images=80, ema_ramp=1.0)
    method.step(batch(), 0)
    assert equal(state(method.generator), state(method.ema_generator.module))
    share = 1.0
    for _ in range(10):  # 10 steps of 8 images
        share *= method.ema_decay(1000)
    assert share == pytest.approx(0.5)
    assert build(ema_images=10**6, ema_ramp=0.05).ema_decay(100) == pytest.approx(0.5 ** (8 / 40))


def test_style_mixing_gives_two_styles():
    torch.manual_seed(0)
    mixed = build(loss={"mixing_prob": 1.0}).styles(64)
    changes = (mixed[:, 1:] != mixed[:, :-1]).any(2).sum(1)
    assert (changes == 1).all() and mixed.shape == (64, 4, 8)
    plain = build(loss={"mixing_prob": 0.0}).styles(8)
    assert torch.equal(plain[:, 0], plain[:, 3])
    some = build(loss={"mixing_prob": 0.5}).styles(400)
    share = (some[:, 1:] != some[:, :-1]).any(2).any(1).float().mean()
    assert 0.4 < share < 0.6


def test_w_avg_follows_the_mean_of_w():
    method = build()
    for _ in range(2000):
        method.styles(8)
    w = method.generator.mapping(torch.randn(4000, 8)).mean(0)
    assert torch.allclose(method.generator.mapping.w_avg, w, atol=0.15 * float(w.abs().max()))


def test_generator_update_changes_only_the_generator_and_raises_scores():
    method = build(loss={"gamma_r1": 0.0, "lambda_path": 0.0})
    before, seen = state(method.discriminator), []
    minimize = method.minimize

    def watch(loss, name, **options):
        seen.append((name, [p.grad is None for p in method.discriminator.parameters()]))
        return minimize(loss, name, **options)

    method.minimize = watch
    method.step(batch(), 0)
    assert seen[0][0] == "generator" and seen[1] == ("discriminator", [True] * len(seen[1][1]))
    assert not equal(before, state(method.discriminator))
    fixed = build(loss={"gamma_r1": 0.0, "lambda_path": 0.0, "mixing_prob": 0.0})
    fixed.optimizers["discriminator"] = torch.optim.SGD(fixed.discriminator.parameters(), 0.0)
    scores = [float(fixed.step(batch(), step)["D/fake"].detach()) for step in range(60)]
    assert sum(scores[-10:]) > sum(scores[:10]) + 1  # fakes score ever higher with a discriminator that stands still


def test_discriminator_learns_to_separate_real_and_fake():
    method = build(loss={"lambda_path": 0.0})
    method.optimizers["generator"] = torch.optim.SGD(method.generator.parameters(), 0.0)
    for step in range(60):
        logs = method.step(batch(), step)
    assert logs["D/real"] > logs["D/fake"] + 1


def test_collapse_gives_a_warning(caplog):
    method = build().eval()
    with torch.inference_mode():
        method.sample(batch())
        assert "collapse" not in caplog.text
        for size in (4, 8):
            block = getattr(method.ema_generator.module.synthesis, f"b{size}")
            block.torgb.weight.zero_()
        method.sample(batch())
    assert "collapse" in caplog.text


@pytest.mark.slow
def test_resumed_run_with_augmentation_equals_uninterrupted_run(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    cfg = config(augment="color,translation,cutout,noise")
    one, two = run(tmp_path / "one", cfg), run(tmp_path / "two", cfg, (9, 0))
    assert one["step"] == two["step"] == 20
    assert equal(one["method"], two["method"]) and equal(one["optimizers"], two["optimizers"])
