"""Checkpoints in the layout of StarGAN's reference code, written here from the paper's tables."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import families
from gcgan import convert
from gcgan.config import GANTrainConfig
from gcgan.stargan import StarGAN
from losses.targets import Request

NAMES = "Black_Hair,Blond_Hair,Male"


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        norm = lambda: nn.InstanceNorm2d(d, affine=True, track_running_stats=True)  # noqa: E731
        conv = lambda: nn.Conv2d(d, d, 3, 1, 1, bias=False)  # noqa: E731
        self.main = nn.Sequential(conv(), norm(), nn.ReLU(), conv(), norm())

    def forward(self, x):
        return x + self.main(x)


class G(nn.Module):
    """1711.09020, table 4; old checkpoints track running statistics."""

    def __init__(self, d: int = 8, labels: int = 3, blocks: int = 2) -> None:
        super().__init__()
        norm = lambda n: nn.InstanceNorm2d(n, affine=True, track_running_stats=True)  # noqa: E731
        layers = [nn.Conv2d(3 + labels, d, 7, 1, 3, bias=False), norm(d), nn.ReLU()]
        for n in (d, 2 * d):
            layers += [nn.Conv2d(n, 2 * n, 4, 2, 1, bias=False), norm(2 * n), nn.ReLU()]
        layers += [Block(4 * d) for _ in range(blocks)]
        for n in (4 * d, 2 * d):
            layers += [nn.ConvTranspose2d(n, n // 2, 4, 2, 1, bias=False), norm(n // 2), nn.ReLU()]
        self.main = nn.Sequential(*layers, nn.Conv2d(d, 3, 7, 1, 3, bias=False), nn.Tanh())

    def forward(self, x, c):
        return self.main(torch.cat([x, c[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1))


class D(nn.Module):
    """1711.09020, table 5."""

    def __init__(self, size: int = 32, d: int = 8, labels: int = 3, layers: int = 4) -> None:
        super().__init__()
        modules, n = [nn.Conv2d(3, d, 4, 2, 1), nn.LeakyReLU(0.01)], d
        for _ in range(layers - 1):
            modules, n = [*modules, nn.Conv2d(n, 2 * n, 4, 2, 1), nn.LeakyReLU(0.01)], 2 * n
        self.main = nn.Sequential(*modules)
        self.conv1 = nn.Conv2d(n, 1, 3, 1, 1, bias=False)
        self.conv2 = nn.Conv2d(n, labels, size // 2**layers, bias=False)

    def forward(self, x):
        h = self.main(x)
        return self.conv1(h)[:, 0], self.conv2(h)[:, :, 0, 0]


@pytest.fixture
def files(tmp_path):
    """Both networks with random weights, saved as the reference code does."""
    torch.manual_seed(0)
    g, d = G().train(), D()
    for p in g.parameters():
        nn.init.normal_(p, std=0.2)
    torch.save(g.state_dict(), tmp_path / "G.ckpt")
    torch.save(d.state_dict(), tmp_path / "D.ckpt")
    return g, d, [str(tmp_path / "G.ckpt"), str(tmp_path / "D.ckpt")]


def test_a_foreign_checkpoint_gives_its_own_pictures(files, tmp_path):
    g, d, paths = files
    convert.main([*paths, "--attributes", NAMES, "--run-dir", str(tmp_path / "run")])
    editor = families.open_editor(tmp_path / "run")
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    c = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
    with torch.no_grad():
        assert torch.allclose(editor.method.edit(x, c), g(x, c), atol=1e-5)
        h = editor.method.critic.features(x)
        src, cls = d(x)
        assert torch.allclose(editor.method.critic.score(h, c), src, atol=1e-5)
        assert torch.allclose(editor.method.critic.logits(h), cls, atol=1e-5)
    faces = editor.from_images(x)
    images = editor.edit(faces, editor.parse("hair=blond"))[0]
    own = editor.codes(faces)["c"]
    own[:, 0], own[:, 1] = 0, 1
    with torch.no_grad():
        assert torch.allclose(images, g(x, own), atol=1e-5)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--attributes", "Male,Young"], "takes 3 labels, and 2 names were given"),
        ([], "--classes or --attributes"),
        (["--classes", "a,b,c", "--attributes", NAMES], "--classes or --attributes"),
    ],
)
def test_labels_are_asked_for_and_never_guessed(files, tmp_path, capsys, words, sentence):
    with pytest.raises(SystemExit) as stop:
        convert.main([*files[2], *words, "--run-dir", str(tmp_path / "run")])
    assert stop.value.code == 2 and sentence in capsys.readouterr().err


def test_other_files_are_refused(files, tmp_path, capsys):
    paths = files[2]
    torch.save({"net.weight": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    for pair in ([paths[1], paths[0]], [str(tmp_path / "other.pt"), paths[1]], [str(tmp_path / "broken.pt"), paths[1]]):
        with pytest.raises(SystemExit) as stop:
            convert.main([*pair, "--attributes", NAMES, "--run-dir", str(tmp_path / "run")])
        assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


# Ten steps, next to a plain loop of the reference code's algorithm.

A = 0.3  # how far the penalty's points lie from the fakes to the real faces, for every row


def plain_loop(g: G, d: D, batches: list, n_critic: int = 5) -> dict[str, list[float]]:
    """Choi et al. 1711.09020 as the reference code trains: WGAN-GP on the patches' sum, class head, L1 cycle."""
    adam = {net: torch.optim.Adam(net.parameters(), 1e-4, (0.5, 0.999)) for net in (g, d)}
    losses = {"critic": [], "generator": []}
    for step, (x, label) in enumerate(batches):
        y, target = F.one_hot(label, 3).float(), label.roll(1, 0)
        y_target = F.one_hot(target, 3).float()
        fake = g(x, y_target).detach()
        (src, cls), src_fake = d(x), d(fake)[0]
        between = (A * x + (1 - A) * fake).requires_grad_()
        out = d(between)[0]
        slope = torch.autograd.grad(out, between, torch.ones_like(out), create_graph=True)[0].flatten(1).norm(dim=1)
        d_loss = -src.mean() + src_fake.mean() + F.cross_entropy(cls, label) + 10 * ((slope - 1) ** 2).mean()
        losses["critic"].append(d_loss.item())
        adam[d].zero_grad()
        d_loss.backward()
        adam[d].step()
        if (step + 1) % n_critic == 0:
            fake = g(x, y_target)
            src, cls = d(fake)
            g_loss = -src.mean() + F.cross_entropy(cls, target) + 10 * (x - g(fake, y)).abs().mean()
            losses["generator"].append(g_loss.item())
            adam[g].zero_grad()
            g_loss.backward()
            adam[g].step()
    return losses


def test_ten_steps_are_those_of_a_plain_loop(files, monkeypatch):
    g, d, paths = files
    weights = [convert.read_weights(path) for path in paths]
    imported = convert.build(*weights, NAMES.split(","), [], tuple(paths))
    rates = GANTrainConfig(lr=1e-4, lr_critic=1e-4, beta1=0.5, beta2=0.999, ema_decay=0, log_every=100)
    ours = StarGAN(dataclasses.replace(imported.cfg, train=rates), imported.meta).train()
    ours.load_state_dict(imported.state_dict())
    noise = torch.Generator().manual_seed(3)
    batches = [(torch.rand(4, 3, 32, 32, generator=noise) * 2 - 1, torch.tensor([0, 1, 2, 0])) for _ in range(10)]
    expected = plain_loop(g, d, batches)

    losses, minimize = {"critic": [], "generator": []}, ours.minimize
    monkeypatch.setattr(ours, "minimize", lambda loss, name: (losses[name].append(loss.item()), minimize(loss, name)))
    monkeypatch.setattr(
        "gcgan.stargan.draw_request", lambda x, y, own, attributes: Request(y.roll(1, 0), x.roll(1, 0), y.roll(1, 1))
    )
    monkeypatch.setattr(torch, "rand", lambda *size, **kind: torch.full(size, A))
    for step, (x, label) in enumerate(batches):
        ours.step({"image": x, "label": label}, step)
    assert losses["critic"] == pytest.approx(expected["critic"], rel=1e-4)
    assert losses["generator"] == pytest.approx(expected["generator"], rel=1e-4) and len(expected["generator"]) == 2
    theirs = convert.our_generator(dict(g.named_parameters()), "G") | convert.our_critic(d.state_dict(), "D")
    found = dict(ours.generator.named_parameters()) | ours.critic.state_dict()
    for name, value in theirs.items():
        assert torch.allclose(found[name], value, atol=1e-4), name
