"""The networks of StyleGAN2 against direct implementations of the paper's formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gan_toy import config

from engine import UserError
from interface_gan.config import ModelConfig
from interface_gan.model import (
    Blur,
    Discriminator,
    Generator,
    Linear,
    Mapping,
    SynthesisLayer,
    minibatch_std,
    modulated_conv2d,
    resolutions,
)

SMALL = ModelConfig(latent_dim=8, channel_base=64, channel_max=16)


def grouped(x, weight, style, demodulate):
    """Eq. 1 and 3 as written: one kernel a sample, and one convolution with a group a sample."""
    n, o, i, k = len(x), *weight.shape[:2], weight.shape[-1]
    w = weight[None] * style[:, None, :, None, None]  # (N, O, I, k, k)
    if demodulate:
        w = w * torch.rsqrt(w.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    y = F.conv2d(x.reshape(1, n * i, *x.shape[2:]), w.reshape(n * o, i, k, k), padding=k // 2, groups=n)
    return y.reshape(n, o, *y.shape[2:])


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_modulated_convolution_equals_a_kernel_per_sample(kernel, demodulate):
    torch.manual_seed(0)
    x, weight, style = torch.randn(4, 5, 6, 6), torch.randn(7, 5, kernel, kernel), 1 + torch.randn(4, 5)
    expected = grouped(x, weight, style, demodulate)
    assert torch.allclose(modulated_conv2d(x, weight, style, demodulate), expected, atol=1e-5)


def zero_insert_and_filter(h: np.ndarray, up: int, pad: tuple[int, int], gain: float) -> np.ndarray:
    """One channel (H, W): zeros between the pixels, padding, and the correlation with [1, 3, 3, 1]^2 / 64 (numpy)."""
    taps = np.array([1.0, 3.0, 3.0, 1.0])
    kernel = np.outer(taps, taps) / 64 * gain
    wide = np.zeros((h.shape[0] * up, h.shape[1] * up))
    wide[::up, ::up] = h
    wide = np.pad(wide, pad)
    out = np.zeros((wide.shape[0] - 3, wide.shape[1] - 3))
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[r, c] = (wide[r : r + 4, c : c + 4] * kernel).sum()
    return out


@pytest.mark.parametrize("side", [3, 4])
def test_skip_upsampling_equals_zeros_and_filter(side):
    h = torch.randn(1, 2, side, side)
    found = Blur().double(h)
    for c in range(2):
        expected = zero_insert_and_filter(h[0, c].numpy(), 2, (2, 1), 4)
        assert np.abs(found[0, c].numpy() - expected).max() < 1e-5
    bilinear = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
    assert (found - bilinear).abs().max() > 0.05  # at the border, where bilinear repeats pixels


@pytest.mark.parametrize("side", [3, 4])
def test_upsampling_layer_equals_zeros_convolution_and_filter(side):
    """The transposed convolution is the zero-inserted picture under the flipped kernel; then the blur, gain 4."""
    torch.manual_seed(0)
    layer = SynthesisLayer(3, 5, 8, 2 * side, up=True)
    x, w = torch.randn(2, 3, side, side), torch.randn(2, 8)
    wide = torch.zeros(2, 3, 2 * side - 1, 2 * side - 1)
    wide[:, :, ::2, ::2] = x
    kernels = layer.weight.flip((2, 3))
    y = grouped(F.pad(wide, [1] * 4), kernels, layer.affine(w), True)  # (2, 5, 2H + 1, 2H + 1)
    y = np.stack([[zero_insert_and_filter(c, 1, (1, 1), 4) for c in image] for image in y.detach().numpy()])
    expected = F.leaky_relu(torch.from_numpy(y).float(), 0.2) * 2**0.5
    assert torch.allclose(layer(x, w, "none"), expected, atol=1e-4)


def test_mapping_normalizes_and_has_a_lower_learning_rate():
    torch.manual_seed(0)
    net = Mapping(8, 2)
    z = torch.randn(4, 8)
    h = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in (net.fc0, net.fc1):
        h = F.leaky_relu(h @ (layer.weight * 0.01 / 8**0.5).T + 0.01 * layer.bias, 0.2) * 2**0.5
    assert torch.allclose(net(z), h, atol=1e-6) and torch.allclose(net(3 * z), net(z), atol=1e-5)
    assert 80 < net.fc0.weight.std() < 120  # N(0, 1) / 0.01


def test_affine_bias_is_one():
    layer = SynthesisLayer(3, 5, 8, 4)
    assert torch.equal(layer.affine(torch.zeros(2, 8)), torch.ones(2, 3))
    assert torch.equal(Linear(3, 2, bias=1).bias, torch.ones(2))


def test_layers_use_the_styles_of_the_paper():
    """Changing style l changes the picture, and nothing before the layer it belongs to."""
    torch.manual_seed(0)
    net = Generator(3, 16, SMALL)
    assert net.num_ws == 6
    ws = torch.randn(1, 6, 8)
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        (f"b{size}.{name}", module)
        for size in (4, 8, 16)
        for name, module in getattr(net.synthesis, f"b{size}").named_children()
        if hasattr(module, "affine")
    ]
    for name, module in hooks:
        module.register_forward_hook(lambda m, given, out, name=name: seen.update({name: given[1].clone()}))
    net.synthesis(ws)
    takes = {name: next(i for i in range(6) if torch.equal(w, ws[:, i])) for name, w in seen.items()}
    assert takes == {
        "b4.conv1": 0, "b4.torgb": 1, "b8.conv0": 1, "b8.conv1": 2, "b8.torgb": 3, "b16.conv0": 3, "b16.conv1": 4,
        "b16.torgb": 5,
    }  # fmt: skip


def test_const_noise_repeats_and_random_noise_does_not():
    torch.manual_seed(0)
    net = Generator(3, 8, SMALL)
    z = torch.randn(2, 8)
    assert torch.equal(net(z, noise="const"), net(z, noise="none"))
    for name, p in net.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.5)
    assert torch.equal(net(z, noise="const"), net(z, noise="const"))
    assert not torch.allclose(net(z, noise="random"), net(z, noise="random"))
    assert not torch.allclose(net(z, noise="const"), net(z, noise="none"))


def test_truncation_interpolates_to_the_mean():
    net = Generator(3, 8, SMALL)
    net.mapping.w_avg.fill_(2.0)
    w = torch.randn(3, 8)
    assert torch.allclose(net.broadcast(w, 0.7)[:, 0], 2 + 0.7 * (w - 2))
    assert torch.equal(net.broadcast(w)[:, 3], w)


def test_minibatch_std_uses_the_published_groups():
    h = torch.randn(8, 3, 4, 4)
    found = minibatch_std(h, 4)
    y = h.numpy().reshape(4, 2, 3, 4, 4)  # (G, M, C, H, W): face i is with i + 2, i + 4, i + 6
    std = np.sqrt(y.var(0) + 1e-8).mean((1, 2, 3))
    assert np.abs(found[:, 0, 0, 0].numpy() - np.tile(std, 4)).max() < 1e-5
    assert minibatch_std(h[:6], 4).shape == (6, 1, 4, 4)  # groups of 3


def test_discriminator_features_do_not_depend_on_other_faces():
    torch.manual_seed(0)
    net, x = Discriminator(3, 16, SMALL), torch.randn(4, 3, 16, 16)
    maps = net.features(x)
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 16, 16), (8, 8, 8), (16, 4, 4)]
    assert torch.allclose(net.features(x[:1])[-1], maps[-1][:1], atol=1e-6)
    assert net(x).shape == (4,) and not torch.allclose(net(x)[:1], net(x[:1]))  # the deviation mixes faces


def test_discriminator_block_equals_the_paper():
    torch.manual_seed(0)
    block, x = Discriminator(3, 8, SMALL).b8, torch.randn(2, 8, 8, 8)
    blur = lambda h, pad: torch.from_numpy(  # noqa: E731
        np.stack([[zero_insert_and_filter(c, 1, pad, 1) for c in image] for image in h.detach().numpy()])
    ).float()
    act = lambda h: F.leaky_relu(h, 0.2) * 2**0.5  # noqa: E731
    y = act(F.conv2d(x, block.conv0.weight / (8 * 9) ** 0.5, block.conv0.bias, padding=1))
    y = act(F.conv2d(blur(y, (2, 2)), block.conv1.weight / (8 * 9) ** 0.5, block.conv1.bias, stride=2))
    skip = F.conv2d(blur(x, (1, 1))[:, :, ::2, ::2], block.skip.weight / 8**0.5)
    assert torch.allclose(block(x), (y + skip) / 2**0.5, atol=1e-4)


def test_sizes():
    assert resolutions(32) == [4, 8, 16, 32] and resolutions(48) == [3, 6, 12, 24, 48]
    for size in (40, 4, 20):
        with pytest.raises(UserError, match="image_size"):
            resolutions(size)
    with pytest.raises(UserError, match="channel_base"):
        Generator(3, 128, ModelConfig(latent_dim=8, channel_base=64))
    with pytest.raises(UserError, match="mapping_layers"):
        config(model={"mapping_layers": 0})
    with pytest.raises(UserError, match="color"):
        config(augment="colour")
