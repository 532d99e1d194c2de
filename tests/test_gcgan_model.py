"""gcgan's networks: sizes, how a label enters, what leaves them."""

import pytest
import torch

from gcgan.config import ModelConfig
from gcgan.model import Critic, Generator, GeometryDecoder, GeometryEncoder, halvings, warp

OUTPUTS = ["skip", "warp", "mask", "tanh"]


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def pictures(n: int, size: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def small(**kw) -> ModelConfig:
    return ModelConfig(**{"width": 8, "blocks": 2, "critic_width": 8} | kw)


def test_parameters_are_the_reference_code_s():
    """Eight classes, width 64, six blocks; counted from the layers of the reference code by hand."""
    count = lambda **kw: parameters(Generator(3, 8, ModelConfig(**kw)))  # noqa: E731
    assert count(conditioning="planes", output="tanh") == 8_439_936
    assert count(output="tanh") == 8_474_240
    assert count(output="mask") == 8_477_377
    for size, capped, free in (
        (64, 6_972_352, 11_188_160),
        (128, 11_167_168, 44_786_624),
        (256, 11_216_320, 44_983_232),
    ):
        assert parameters(Critic(3, size, 8, ModelConfig(critic="class"))) == capped
        assert parameters(Critic(3, size, 8, ModelConfig(critic="class", max_width=2048))) == free


@pytest.mark.parametrize(
    "size, expected", [(32, (4, 2)), (48, (4, 3)), (64, (5, 2)), (96, (5, 3)), (128, (6, 2)), (256, (6, 4))]
)
def test_the_critic_halves_to_two_or_three(size, expected):
    assert halvings(size) == expected
    h = Critic(1, size, 3, small()).features(torch.zeros(1, 1, size, size))
    assert h.shape[-1] == expected[1]


def sensitivity(conditioning: str, size: int) -> float:
    """Change of the picture's interior between two labels over its deviation, of untrained generators."""
    values = []
    for seed in range(3):
        torch.manual_seed(seed)
        generator = Generator(3, 7, small(conditioning=conditioning, output="tanh")).eval()
        x, c = pictures(2, size), torch.eye(7)
        a, b = generator(x, c[:2]), generator(x, c[2:4])
        inside = (..., slice(size // 4, -size // 4), slice(size // 4, -size // 4))
        values.append(float((a - b)[inside].abs().mean() / a[inside].std()))
    return sum(values) / 3


@torch.no_grad()
def test_conditional_norm_hears_the_label_at_every_size_and_planes_only_where_the_border_is_near():
    cin, planes = ([sensitivity(kind, size) for size in (32, 64, 128)] for kind in ("cin", "planes"))
    assert min(cin) > 0.2, cin
    assert max(cin) < 1.5 * min(cin), cin  # no size hears less
    assert planes[2] < 0.7 * planes[0], planes  # the border is what tells them


def test_a_constant_plane_is_cancelled_but_at_the_border():
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(1, 4, 7, 1, 3, bias=False), torch.nn.InstanceNorm2d(4)
    x = torch.zeros(1, 1, 64, 64)
    conv.padding_mode, conv._reversed_padding_repeated_twice = "reflect", (3, 3, 3, 3)
    noise = 0.1 * torch.randn(1, 1, 64, 64)
    a, b = norm(conv(x + noise)), norm(conv(x + 1 + noise))  # a plane of 0 and of 1
    assert (a - b).abs().max() < 1e-4  # no border, no label


@torch.no_grad()
@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_label_plane_adds_a_constant_inside_and_less_at_the_border(size):
    """u(p) = (W * x)(p) + b(p), b(p) = sum_k c_k (sum of the taps inside the picture)."""
    generator = Generator(3, 2, small(conditioning="planes"))
    c, weight = torch.tensor([[0.3, 0.7]]), generator.down[0].weight
    u = generator.down[0](torch.cat([torch.zeros(1, 3, size, size), c[:, :, None, None].expand(-1, -1, size, size)], 1))
    inside = (c[0, :, None, None] * weight[:, 3:]).sum((1, 2, 3))
    assert torch.allclose(u[0, :, 3:-3, 3:-3], inside[:, None, None].expand(-1, size - 6, size - 6), atol=1e-5)
    corner = (c[0, :, None, None] * weight[:, 3:, 3:, 3:]).sum((1, 2, 3))
    assert torch.allclose(u[0, :, 0, 0], corner, atol=1e-5) and not torch.allclose(corner, inside, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", ["cin", "planes"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_face_does_not_depend_on_its_neighbours_or_on_the_mode(conditioning, output):
    generator = Generator(3, 4, small(conditioning=conditioning, output=output))
    for p in generator.parameters():
        torch.nn.init.normal_(p, std=0.03)
    x, c = pictures(8), torch.eye(4).repeat(2, 1)
    among = generator.train()(x, c)
    alone = generator.eval()(x[3:4], c[3:4])
    assert torch.allclose(among[3:4], alone, atol=1e-4)
    assert among.min() >= -1 and among.max() <= 1


@torch.no_grad()
def test_skip_and_warp_start_as_the_photo():
    x, c = pictures(2), torch.eye(4)[:2]
    assert torch.allclose(Generator(3, 4, small(output="skip"))(x, c), x, atol=1e-6)
    x_fake, m = Generator(3, 4, small(output="warp"))(x, c, with_mask=True)
    assert m.max() < 0.1 and (x_fake - x).abs().max() < 0.2
    joined = []
    generator = Generator(3, 4, small(output="skip"))
    generator.join.register_forward_hook(lambda layer, given, out: joined.append(out))
    generator(x, c)
    assert (joined[0] > 0).float().mean() > 0.7  # with a bias of 0 a half, and some seeds never learn
    painted, m = Generator(3, 4, small(output="mask"))(x, c, with_mask=True)
    assert 0.2 < m.mean() < 0.8 and m.shape == (2, 1, 32, 32)


@torch.no_grad()
def test_where_the_mask_is_closed_the_photo_s_bytes_stay():
    generator = Generator(3, 4, small(output="mask"))
    torch.nn.init.zeros_(generator.mask.weight)
    torch.nn.init.constant_(generator.mask.bias, -8.0)  # m < .002
    x = torch.randint(256, (2, 3, 32, 32)) / 127.5 - 1
    x_fake = generator(x, torch.eye(4)[:2])
    assert torch.equal(((x_fake + 1) * 127.5).round(), ((x + 1) * 127.5).round())


def test_a_flow_reads_the_picture_elsewhere():
    x = pictures(1)
    flow = torch.zeros(1, 2, 32, 32)
    assert torch.allclose(warp(x, flow), x, atol=1e-5)
    flow[:, 0] = 2 * 2 / 32  # two pixels to the right: what stood there is seen here
    assert torch.allclose(warp(x, flow)[..., :-2], x[..., 2:], atol=1e-4)
    flow[:, 0], flow[:, 1] = 0, 2 / 32  # one down
    assert torch.allclose(warp(x, flow)[..., :-1, :], x[..., 1:, :], atol=1e-4)


@torch.no_grad()
def test_the_flow_of_warp_follows_the_condition():
    generator = Generator(3, 2, small(output="warp"))
    torch.nn.init.constant_(generator.mask.bias, -30.0)
    x, c = pictures(1), torch.eye(2)
    torch.nn.init.constant_(generator.flow.bias[2:], 0.2)  # of the second label: right and down
    still, moved = generator(x, c[:1]), generator(x, c[1:])
    assert torch.allclose(still, x, atol=1e-5) and (moved - x).abs().mean() > 0.05


@torch.no_grad()
def test_the_projection_alone_tells_labels_apart():
    critic, x, c = Critic(3, 32, 4, small()), pictures(4), torch.eye(4)
    assert not torch.allclose(critic(x, c), critic(x, c.flip(0)), atol=1e-6)
    torch.nn.init.zeros_(critic.project.weight)
    assert torch.allclose(critic(x, c), critic(x, c.flip(0)))


def test_class_logits_never_see_the_label():
    assert Critic(3, 32, 4, small(critic="planes+projection")).head is None
    critic, x = Critic(3, 32, 4, small(critic="class")), pictures(2)
    assert critic.project is None and torch.equal(critic(x, torch.eye(4)[:2]), critic(x, torch.eye(4)[2:]))
    assert critic.logits(critic.features(x)).shape == (2, 4)


def test_landmark_networks():
    encoder, decoder = GeometryEncoder(68, 8), GeometryDecoder(68, 8)
    points = torch.randn(3, 68, 2)
    z = encoder(points)
    assert torch.allclose(z.norm(dim=1), torch.ones(3), atol=1e-5)
    assert decoder(z, points).shape == (3, 68, 2)
    assert Critic(3, 32, 4, small(), 68).landmarks(Critic(3, 32, 4, small(), 68).features(pictures(2))).shape == (
        2,
        68,
        2,
    )
