"""The networks of a2f: shapes, conditions, parameter counts of the original networks."""

import pytest
import torch

from a2f.model import ConditionalNorm, Critic, Generator, PhotoEncoder, Prior, SketchEncoder, UNet, num_stages
from a2f.model_study import StudyCritic, StudyGenerator
from engine import UserError


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_of_the_original_networks():
    assert count(StudyGenerator(3, 64, 1, 100)) == 480_630
    assert count(StudyCritic(3, 64, 1)) == 1_725_697
    assert count(StudyGenerator(3, 128, 6, 100)) == 482_560
    assert count(StudyCritic(3, 128, 6)) == 1_875_201


@pytest.mark.parametrize("size", [32, 64])
def test_shapes(size):
    x, a, z = torch.randn(2, 3, size, size), torch.ones(2, 5), torch.randn(2, 7)
    s = x[:, :1]
    for generator in (Generator(3, size, 5, 8, 7), StudyGenerator(3, size, 5, 7)):
        made = generator(z, a)
        assert made.shape == x.shape and made.abs().max() <= 1
    assert Critic(3, size, 5, 8)(x, a).shape == (2,) == StudyCritic(3, size, 5)(x, a).shape
    assert UNet(3, size, 5, 8)(s, a).shape == x.shape
    mu, logvar = SketchEncoder(size, 5, 8, 7)(s, a)
    assert mu.shape == logvar.shape == (2, 7)
    assert PhotoEncoder(3, 8, 4)(x)[0].shape == (2, 4)


def test_unsupported_image_size_is_an_error():
    assert [num_stages(size) for size in (32, 64, 128, 256)] == [3, 4, 5, 6]
    with pytest.raises(UserError, match=r"data.image_size: expected 32, 64, 128 or 256, got 48"):
        num_stages(48)


def test_prior_is_standard_normal_before_training():
    a = torch.randn(3, 5)
    for learned in (True, False):
        mu, logvar = Prior(5, 7, learned)(a)
        assert not mu.any() and not logvar.any()


def test_conditional_norm_equals_its_formula():
    torch.manual_seed(0)
    layer, h, y = ConditionalNorm(16, 3), torch.randn(2, 16, 4, 4), torch.randn(2, 3)
    torch.nn.init.normal_(layer.gain.weight)
    g, b = (y @ layer.gain.weight.T).chunk(2, 1)
    groups = h.view(2, 8, -1)
    normal = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = (1 + g)[:, :, None, None] * normal.view_as(h) + b[:, :, None, None]
    assert torch.allclose(layer(h, y), expected, atol=1e-5)


def test_relu_heads_give_sigma_of_at_least_one():
    mu, logvar = SketchEncoder(32, 5, 8, 7, relu_heads=True)(torch.randn(4, 1, 32, 32), torch.ones(4, 5))
    assert (mu >= 0).all() and (logvar >= 0).all()


def test_critic_uses_the_request_as_planes_and_by_projection():
    torch.manual_seed(0)
    critic, x, a = Critic(3, 32, 5, 8), torch.randn(2, 3, 32, 32), torch.ones(2, 5)
    h = critic.trunk(torch.cat([x, a[:, :, None, None].expand(-1, -1, 32, 32)], 1))
    expected = critic.score(h)[:, 0] + (critic.project(a) * h).sum(1) / 16
    assert torch.allclose(critic(x, a), expected, atol=1e-5)


def test_outputs_do_not_depend_on_other_samples():
    torch.manual_seed(0)
    a, z, s = torch.sign(torch.randn(4, 5)), torch.randn(4, 7), torch.randn(4, 1, 32, 32)
    for net, given in (
        (Generator(3, 32, 5, 8, 7), (z, a)),
        (UNet(3, 32, 5, 8), (s, a)),
        (UNet(1, 32, 5, 8, True), (s, a)),
    ):
        whole = net(*given)
        alone = torch.cat([net(*(v[k : k + 1] for v in given)) for k in range(4)])
        assert torch.allclose(whole, alone, atol=1e-5)
