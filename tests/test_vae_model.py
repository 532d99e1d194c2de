"""The VAE's networks and training step on noise: shapes, losses, gradients."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from engine import UserError
from losses.gaussian import kl_standard_normal
from vae.config import Config, LossConfig, ModelConfig, VAETrainConfig
from vae.model import ARCHS, Decoder, Encoder, FeatureNet, VGG19Features
from vae.train import BetaVAE, describe_beta, whole_batch

META = {
    "dataset": "noise",
    "channels": 3,
    "image_size": 32,
    "classes": ["happy", "sad", "neutral"],
    "attributes": ["Smiling", "Male"],
    "class_counts": {"train": [300, 10, 700]},
    "landmarks": 0,
    "eyes": [[-0.3, -0.1], [0.3, -0.1]],
    "num_train": 1010,
}


def batch(n: int = 8, size: int = 32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    attr = torch.randint(0, 2, (n, 2), generator=generator).float()
    attr[0, 0] = float("nan")
    label = torch.randint(-1, 3, (n,), generator=generator)
    image = torch.rand(n, 3, size, size, generator=generator) * 2 - 1
    return {"image": image, "attr": attr, "label": label, "index": torch.arange(n)}


def method(loss: dict[str, Any] | None = None, seed: int = 0, **model: Any) -> BetaVAE:
    torch.manual_seed(seed)
    model = {"arch": "residual", "width": 8, "latent_dim": 6} | model
    cfg = Config(model=ModelConfig(**model), loss=LossConfig(**loss or {}), train=VAETrainConfig(total_steps=100))
    return BetaVAE(cfg, META).train()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [32, 48, 64, 128])
def test_output_shape_of_every_architecture(arch: str, size: int) -> None:
    cfg = ModelConfig(arch=arch, latent_dim=5, width=8)
    encoder, decoder = Encoder(1, size, cfg).eval(), Decoder(1, size, cfg).eval()
    with torch.inference_mode():
        mu, logvar = encoder(torch.rand(2, 1, size, size))
        x_hat = decoder(mu)
        assert mu.shape == logvar.shape == (2, 5) and x_hat.shape == (2, 1, size, size)
        assert torch.allclose(x_hat, torch.tanh(decoder.logits(mu) / 2))


def test_parameter_counts_of_published_networks() -> None:
    def count(arch: str, latent_dim: int) -> int:
        cfg = ModelConfig(arch=arch, latent_dim=latent_dim)
        return sum(p.numel() for net in (Encoder(3, 64, cfg), Decoder(3, 64, cfg)) for p in net.parameters())

    assert count("burgess", 10) == 504_055
    assert count("vanilla", 128) == 3_937_635


def test_image_size_not_divisible_is_a_user_error() -> None:
    with pytest.raises(UserError, match="data.image_size: 36"):
        Encoder(3, 36, ModelConfig(stages=3))


@pytest.mark.parametrize("arch", ARCHS)
def test_code_is_batch_independent(arch: str) -> None:
    net = method(arch=arch, latent_dim=8)
    net.step(batch(), 0)  # BatchNorm has seen something
    x = batch(64)["image"]
    with torch.inference_mode():
        inside = net.eval().ema_encoder(x)[0][:1]
        alone = net.ema_encoder(x[:1])[0]
    assert torch.allclose(inside, alone, atol=1e-5)


def test_loss_equals_negative_elbo() -> None:
    """Against torch.distributions: sampled code, sums over pixels and latents, batch mean, nats."""
    net = method({"kl_warmup": 0.0, "lambda_face": 0.0, "sigma": 0.5, "beta": 3.0})
    before, x = copy.deepcopy(net), batch()["image"]
    torch.manual_seed(5)
    log = net.step(batch(), 0)
    torch.manual_seed(5)
    with torch.no_grad():
        mu, logvar = before.encoder(x)
        posterior = Normal(mu, torch.exp(logvar / 2))
        kl = kl_divergence(posterior, Normal(0, 1)).sum(1).mean()
        z = mu + torch.exp(logvar / 2) * torch.randn(mu.shape)
        x_hat = torch.tanh(before.decoder.logits(z) / 2)
        recon = -Normal(x_hat, 0.5).log_prob(x).sum((1, 2, 3)).mean()
    assert torch.allclose(log["kl"], kl, rtol=1e-5) and torch.allclose(log["recon"], recon, rtol=1e-5)
    assert torch.allclose(log["loss"], recon + 3 * kl, rtol=1e-5)


def test_feature_network_learns_known_labels() -> None:
    """Only known attributes and classes count, and every class has the same weight."""
    net = method({"features": "own", "feature_steps": 5})
    before, part = copy.deepcopy(net), batch(32)
    torch.manual_seed(5)
    log = net.step(part, 0)
    torch.manual_seed(5)
    with torch.no_grad():
        attr, classes = before.feature_net(part["image"] + 0.02 * torch.randn_like(part["image"])).split([2, 3], 1)
        known, weight = part["attr"].isfinite(), 1 / torch.tensor([300.0, 10.0, 700.0])
        bits = F.binary_cross_entropy_with_logits(attr[known], part["attr"][known])
        nats = F.cross_entropy(classes, part["label"], weight=weight, ignore_index=-1)
    assert torch.allclose(log["features/loss"], bits + nats, rtol=1e-5)


@pytest.mark.parametrize("lambda_face", [0, 4])
def test_bernoulli_nll_is_the_cross_entropy(lambda_face: float) -> None:
    """Summed over pixels, mean over the batch, also where pixels have weights; least for the exact reconstruction."""
    net = method({"pixel": "bernoulli", "lambda_face": lambda_face})
    x = batch()["image"].clamp(-0.99, 0.99)
    logits = 2 * torch.atanh(x)
    density = torch.distributions.Bernoulli(logits=logits, validate_args=False).log_prob((x + 1) / 2)
    weight = net.mean_weight if lambda_face else 1.0
    expected = -(weight * density).sum((1, 2, 3)).mean()
    nll = net.pixel_nll(x, x, logits, {})
    assert nll.item() == pytest.approx(expected.item(), rel=1e-5)
    for other in (-logits, logits + 0.1, logits - 0.1):
        assert net.pixel_nll(x, torch.tanh(other / 2), other, {}) > nll


def test_face_weight_has_mean_one() -> None:
    net, x = method({"sigma": 1.0}), torch.zeros(1, 3, 32, 32)
    flat = method({"sigma": 1.0, "lambda_face": 0}).pixel_nll(x, x + 0.1, x, {})
    assert net.pixel_nll(x, x + 0.1, x, {}).item() == pytest.approx(flat.item(), rel=1e-6)
    at_eye, at_corner = x.clone(), x.clone()
    at_eye[..., 14, 11] = 0.5
    at_corner[..., 1, 1] = 0.5
    zero = net.pixel_nll(x, x, x, {})
    ratio = (net.pixel_nll(x, at_eye, x, {}) - zero) / (net.pixel_nll(x, at_corner, x, {}) - zero)
    assert ratio.item() == pytest.approx(5, rel=1e-2)


def test_face_grow_changes_the_boxes() -> None:
    wide, close = (method({"lambda_face": 16, "face_grow": grow}).mean_weight for grow in (0.35, 0.1))
    assert (close > 1).sum() < 0.7 * (wide > 1).sum() and close.max() > 1.3 * wide.max()
    with pytest.raises(UserError, match="face_grow"):
        LossConfig(face_grow=-0.1)


def test_capacity_loss() -> None:
    net = method({"objective": "capacity", "gamma": 10, "capacity": 4, "capacity_steps": 10})
    scale = torch.tensor(1.0, requires_grad=True)
    mu = torch.tensor([[3.0, 0, 0, 0, 0, 0], [0.0] * 6])

    def grad(step: int, factor: float) -> float:
        kl = kl_standard_normal(scale * factor * mu, torch.zeros_like(mu)).mean(0)
        rate, _ = net.rate(mu, mu, mu, kl, step)
        return torch.autograd.grad(rate, scale)[0].item()

    assert grad(10, 1.0) < 0 < grad(0, 1.0)  # mean KL 2.25: below C = 4, above C = 0
    assert grad(10, 2.0) > 0  # 9 above 4
    kl = kl_standard_normal(mu, torch.zeros_like(mu)).mean(0)
    assert net.rate(mu, mu, mu, kl, 10)[0].item() == pytest.approx(10 * (4 - 2.25))  # per image: 10 * (0.5 + 4) / 2


def test_free_bits_stop_the_gradient() -> None:
    net = method({"free_bits": 1.0, "kl_warmup": 0})
    mu = torch.tensor([[0.5, 2.0, 0, 0, 0, 0]], requires_grad=True)
    kl = kl_standard_normal(mu, torch.zeros_like(mu)).mean(0)
    net.rate(mu, mu, mu, kl, 0)[0].backward()
    assert mu.grad[0].tolist() == [0, 2, 0, 0, 0, 0]


def test_gradient_over_two_ranks_equals_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two simulated ranks: statistics are of the whole batch, gradients are averaged."""
    loss = {"objective": "capacity", "gamma": 3, "capacity": 0.1, "capacity_steps": 1}
    data = batch(8)
    x, noise = data["image"], torch.randn(8, 6)

    def gradient(rows: slice, mean_kl: Tensor | None, mse: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        net = method(loss)
        seen = []

        def average(value: Tensor) -> Tensor:
            seen.append(value.detach())
            wanted = mean_kl if value.dim() else mse
            return value.detach() if wanted is None else wanted

        monkeypatch.setattr("vae.train.mean_over_ranks", average)
        mu, logvar = net.encoder(x[rows])
        logits = net.decoder.logits(mu + torch.exp(logvar / 2) * noise[rows])
        recon = net.pixel_nll(x[rows], torch.tanh(logits / 2), logits, {})
        kl = whole_batch(kl_standard_normal(mu, logvar).mean(0))
        total = recon + net.rate(mu, mu, logvar, kl, 5)[0]
        grads = torch.autograd.grad(total, list(net.encoder.parameters()))
        by_shape = {bool(v.dim()): v for v in seen}
        return torch.cat([g.flatten() for g in grads]), by_shape[True], by_shape[False]

    whole, _, _ = gradient(slice(0, 8), None, None)
    first, second = (gradient(rows, None, None) for rows in (slice(0, 4), slice(4, 8)))
    mean_kl, mse = (first[1] + second[1]) / 2, (first[2] + second[2]) / 2
    both = [gradient(rows, mean_kl, mse)[0] for rows in (slice(0, 4), slice(4, 8))]
    assert torch.allclose(torch.stack(both).mean(0), whole, rtol=1e-4, atol=1e-3 * whole.abs().max().item())


def test_discriminator_and_autoencoder_updates_are_separate() -> None:
    net = method({"objective": "factor", "gamma": 6.4, "lr_discriminator": 1e-3})
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.zero_grad(set_to_none=True)
    net.update_discriminator(torch.randn(4, 6), batch(4)["image"])
    assert all(p.grad is None for p in net.encoder.parameters())
    after = net.state_dict()
    changed = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"discriminator"}
    net.zero_grad(set_to_none=True)
    kl = kl_standard_normal(*net.encoder(batch(4)["image"])).mean(0)
    rate, _ = net.rate(net.encoder(batch(4)["image"])[0], None, None, kl, 0)
    net.minimize(rate, "vae")
    assert all(p.grad is None for p in net.discriminator.parameters())


def test_own_features_are_trained_then_fixed() -> None:
    net = method({"features": "own", "feature_steps": 3, "lambda_feature": 1.0})
    assert net.needs == ("image", "attr", "label")
    first = {k: v.clone() for k, v in net.encoder.state_dict().items()}
    losses = [net.step(batch(16), step)["features/loss"].item() for step in range(3)]
    assert losses[2] < losses[0]
    assert all(torch.equal(first[k], v) for k, v in net.encoder.state_dict().items())
    held = {k: v.clone() for k, v in net.feature_net.state_dict().items()}
    for step in range(3, 23):
        net.step(batch(16), step)
    assert all(torch.equal(held[k], v) for k, v in net.feature_net.state_dict().items())


def test_feature_loss_gradient_reaches_only_the_reconstruction() -> None:
    net = method({"features": "own", "feature_steps": 1})
    x, x_hat = batch(seed=1)["image"].requires_grad_(), batch(seed=2)["image"].requires_grad_()
    net.feature_nll(x, x_hat).backward()
    assert x_hat.grad.abs().sum() > 0 and x.grad is None
    assert all(p.grad is None for p in net.feature_net.parameters())
    ends = []
    for weight in (0.0, 1.0):
        net = method({"features": "own", "feature_steps": 1, "lambda_feature": weight})
        torch.manual_seed(1)
        net.step(batch(), 1)
        ends.append(net.encoder.state_dict()["head.1.weight"].clone())
    assert not torch.equal(*ends)


def vgg_weights(path: Any, last: int) -> str:
    torch.manual_seed(0)
    state, index, channels = {}, 0, 3
    for width in VGG19Features.PLAN:
        if index > last:
            break
        if width:
            state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
            state[f"features.{index}.bias"] = torch.zeros(width)
            channels = width
        index += 2 if width else 1
    torch.save(state, path)
    return str(path)


def test_vgg_weights_are_not_in_the_state_dict(tmp_path: Any) -> None:
    path = vgg_weights(tmp_path / "vgg19.pth", 11)
    loss = {"features": "vgg19", "vgg19_weights": path, "feature_form": "mse", "lambda_pixel": 0, "lambda_face": 0}
    net = method(loss)
    keys = set(net.state_dict())
    net.step(batch(2), 0)
    assert set(net.state_dict()) == keys
    features = VGG19Features(path, (1, 6, 11))
    assert [f.shape[1:] for f in features.features(batch(2)["image"])] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]
    assert not list(features.parameters()) and min(f.min() for f in features.features(batch(2)["image"])) >= 0
    grey = batch(2)["image"][:, :1]
    assert torch.equal(features.features(grey)[0], features.features(grey.repeat(1, 3, 1, 1))[0])
    with pytest.raises(UserError, match="loss.vgg19_weights: cannot read"):
        VGG19Features(str(tmp_path / "none.pth"), (1,))


def test_feature_net_has_three_taps() -> None:
    maps = FeatureNet(1, 48, 7).features(torch.rand(2, 1, 48, 48))
    assert [m.shape[1:] for m in maps] == [(24, 48, 48), (48, 24, 24), (96, 12, 12)]


@pytest.mark.parametrize("objective", ["autoencoder", "beta", "capacity", "btcvae", "factor"])
def test_every_objective_steps_samples_and_validates(objective: str) -> None:
    net = method({"objective": objective, "max_norm": 1000})
    logged = net.step(batch(8), 0)
    assert all(torch.as_tensor(v).isfinite() for v in logged.values())
    assert {"loss", "recon", "kl", "active", "sigma"} <= set(logged)
    with torch.inference_mode():
        grids = net.eval().sample(batch(4))
        assert set(grids) == {"reconstruction", "prior", "traversal"}
        assert grids["traversal"].images.shape[:2] == (6, 7)
        assert net.validate(batch(4))["psnr"] > 0


def test_lr_halving() -> None:
    net = method()
    net.cfg.train.lr_halve_every = 10
    for step, share in ((0, 1), (9, 1), (10, 0.5), (25, 0.25)):
        net.optimizers["vae"].param_groups[0]["lr"] = 1.0
        net.halve_rate(step)
        assert net.optimizers["vae"].param_groups[0]["lr"] == share


def test_describe_beta_lists_other_conventions() -> None:
    cfg = Config(loss=LossConfig(beta=1, sigma=None))
    line = describe_beta(cfg, META | {"image_size": 64})
    for piece in ("beta_eff 0.004 at 24 dB", "AntixK kld_weight 6.5e-07", "SSE + beta KL 0.008"):
        assert piece in line


def test_impossible_configs_are_user_errors() -> None:
    for block in (
        lambda: LossConfig(features="own"),
        lambda: LossConfig(features="vgg19"),
        lambda: LossConfig(sigma=0.0),
        lambda: LossConfig(face_boxes=[0.1, 0.2]),
        lambda: Config(loss=LossConfig(lambda_pixel=0)),
        lambda: Config(loss=LossConfig(features="own", feature_steps=20_000)),
        lambda: Config(loss=LossConfig(objective="factor"), train=VAETrainConfig(batch_size=63)),
        lambda: ModelConfig(width=12),
    ):
        with pytest.raises(UserError):
            block()
