"""The authors' GC-GAN: sizes of the networks, losses against NumPy, who moves when."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data import DataConfig, build_faces
from engine import UserError, load_config
from engine.config import read_system
from gcgan import paper
from gcgan.config import CONFIGS, PaperGCGANConfig, PaperLossConfig, PaperTrainConfig
from gcgan.paper import (
    DoubleConv,
    HalfConv,
    ImageDecoder,
    ImageEncoder,
    LandmarkAutoencoder,
    PaperBatch,
    PaperCritic,
    PaperGCGAN,
    contrast,
)
from tests.same import equal

META = {
    **{"dataset": "drawn", "channels": 3, "image_size": 64, "landmarks": 68, "attributes": [], "eyes": None},
    **{"classes": ["angry", "happy", "sad", "neutral"], "keys": [], "fingerprint": "f"},
}
PARTS = ("critic", "geometry", "image_encoder", "image_decoder")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of the authors' channels in the smallest maps, and with them a tenth of the weights."""
    monkeypatch.setattr(paper, "FEATURES", 32)


def parameters(*networks: nn.Module) -> int:
    return sum(p.numel() for net in networks for p in net.parameters())


def build(**train) -> PaperGCGAN:
    torch.manual_seed(0)
    data = DataConfig(image_size=64, pair=True)
    cfg = PaperGCGANConfig(data=data, loss=PaperLossConfig(), train=PaperTrainConfig(**train))
    return PaperGCGAN(cfg, META).train()


def batch(n: int = 4) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    label = torch.arange(n) % 4
    picture = lambda: torch.rand(n, 3, 64, 64, generator=g) * 2 - 1  # noqa: E731
    points = lambda: torch.rand(n, 68, 2, generator=g) * 2 - 1  # noqa: E731
    plain = {"image": picture(), "label": label, "landmarks": points()}
    return plain | {"pair_image": picture(), "pair_label": (label + 1) % 4, "pair_landmarks": points()}


def test_parameters_are_the_authors(monkeypatch):
    """Six expressions, counted from the layers of their code by hand."""
    monkeypatch.undo()
    assert parameters(LandmarkAutoencoder(32)) == 56_680
    assert parameters(ImageEncoder(3)) == 17_941_888
    assert parameters(ImageDecoder(3, 32)) == 3_438_787
    assert parameters(PaperCritic(3, 6)) == 2_594_055


def test_same_padding_is_one_before_and_two_after():
    conv = HalfConv(1, 1)
    nn.init.zeros_(conv.conv.bias)
    nn.init.zeros_(conv.conv.weight)
    conv.conv.weight.data[0, 0, 1, 1] = 1  # one place after the first: with 1 before, output (0, 0) reads pixel (0, 0)
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(conv(x), x[..., ::2, ::2])
    up = DoubleConv(1, 1)
    nn.init.zeros_(up.conv.bias)
    up.conv.weight.data.copy_(conv.conv.weight.data)
    raised = up.conv(x)[..., 1:17, 1:17]
    assert torch.equal(raised[..., ::2, ::2], x) and not raised[..., 1::2, :].any()  # the transpose of the same map


def test_contrast_by_hand():
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    z_other = torch.tensor([[0.0, 2.0], [1.0, 1.0], [0.0, 0.0]])
    same = torch.tensor([True, False, False])  # d = 4, 1, 9; margin 5
    assert contrast(z, z_other, same, 5.0).item() == pytest.approx((4 + (5 - 1) + 0) / 2 / 3)


class LinearCritic(nn.Module):
    """f = x; the score <a, x>; logits <b_k, x>: everything about it is known by hand."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(2)
        self.a = nn.Parameter(0.01 * torch.randn(3 * 64 * 64, generator=g))
        self.b = nn.Parameter(0.01 * torch.randn(4, 3 * 64 * 64, generator=g))

    def features(self, x, c=None):
        return x

    def score(self, f, c=None):
        return (f.flatten(1) @ self.a)[:, None, None]

    def logits(self, f):
        return f.flatten(1) @ self.b.T


def cross_entropy(logits: np.ndarray, label: np.ndarray) -> float:
    logits = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(label)), label]).mean())


def test_losses_against_numpy(monkeypatch):
    """L_D, L_E, L_Genc and L_Gdec+E of README, every term transcribed."""
    method, found = build(), {}
    method.critic = critic = LinearCritic()
    monkeypatch.setattr(method, "minimize", lambda loss, name: found.setdefault(name, loss.item()))
    b = method.complete_rows(batch())
    a, k = critic.a.detach().double().numpy(), critic.b.detach().double().numpy()
    flat = lambda v: v.detach().double().flatten(1).numpy()  # noqa: E731
    real, target = flat(b.x_target), b.target.numpy()

    x_fake = torch.rand(4, 3, 64, 64) * 2 - 1
    method.update_critic(b, x_fake)
    expected = (flat(x_fake) @ a).mean() - (real @ a).mean()
    expected += 10 * (np.linalg.norm(a) - 1) ** 2 + 1e-4 * cross_entropy(real @ k.T, target)
    assert found["critic"] == pytest.approx(expected, rel=1e-4)

    state = torch.get_rng_state()
    loss = method.geometry_loss(b).item()
    torch.set_rng_state(state)
    p = torch.randperm(8).numpy()
    g = torch.cat([b.g, b.g_target])
    z = method.geometry(g)
    rebuilt, z = flat(method.geometry.rebuild(z)), flat(z)
    label = np.r_[b.label.numpy(), target]
    q, d = label == label[p], ((z - z[p]) ** 2).sum(1)
    expected = (
        (q * d / 2).mean() + ((1 - q) * np.maximum(0, 5 - d) / 2).mean() + ((rebuilt - flat(g)) ** 2).sum(1).mean()
    )
    assert loss == pytest.approx(1e-4 * expected, rel=1e-4)

    fake = flat(method.generate(b.x, method.geometry(b.g_target)))
    pixel = np.abs(fake - real).sum(1).mean()
    ce = 1e-4 * cross_entropy(fake @ k.T, target)
    encoder = {key: value.item() for key, value in method.encoder_terms(b).items()}
    assert sum(encoder.values()) == pytest.approx(
        pixel + 1e-3 * pixel + ce, rel=1e-4
    )  # f of this critic is the picture
    decoder = {key: value.item() for key, value in method.decoder_terms(b).items()}
    assert sum(decoder.values()) == pytest.approx(-1e-3 * (fake @ a).mean() + pixel + ce, rel=1e-4)
    assert pixel > 1000  # a sum over the picture: the adversarial term is nothing beside it


def test_each_player_moves_its_own_networks_and_the_critic_five_times():
    method, moved = build(), []
    minimize = method.minimize

    def watched(loss, name):
        before = {part: [p.clone() for p in getattr(method, part).parameters()] for part in PARTS}
        minimize(loss, name)
        after = {part: list(getattr(method, part).parameters()) for part in PARTS}
        moved.append((name, {part for part in PARTS if not equal(before[part], after[part])}))

    method.minimize = watched
    logs = method.step(batch(), 0)
    assert [name for name, _ in moved] == ["critic"] * 5 + ["geometry", "encoder", "decoder"]
    expected = {"critic": {"critic"}, "geometry": {"geometry"}, "encoder": {"image_encoder"}}
    expected["decoder"] = {"image_decoder", "geometry"}
    assert all(parts == expected[name] for name, parts in moved)
    assert method.class_codes.any() and all(torch.isfinite(torch.as_tensor(v)).all() for v in logs.values())


def test_rates_fall_by_two_percent_every_20_000_steps():
    method, rates = build(), []
    for step in (0, 19_999, 20_000, 60_000):
        for optimizer in method.optimizers.values():
            optimizer.param_groups[0]["lr"] = 3e-4  # as the engine sets it before each step
        method.decay_rates(step)
        rates.append(method.optimizers["decoder"].param_groups[0]["lr"])
    assert rates == pytest.approx([3e-4, 3e-4, 3e-4 * 0.98, 3e-4 * 0.98**3])


def test_pairs_without_landmarks_leave():
    method, data = build(), batch(6)
    data["landmarks"][0], data["pair_landmarks"][1], data["pair_label"][2] = torch.nan, torch.nan, -1
    assert isinstance(b := method.complete_rows(data), PaperBatch) and len(b.x) == 3
    assert torch.equal(b.x_target, data["pair_image"][3:])


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="image_size"):
        PaperGCGANConfig(data=DataConfig(image_size=32, pair=True))
    with pytest.raises(UserError, match="data.pair"):
        PaperGCGANConfig(data=DataConfig(image_size=64))
    with pytest.raises(UserError, match="68 landmarks"):
        PaperGCGAN(PaperGCGANConfig(data=DataConfig(image_size=64, pair=True)), META | {"landmarks": 5})


def test_the_recipe_has_the_authors_numbers(repo):
    path = repo / "configs/gcgan/synthetic64_gcgan_paper.yaml"
    cfg = load_config(CONFIGS[read_system(path, (), CONFIGS)], path)
    assert (cfg.data.image_size, cfg.model.code_dim, cfg.train.batch_size) == (64, 32, 64)
    assert (cfg.train.lr, cfg.train.beta1, cfg.loss.n_critic, cfg.loss.margin) == (3e-4, 0.5, 5, 5.0)


@pytest.mark.slow
def test_a_step_on_drawn_faces():
    data = DataConfig(image_size=64, pair=True, num_train=20, num_val=10, num_test=10)
    faces = build_faces(data)
    torch.manual_seed(0)
    method = PaperGCGAN(PaperGCGANConfig(data=data), faces.meta).train()
    first = method.step(faces.train.fixed(8), 0)
    for step in range(1, 4):
        last = method.step(faces.train.fixed(8), step)
    assert last["G/pixel"] < first["G/pixel"]
