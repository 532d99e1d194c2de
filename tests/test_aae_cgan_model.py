"""Parts of aae_cgan: linear path, networks, targets, schedule, config, health checks."""

import copy

import numpy as np
import pytest
import torch
from aae_toy import CLASSES, batch, config, meta
from torch import nn

from aae_cgan.config import Config, ModelConfig
from aae_cgan.linear import LinearPath, fit_linear
from aae_cgan.model import ConditionalNorm, Encoder, Generator, ImageCritic, refuse_batch_norm
from aae_cgan.monitor import checks_of_phase, failed_checks, health_metrics
from aae_cgan.schedule import boundaries, generator_steps, phase_state
from aae_cgan.semi_supervised import semi_supervised
from aae_cgan.train import AAECGAN
from data.emotions import class_order
from data.labels import conditions
from engine import UserError, load_config
from evaluation.monitor import Monitor
from losses.augment import diff_augment, shifted
from losses.targets import draw_request, mix_labels, wrong_labels


def faces(n: int = 400, size: int = 8) -> torch.Tensor:
    """Correlated noise, (n, 1, size, size)."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(size * size, size * size, generator=generator) * torch.logspace(0, -2, size * size)
    return (0.2 * torch.randn(n, size * size, generator=generator) @ mixing).view(n, 1, size, size)


# Linear path.


def test_linear_path_whitens_and_inverts():
    x = faces()
    path = LinearPath(1, 8, 16)
    path.set(fit_linear(iter(x.split(90)), 16, mirrored=False))
    z = path.encode(x)
    assert torch.allclose(z.mean(0), torch.zeros(16), atol=1e-4)
    assert torch.allclose(z.T @ z / len(z), torch.eye(16), atol=1e-3)
    draws = torch.randn(5, 16)
    assert torch.allclose(path.encode(path.decode(draws)), draws, atol=1e-5)
    assert not list(path.parameters())
    assert copy.deepcopy(path) is path  # averages share it


def test_untrained_model_equals_numpy_pca():
    x = faces(size=16)
    rows = x.flatten(1).double().numpy()
    mean = rows.mean(0)
    _, _, v = np.linalg.svd(rows - mean, full_matrices=False)
    expected = torch.from_numpy((rows - mean) @ v[:16].T @ v[:16] + mean).float().view_as(x)
    method = AAECGAN(config(), meta()).eval()
    fitted = fit_linear([x], 16, mirrored=False)
    method.linear.set(fitted)
    for label in torch.eye(len(CLASSES)):
        shown = method.generator(method.encoder(x), label.expand(len(x), -1))
        assert torch.allclose(shown, expected, atol=1e-4)
    assert fitted.psnr == pytest.approx(10 * np.log10(4 / (expected - x).square().mean().item()), abs=1e-3)


def test_mirrored_fit_equals_fit_on_flipped_images():
    x = faces()
    mine = fit_linear([x], 12, mirrored=True)
    theirs = fit_linear([torch.cat([x, x.flip(-1)])], 12, mirrored=False)
    assert torch.allclose(mine.scale, theirs.scale, atol=1e-5)
    assert torch.allclose((mine.basis.T @ theirs.basis).abs(), torch.eye(12), atol=1e-3)


def test_randomised_pca_spans_the_exact_subspace(monkeypatch):
    x = faces()
    exact = fit_linear([x], 8, mirrored=False)
    monkeypatch.setattr("aae_cgan.linear.MAX_EXACT_DIM", 10)
    quick = fit_linear([x], 8, mirrored=False)
    angles = torch.linalg.svdvals(exact.basis.T @ quick.basis).clamp(max=1).acos()
    assert angles.max() < 1e-3 and torch.allclose(exact.scale, quick.scale, rtol=1e-3)


# Networks.


@pytest.mark.parametrize("size", [32, 48, 64, 96, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_build_for_every_size(size, channels):
    cfg = ModelConfig(width=8, latent_dim=16, linear="none")
    encoder, generator = Encoder(channels, size, cfg, None), Generator(channels, size, 5, cfg, None)
    critic = ImageCritic(channels, size, 5, cfg, head=True)
    x, y = torch.randn(2, channels, size, size), torch.eye(5)[:2]
    z = encoder(x)
    assert z.shape == (2, 16) and generator(z, y).shape == x.shape
    assert critic(x, y).shape == (2,) and critic.class_logits(x).shape == (2, 5)


@pytest.mark.parametrize("size", [32, 48, 64, 96, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_beside_a_linear_path_build_for_every_size(size, channels):
    cfg, path = ModelConfig(width=8, latent_dim=16), LinearPath(channels, size, 16)
    x, y = torch.rand(4, channels, size, size) * 2 - 1, torch.eye(5)[:4]
    path.mean.copy_(x.mean(0).flatten())
    nn.init.orthogonal_(path.basis)
    encoder, generator = Encoder(channels, size, cfg, path), Generator(channels, size, 5, cfg, path)
    z = encoder(x)
    assert z.shape == (4, 16) and torch.equal(z, path.encode(x))
    shown = generator(z, y)
    assert shown.shape == x.shape and torch.allclose(shown, path.decode(z), atol=1e-6)
    nn.init.normal_(generator.out.weight)
    assert not torch.allclose(generator(z, y), shown)


def test_parameter_counts_at_paper_scale():
    cfg = ModelConfig(width=64, latent_dim=128, linear="none")
    count = lambda net: sum(p.numel() for p in net.parameters()) / 1e6  # noqa: E731
    assert count(Encoder(1, 48, cfg, None)) == pytest.approx(3.35, abs=0.02)
    assert count(Generator(1, 48, 7, cfg, None)) == pytest.approx(3.43, abs=0.02)
    assert count(ImageCritic(1, 48, 7, cfg, False)) == pytest.approx(3.94, abs=0.02)


def test_unknown_image_size_is_a_user_error():
    with pytest.raises(UserError, match="image_size: expected 32, 48"):
        Encoder(1, 40, ModelConfig(width=8), None)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_conditional_norm_is_linear_and_starts_as_identity(norm):
    layer, h = ConditionalNorm(16, norm, 4).eval(), torch.randn(2, 16, 3, 3)
    one, other = torch.eye(4)[[0, 0]], torch.eye(4)[[2, 2]]
    assert torch.equal(layer(h, one), layer(h, other))
    nn.init.normal_(layer.scale.weight)
    nn.init.normal_(layer.shift.weight)
    plain = layer.norm(h)
    by_hand = plain * (1 + layer.scale.weight[:, 2].view(1, -1, 1, 1)) + layer.shift.weight[:, 2].view(1, -1, 1, 1)
    assert torch.allclose(layer(h, other), by_hand, atol=1e-6)
    beyond = layer(h, 1.5 * other - 0.5 * one)
    assert torch.allclose(beyond, 1.5 * layer(h, other) - 0.5 * layer(h, one), atol=1e-5)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_code_is_batch_independent(norm):
    method = AAECGAN(config({"norm": norm, "linear": "none"}), meta()).eval()
    x = batch(8)["image"]
    assert torch.allclose(method.encode(x)[:3], method.encode(x[:3]), atol=1e-5)


@pytest.mark.parametrize("kind", ["both", "planes", "projection", "late"])
def test_critic_score_depends_on_the_label(kind):
    critic = ImageCritic(1, 16, 4, ModelConfig(width=8, condition_d=kind), head=False)
    x = torch.randn(2, 1, 16, 16)
    assert not torch.allclose(critic(x, torch.eye(4)[:2]), critic(x, torch.eye(4)[2:]))


def test_batch_norm_in_a_critic_is_a_user_error():
    critic = ImageCritic(1, 16, 4, ModelConfig(width=8), head=False)
    critic.trunk.insert(1, nn.BatchNorm2d(8))
    with pytest.raises(UserError, match=r"d_image\.trunk\.1: a critic with BatchNorm"):
        refuse_batch_norm(d_image=critic)


# Requests.


def test_wrong_labels_differ_from_true_labels():
    torch.manual_seed(0)
    hard = torch.eye(5)[torch.randint(5, (300,))]
    wrong = wrong_labels(hard, False)
    assert (wrong.argmax(1) != hard.argmax(1)).all() and torch.equal(wrong.sum(1), torch.ones(300))
    drawn = torch.stack([(wrong[hard[:, 0] == 1].argmax(1) == k).float().mean() for k in range(1, 5)])
    assert (drawn - 0.25).abs().max() < 0.2  # each other class
    soft = torch.rand(300, 5).softmax(1)
    assert (wrong_labels(soft, False).argmax(1) != soft.argmax(1)).all()
    alike = torch.tensor([[0.6, 0.4, 0.0]]).repeat(4, 1)
    assert (wrong_labels(alike, False).argmax(1) != 0).all()
    metrics = torch.randint(2, (50, 6)).float() * 2 - 1
    assert ((wrong_labels(metrics, True) != metrics).sum(1) == 1).all()


def test_target_labels_come_with_their_real_face():
    x, y, _ = batch()["image"], *conditions(batch(), 4, False)
    own = draw_request(x, y, True, False)
    assert own.y_target is y and own.x_match is x
    targets = draw_request(x, y, False, False)
    assert torch.equal(targets.y_target.sum(0), y.sum(0))  # class counts stay
    for face, label in zip(targets.x_match, targets.y_target, strict=True):
        row = next(i for i in range(len(x)) if torch.equal(x[i], face))
        assert torch.equal(y[row], label)


def test_conditions_of_unknown_and_soft_labels():
    y, known = conditions({"label": torch.tensor([1, -1])}, 4, False)
    assert y.tolist() == [[0, 1, 0, 0], [0.25] * 4] and known.tolist() == [True, False]
    soft = torch.tensor([[0.7, 0.3], [0.5, 0.5]])
    y, _ = conditions({"label": torch.tensor([0, -1]), "label_soft": soft}, 2, False)
    assert torch.allclose(y, torch.tensor([[0.7, 0.3], [0.5, 0.5]]))
    y, known = conditions({"attr": torch.tensor([[1.0, 0.0], [float("nan"), 1.0]])}, 0, True)
    assert y.tolist() == [[1, -1], [0, 1]] and known.tolist() == [True, False]


def test_mixed_labels_are_interpolated():
    y, target = torch.eye(4)[[0] * 200], torch.eye(4)[[1] * 200]
    mixed = mix_labels(y, target, 0.25)
    assert torch.allclose(mixed.sum(1), torch.ones(200))
    assert 0.1 < (mixed[:, 1] < 1).float().mean() < 0.4
    assert torch.equal(mix_labels(y, target, 0.0), target)


def test_class_order():
    names = ["contempt", "sadness", "neutral", "anger", "happiness", "odd"]
    assert [names[i] for i in class_order(names)] == ["anger", "happiness", "sadness", "neutral", "contempt", "odd"]


def test_augmentation_is_differentiable_and_per_image():
    x = torch.randn(6, 3, 16, 16, requires_grad=True)
    assert diff_augment(x, "") is x
    out = diff_augment(x, "color,translation,cutout")
    assert out.shape == x.shape and torch.autograd.grad(out.sum(), x)[0].abs().sum() > 0
    grain = diff_augment(torch.zeros(64, 3, 16, 16), "noise")
    assert grain.std().item() == pytest.approx(0.1, rel=0.02) and len(grain.unique()) > 40_000
    ramp = torch.arange(16.0).expand(8, 1, 16, 16)
    moved = shifted(ramp, 3, "replicate")[:, 0, 0, 8] - 8
    assert moved.abs().max() <= 3 and len(moved.unique()) > 1


# Schedule and config.


def test_phase_state_of_a_run_with_all_phases():
    cfg = config(loss={"lambda_guide": 1.0, "n_critic": 3, "guide_end": 0.5}, autoencode_steps=5, gan_steps=6)
    assert boundaries(cfg) == [("guide", 0, 4), ("autoencode", 4, 9), ("gan", 9, 15), ("joint", 15, 40)]
    phases = [phase_state(step, cfg) for step in range(40)]
    assert not any(phase.generator for phase in phases[:4])
    assert all(phase.generator for phase in phases[4:9])
    assert [phase.generator for phase in phases[9:15]] == [False, False, True] * 2
    assert [phase.since for phase in phases[14:17]] == [5, 0, 1] and phases[20].generator_updates == 1
    assert generator_steps(cfg) == 5 + 2 + 8 == sum(phase.generator for phase in phases)
    assert phases[21].guide_factor == 1 and phases[22].guide_factor == 0  # half of the 36 steps after the guide's own


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.autoencode_steps=50", "train.total_steps=40"], "train.total_steps: 40 are fewer than the 50"),
        (["loss.lambda_adv=0"], "loss.lambda_adv: 0 means no image critic"),
        (
            ["loss.lambda_adv=0", "loss.lambda_class=1", "train.autoencode_steps=20000"],
            "loss.lambda_class: needs the image critic",
        ),
        (["data.sets=[fer2013, tfd]"], "data.sets: this method takes one data set"),
        (["train.mixed=1", "loss.gan=wgan"], "train.mixed: 1 leaves no fake"),
        (["model.width=20"], "model.width: expected 8 .. 96"),
        (["train.augment=colour"], "train.augment: expected a list of color"),
        (["loss.prior_fraction=2"], "loss.prior_fraction: expected a share"),
    ],
)
def test_impossible_configs_are_user_errors(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(Config, None, overrides)


def test_integer_beta_is_accepted():
    cfg = load_config(Config, None, ["train.beta1=0", "model.width=8", "model.latent_dim=16"])
    assert AAECGAN(cfg, meta()).optimizers["d_image"].defaults["betas"] == (0.0, 0.9)


def test_dataset_without_labels_is_a_user_error():
    with pytest.raises(UserError, match="noise has no attributes"):
        AAECGAN(config(), meta(classes=[], attributes=[]))


# Unlabelled faces and alarms.


def test_share_of_unlabelled_faces_per_batch():
    from data.batches import ImageStore
    from data.config import DataConfig
    from data.faces import FaceSet

    images = np.random.default_rng(0).integers(0, 256, (50, 1, 16, 16)).astype(np.uint8)
    label = np.where(np.arange(50) < 12, np.arange(50) % 3, -1)
    faces = FaceSet(ImageStore(images, {"label": label}), np.arange(50), DataConfig(balanced=True), True, 3)
    parts = semi_supervised(faces, 0.5)
    rows = next(parts.batches(12, 0, 0, 1, "cpu", 0))
    assert (rows["label"] < 0).sum() == 6 and sorted(rows["label"][:6].tolist()) == [0, 0, 1, 1, 2, 2]
    again = parts.batches(12, first_step=3)
    straight = parts.batches(12)
    third = [next(straight) for _ in range(4)][3]
    assert torch.equal(next(again)["index"], third["index"])
    assert len(parts) == 50 and (parts.fixed(6)["label"] >= 0).all()
    without = semi_supervised(faces, 0.0)
    assert len(without) == 12 and (next(without.batches(12))["label"] >= 0).all()
    labelled = FaceSet(faces.store, np.arange(12), DataConfig(), True, 3)
    assert semi_supervised(labelled, 0.5) is labelled


def test_monitor_warns_once_after_three_failures():
    torch.manual_seed(0)
    x, z = torch.randn(8, 1, 8, 8), torch.randn(8, 16)
    good = health_metrics(x, z, torch.stack([x, x.flip(0)]), x[None].transpose(0, 1).expand(-1, 3, -1, -1, -1))
    assert good["edit_diversity"] == pytest.approx(1) and failed_checks(good, 4) == {}
    alike = x[:1].expand(8, -1, -1, -1)
    bad = health_metrics(x, 0.1 * z, torch.stack([alike, alike]), alike[:, None].expand(-1, 3, -1, -1, -1))
    metrics = bad | {"edit_accuracy": 0.2, "gap_image": -1.0}
    found = checks_of_phase(failed_checks(metrics, 4), "joint")
    assert {"edit_diversity", "prior_diversity", "code_std", "edit_accuracy", "gap_image"} <= set(found)
    assert checks_of_phase(found, "guide") == {}  # no check applies in this phase
    assert set(checks_of_phase(found, "autoencode")) == {"prior_diversity", "edit_diversity", "code_std"}
    monitor = Monitor()
    assert [len(monitor.update(found, "joint")) for _ in range(4)] == [0, 0, len(found), 0]
    assert monitor.update({}, "joint") == [] and monitor.update(found, "joint") == []
    assert [len(monitor.update(found, "autoencode")) for _ in range(3)] == [0, 0, len(found)]
    assert [len(monitor.update(found, "joint")) for _ in range(3)] == [0, 0, len(found)]  # a new phase starts at 0
