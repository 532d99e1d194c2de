"""StarGAN's step: losses against NumPy, penalties by hand, who moves when, resume."""

from pathlib import Path

import numpy as np
import pytest
import torch
from aae_toy import CLASSES, Noise, meta
from torch import Tensor, nn

from engine import UserError
from gcgan.conditions import target_condition
from gcgan.config import GANTrainConfig, LabelModelConfig, LossConfig, StarGANConfig
from gcgan.stargan import StarGAN, class_loss
from losses.adversarial import gradient_penalty, r1_penalty
from losses.targets import Request
from tests.same import equal, train_with_stops

K = len(CLASSES)


def config(model: dict | None = None, loss: dict | None = None, **train) -> StarGANConfig:
    cadence = {"log_every": 7, "validate_every": 0, "sample_every": 0, "save_every": 1000, "val_images": 8}
    return StarGANConfig(
        model=LabelModelConfig(**{"width": 4, "blocks": 1, "critic_width": 4} | (model or {})),
        loss=LossConfig(**loss or {}),
        train=GANTrainConfig(**{"total_steps": 40, "batch_size": 8, "sample_size": 8} | cadence | train),
    )


def build(model: dict | None = None, loss: dict | None = None, attributes: bool = False, **train) -> StarGAN:
    torch.manual_seed(0)
    facts = meta(classes=[], attributes=["A", "B", "C"]) if attributes else meta()
    return StarGAN(config(model, loss, **train), facts).train()


def batch(n: int = 8) -> dict[str, Tensor]:
    return Noise().fixed(n)


def faces(method: StarGAN, data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Pictures and one-hot classes."""
    return method.labels.faces(data, method.labels.blocks[0])[:2]


def weights(method: StarGAN) -> dict[str, list[Tensor]]:
    return {name: [v.clone() for v in getattr(method, name).state_dict().values()] for name in ("generator", "critic")}


class LinearCritic(nn.Module):
    """Patch p scores <a_p, x>, whatever the label; logits <b_k, x>: everything about it is known by hand."""

    planes = False

    def __init__(self, size: int = 16, patches: int = 3, num_classes: int = K) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.a = nn.Parameter(0.02 * torch.randn(patches, size * size, generator=generator, dtype=torch.double))
        self.head = nn.Parameter(0.02 * torch.randn(num_classes, size * size, generator=generator, dtype=torch.double))

    def features(self, x, c=None):
        return x.flatten(1).double()

    def score(self, h, c):
        return (h @ self.a.T)[:, :, None]  # (N, patches, 1)

    def forward(self, x, c):
        return self.score(self.features(x, c), c)

    def logits(self, h):
        return h @ self.head.T


def losses_of(method: StarGAN, monkeypatch) -> dict[str, float]:
    """The losses that `minimize` is given; nothing moves."""
    found: dict[str, float] = {}
    monkeypatch.setattr(method, "minimize", lambda loss, name: found.setdefault(name, loss.item()))
    return found


# Losses.


def test_the_reference_s_losses_against_numpy(monkeypatch):
    """Choi et al. 1711.09020, Eq. 5 to 8, with the reference code's sums: WGAN-GP, class head, L1 cycle."""
    method = build({"critic": "class", "output": "tanh"}, {"gan": "wgan", "lambda_mismatch": 0.0})
    method.critic = critic = LinearCritic()
    found, data = losses_of(method, monkeypatch), batch()
    x, y = faces(method, data)
    y_target, x_fake = y.roll(3, 0), 0.5 * torch.randn(8, 1, 16, 16)
    method.update_critic(x, y, x_fake, y_target, Request(y_target, x.roll(3, 0), y.roll(1, 1)), False)

    a, b = critic.a.detach().numpy(), critic.head.detach().numpy()
    real, fake = (v.flatten(1).double().numpy() for v in (x, x_fake))
    log_softmax = lambda v: v - np.log(np.exp(v).sum(1, keepdims=True))  # noqa: E731
    d_loss = -(real @ a.T).mean() + (fake @ a.T).mean()
    d_loss += -(y.numpy() * log_softmax(real @ b.T)).sum(1).mean()
    d_loss += 10 * (np.linalg.norm(a.sum(0)) - 1) ** 2  # the gradient of the sum of the patches
    assert found["critic"] == pytest.approx(d_loss, rel=1e-5)

    terms = method.adversarial_terms(x_fake, y_target) | method.cycle_terms(x, y, x_fake)
    back = method.generator(x_fake, y).detach().flatten(1).double().numpy()
    g_loss = -(fake @ a.T).mean() - (y_target.numpy() * log_softmax(fake @ b.T)).sum(1).mean()
    g_loss += 10 * np.abs(back - real).mean()
    assert sum(terms.values()).item() == pytest.approx(g_loss, rel=1e-5)


def test_the_logistic_losses_against_numpy(monkeypatch):
    method = build(loss={"gamma_r1": 0.3, "lambda_mismatch": 0.5, "lambda_class_d": 2.0})
    method.critic = critic = LinearCritic()
    found = losses_of(method, monkeypatch)
    x, y = faces(method, batch())
    x_fake = 0.5 * torch.randn(8, 1, 16, 16)
    method.update_critic(x, y, x_fake, y.roll(1, 0), Request(y.roll(1, 0), x, y.roll(1, 1)), False)
    a, b = critic.a.detach().numpy(), critic.head.detach().numpy()
    real, fake = (v.flatten(1).double().numpy() for v in (x, x_fake))
    softplus = lambda v: np.log1p(np.exp(v))  # noqa: E731
    s, logits = real @ a.T, real @ b.T
    loss = softplus(-s).mean() + softplus(fake @ a.T).mean() + 0.5 * softplus(s).mean()  # a wrong label scores alike
    loss += 2 * (np.log(np.exp(logits).sum(1)) - (y.numpy() * logits).sum(1)).mean()
    loss += 0.3 * 0.5 * (a.mean(0) ** 2).sum()  # R1 of the patches' mean
    assert found["critic"] == pytest.approx(loss, rel=1e-5)


def test_attributes_pay_the_sum_over_labels():
    logits, c = torch.tensor([[2.0, -1.0], [0.5, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    each = np.log1p(np.exp(-np.array([[2.0, 1.0], [-0.5, 3.0]])))
    assert class_loss(logits, c, attributes=True).item() == pytest.approx(each.sum() / 2, rel=1e-6)


def test_mixed_labels_pay_soft_cross_entropy():
    logits, c = torch.randn(5, 4), torch.rand(5, 4)
    c = c / c.sum(1, keepdim=True)
    assert class_loss(logits, c, False).item() == pytest.approx(
        -(c * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("n", [1, 5])
def test_penalties_of_a_linear_critic(n):
    """GP takes the patches' sum, (|sum a_p| - 1)^2; R1 their mean, |mean a_p|^2 / 2; whatever the batch."""
    critic, x = LinearCritic(), torch.randn(n, 1, 16, 16, dtype=torch.double)
    a = critic.a.detach()
    value, norm = gradient_penalty(lambda v: critic(v, None), x, torch.randn_like(x))
    assert value.item() == pytest.approx((a.sum(0).norm().item() - 1) ** 2, rel=1e-6)
    assert r1_penalty(lambda v: critic(v, None).mean((1, 2)), x).item() == pytest.approx(
        a.mean(0).square().sum().item() / 2, rel=1e-6
    )


def test_a_critic_that_knows_nothing_has_the_textbook_s_statistics():
    method = build()
    for p in method.critic.parameters():
        torch.nn.init.zeros_(p)
    logs = method.step(batch(), 6)  # a logged step
    expected = {"Loss_D": 1.3863, "Loss_G": 0.6931, "D/real": 0.5, "D/fake_before": 0.5}
    for key, value in expected.items():
        assert logs[key].item() == pytest.approx(value, abs=1e-4), key


def test_d_of_the_fakes_after_the_update_is_of_the_same_fakes_and_another_critic():
    method = build(lr_critic=1e-2)
    logs = method.step(batch(), 6)
    assert float(logs["D/fake_after"]) != float(logs["D/fake_before"])
    assert "D/fake_after" not in build().step(batch(), 5)  # costs a forward: logged steps only


# Who moves when, and towards what.


def test_the_generator_moves_in_every_n_critic_th_step_only():
    method = build(loss={"gan": "wgan", "n_critic": 3})
    torch.nn.init.normal_(method.generator.out.weight, std=0.1)
    for step in range(6):
        before = weights(method)
        logs = method.step(batch(), step)
        after = weights(method)
        assert not equal(before["critic"], after["critic"])
        assert equal(before["generator"], after["generator"]) == (step % 3 != 2) == ("loss" not in logs)


def test_each_player_s_update_leaves_the_other_without_gradient(monkeypatch):
    method = build()
    x, y = faces(method, batch())
    method.update_critic(x, y, x.flip(0), y.roll(1, 0), Request(y.roll(1, 0), x.roll(1, 0), y.roll(1, 1)), False)
    assert all(p.grad is None for p in method.generator.parameters())
    method.optimizers["critic"].zero_grad()
    method.move_generator(method.adversarial_terms(method.generator(x, y), y), 0)
    assert all(p.grad is None for p in method.critic.parameters())


def test_the_cycle_leads_back_to_the_own_label_and_fakes_show_the_target():
    method, conditions = build(), []
    method.generator.register_forward_hook(lambda net, given, out: conditions.append(given[1].clone()))
    data = batch()
    method.step(data, 0)
    y = torch.nn.functional.one_hot(data["label"], K).float()
    assert torch.equal(conditions[1], y)  # the way back
    assert not torch.equal(conditions[0], y) and torch.equal(
        conditions[0].sum(0), y.sum(0)
    )  # a permutation of the labels


def test_the_critic_scores_real_faces_under_their_label_fakes_under_the_target_and_real_faces_under_a_wrong_one():
    method, scored = build(), []
    score = method.critic.score
    method.critic.score = lambda h, c: scored.append(c) or score(h, c)
    x, y = faces(method, batch())
    y_target, y_wrong = y.roll(1, 0), y.roll(1, 1)
    method.update_critic(x, y, x.flip(0), y_target, Request(y_target, x.roll(1, 0), y_wrong), False)
    assert all(torch.equal(a, b) for a, b in zip(scored, (y, y_target, y_wrong, y), strict=True))  # R1 at the end


def test_no_wrong_label_is_the_right_one(monkeypatch):
    method, asked = build(), []
    monkeypatch.setattr(
        method, "update_critic", lambda x, c, x_fake, c_target, request, *a, **k: asked.append((c, request))
    )
    monkeypatch.setattr(method.cfg.loss, "n_critic", 1000)
    for step in range(10):
        method.step(batch(), step)
    for c, request in asked:
        assert torch.equal(request.y_wrong.sum(1), torch.ones(8)) and not (request.y_wrong * c).any()


def test_unlabelled_faces_leave():
    method, data, seen = build(), batch(), []
    data["label"][:3] = -1
    method.generator.register_forward_hook(lambda net, given, out: seen.append(len(given[0])))
    method.step(data, 0)
    assert set(seen) == {5}


def test_attributes_are_told_as_zero_and_one():
    method = build(attributes=True)
    data = {"image": batch()["image"], "attr": (torch.arange(24).reshape(8, 3) % 2).float()}
    conditions = []
    method.generator.register_forward_hook(lambda net, given, out: conditions.append(given[1].clone()))
    method.step(data, 0)
    assert all(set(c.unique().tolist()) <= {0.0, 1.0} for c in conditions)
    assert torch.equal(conditions[1], data["attr"])
    turned = target_condition(data["attr"], 1, method.labels.blocks[0])
    assert torch.equal(turned[:, 1], 1 - data["attr"][:, 1]) and torch.equal(turned[:, 0], data["attr"][:, 0])


@pytest.mark.parametrize("critic", ["class+projection", "class", "planes+projection"])
@pytest.mark.parametrize("gan", ["logistic", "wgan"])
def test_every_critic_plays_every_game(critic, gan):
    loss = {"gan": gan, "lambda_mismatch": 0.0 if critic == "class" else 1.0}
    method = build({"critic": critic}, loss, label_mix=0.5)
    logs = [method.step(batch(), step) for step in range(3)]
    assert all(torch.isfinite(torch.as_tensor(v)).all() for row in logs for v in row.values())


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="lambda_mismatch"):
        config({"critic": "class"})
    with pytest.raises(UserError, match="batch_size"):
        config(batch_size=1)
    with pytest.raises(UserError, match="no expressions and no attributes"):
        StarGAN(config(), meta(classes=[]))


def test_averaging_over_the_mirror_image_makes_edits_symmetric():
    method = build({"mirror": True})
    torch.nn.init.normal_(method.ema_generator.module.out.weight, std=0.1)
    x, c = batch()["image"], torch.eye(K).repeat(2, 1)
    a, b = method.edit(x, c), method.edit(x.flip(-1), c).flip(-1)
    assert torch.allclose(a, b, atol=1e-5) and not torch.allclose(a, method.ema_generator(x, c), atol=1e-4)


# Further terms.


def test_eyes_and_mouth_weigh_more():
    method = build(loss={"lambda_face": 4.0})
    x = torch.zeros(1, 1, 16, 16)
    at_mouth, at_corner = x.clone(), x.clone()
    at_mouth[..., 12, 8] = at_corner[..., 0, 0] = 1.0
    mouth, corner = (method.distance(x_hat, x, None).item() for x_hat in (at_mouth, at_corner))
    assert mouth > 3 * corner > 0
    plain = build()
    assert plain.distance(at_mouth, x, None).item() == plain.distance(at_corner, x, None).item()
    with pytest.raises(UserError, match="lambda_face"):
        StarGAN(config(loss={"lambda_face": 1.0}), meta() | {"eyes": None})


def test_points_move_the_weights():
    method = build(loss={"lambda_face": 4.0})
    x, points = torch.zeros(2, 1, 16, 16), torch.full((2, 68, 2), torch.nan)
    points[0, :, :] = torch.tensor([-0.9, -0.9])  # eyes and mouth in the corner
    points[0, 42:48, 0] = -0.7
    x_hat = x.clone()
    x_hat[:, :, 0, 0] = 1.0
    alone = [method.distance(x_hat[i : i + 1], x[i : i + 1], points[i : i + 1]).item() for i in range(2)]
    assert alone[0] > 3 * alone[1]


def test_triple_consistency_compares_the_detour_with_the_straight_way():
    method, passes = build(loss={"lambda_triple": 3.0}), []
    torch.nn.init.normal_(method.generator.out.weight, std=0.1)
    x, y = faces(method, batch())
    x_fake = method.generator(x, y)
    method.generator.register_forward_hook(lambda net, given, out: passes.append((given[1], out)))
    term = method.triple_term(x, x_fake, y)["triple"]
    (first, _), (second, detour) = passes
    assert torch.equal(first, y.roll(1, 0)) and torch.equal(second, y)
    assert term.item() == pytest.approx(3 * (x_fake - detour).abs().mean().item(), rel=1e-6)
    assert build().triple_term(x, x_fake, y) == {}


# Runs.


def run(folder: Path, cfg: StarGANConfig, stops: tuple[int, ...] = (0,)) -> dict:
    """Train in `folder` with a stop after each of `stops`. Returns the last checkpoint."""
    return train_with_stops(folder, cfg, stops, lambda run, cfg: StarGAN(cfg, meta()), Noise())


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path):
    cfg = config(loss={"n_critic": 3}, total_steps=20, label_mix=0.5, augment="color,translation")
    whole, parts = run(tmp_path / "a", cfg), run(tmp_path / "b", cfg, (7, 0))
    assert equal(whole["method"], parts["method"]) and equal(whole["optimizers"], parts["optimizers"])


def test_how_often_a_run_logs_changes_no_weight(tmp_path):
    a, b = (run(tmp_path / str(n), config(total_steps=8, log_every=n)) for n in (1, 8))
    assert equal(a["method"], b["method"])


def paired_batch(n: int = 8) -> dict[str, Tensor]:
    """Faces with a partner of the next class; the last partner has no label."""
    data = batch(n)
    label = (data["label"] + 1) % K
    label[-1] = -1
    return data | {"pair_image": batch(2 * n)["image"][n:], "pair_label": label}


def paired(loss: dict) -> StarGAN:
    cfg = config({"output": "skip"}, {"pairs": "auto", "lambda_pixel": 10.0} | loss)
    cfg.data.pair = True
    torch.manual_seed(0)
    return StarGAN(cfg, meta()).train()


def test_in_pairs_the_target_is_the_person_s_own_photo():
    data = paired_batch()
    for pixel, power in (("l2", 2), ("l1", 1)):
        method = paired({"pixel": pixel, "lambda_self": 5.0})
        logs = method.step(data, 0)  # skip starts as the photo
        x, x_match = data["image"][:-1], data["pair_image"][:-1]
        assert torch.allclose(logs["G/pixel"], 10 * (x - x_match).abs().pow(power).mean(), rtol=1e-4)
        assert "G/cycle" not in logs and float(logs["G/self"]) < 1e-8
        torch.nn.init.normal_(method.generator.out.weight, std=0.1)
        c = faces(method, data)[1][:-1]
        error = (method.generator(x, c) - x).square().mean()
        assert torch.allclose(method.paired_terms(x, c, x, x_match)["self"], 5 * error, rtol=1e-4)


def test_pairs_need_expressions_and_a_data_set_with_pairs():
    cfg = config()
    cfg.data.pair = True
    with pytest.raises(UserError, match="label_attribute"):
        StarGAN(cfg, meta(classes=[], attributes=["A", "B"]))
    with pytest.raises(UserError, match="data.pair=true"):
        config(loss={"pairs": "paired"})
