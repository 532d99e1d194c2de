"""StyleGAN2 (https://arxiv.org/abs/1912.04958): mapping network, skip generator, residual discriminator.

Learning rates are equalized (Progressive GAN, https://arxiv.org/abs/1710.10196): weights are initialized as N(0, 1) and
scaled in the forward pass. Convolutions may run in bf16 under autocast; everything else is float32. Comments at line
ends give shapes for 32 px. Parameters have the names of the authors' release, so that published weights can be loaded.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import UserError
from engine.config import require
from interface_gan.config import ModelConfig

GAIN = math.sqrt(2)  # keeps the variance of a leaky ReLU's input
MAPPING_LR = 0.01  # factor on the mapping network's learning rate (StyleGAN, appendix C)
W_AVG_DECAY = 0.995
NOISES = ("const", "random", "none")


def lrelu(h: Tensor) -> Tensor:
    """Leaky ReLU with slope 0.2, times sqrt 2."""
    return F.leaky_relu(h, 0.2) * GAIN


class Linear(nn.Module):
    """Equalized linear layer in float32: y = x (W m / sqrt(fan in))' + b m, with W ~ N(0, 1) / m initially."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias) / lr_multiplier))
        self.gain, self.multiplier = lr_multiplier / math.sqrt(inputs), lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight * self.gain, self.bias * self.multiplier)


class Blur(nn.Module):
    """The filter [1, 3, 3, 1] x [1, 3, 3, 1] / 64 on every channel, before downsampling or after upsampling."""

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("resample_filter", torch.outer(taps, taps) / 64)

    def kernel(self, h: Tensor) -> Tensor:
        """The kernel (C, 1, 4, 4) of a depthwise convolution of h (N, C, H, W)."""
        return self.resample_filter.to(h.dtype).expand(h.shape[1], 1, 4, 4)

    def forward(self, h: Tensor, padding: int, stride: int = 1, gain: float = 1.0) -> Tensor:
        return F.conv2d(h, self.kernel(h) * gain, stride=stride, padding=padding, groups=h.shape[1])

    def double(self, h: Tensor) -> Tensor:
        """Upsample (N, C, H, W) to (N, C, 2H, 2W): insert zeros between the pixels, apply the filter, times 4."""
        return F.conv_transpose2d(h, self.kernel(h) * 4, stride=2, padding=1, groups=h.shape[1])


def modulated_conv2d(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, up: bool = False) -> Tensor:
    """Convolution with kernels scaled per sample, Eq. 1 and 3: w'_ijk = s_i w_ijk, divided by |w'_j| if `demodulate`.

    x (N, I, H, W), weight (O, I, k, k), style (N, I). Instead of a kernel per sample, the inputs and outputs of one
    shared convolution are scaled, which is the same. `up`: transposed with stride 2, gives (N, O, 2H + 1, 2W + 1).
    """
    x = x * style.to(x.dtype)[:, :, None, None]
    if up:
        x = F.conv_transpose2d(x, weight.transpose(0, 1).to(x.dtype), stride=2)
    else:
        x = F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2)
    if not demodulate:
        return x
    with torch.autocast(x.device.type, enabled=False):
        norm2 = style.float().square() @ weight.float().square().sum((2, 3)).T  # (N, O)
        scale = torch.rsqrt(norm2 + 1e-8)
    return x * scale[:, :, None, None]


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU. `up` doubles the resolution."""

    def __init__(self, inputs: int, outputs: int, latent_dim: int, size: int, up: bool = False) -> None:
        super().__init__()
        self.affine = Linear(latent_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(size, size))
        self.blur = Blur() if up else None

    def forward(self, x: Tensor, w: Tensor, noise: str) -> Tensor:
        """x (N, I, H, H), w (N, Z) -> (N, O, size, size)."""
        up = self.blur is not None
        x = modulated_conv2d(x, self.weight, self.affine(w), demodulate=True, up=up)
        if up:
            x = self.blur(x, padding=1, gain=4)
        if noise == "const":
            x = x + self.noise_const * self.noise_strength
        elif noise == "random":
            x = x + torch.randn(len(x), 1, *x.shape[2:], device=x.device) * self.noise_strength
        return lrelu(x + self.bias.to(x.dtype)[:, None, None])


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to pixels, without demodulation and activation."""

    def __init__(self, inputs: int, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.affine = Linear(latent_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) / math.sqrt(x.shape[1])
        return modulated_conv2d(x, self.weight, style, demodulate=False).float() + self.bias[:, None, None]


class SynthesisBlock(nn.Module):
    """One resolution: upsampling convolution, convolution, and pixels added to the upsampled previous pixels."""

    def __init__(self, inputs: int, outputs: int, latent_dim: int, size: int, channels: int) -> None:
        super().__init__()
        self.first = inputs == 0
        if self.first:
            self.const = nn.Parameter(torch.randn(outputs, size, size))
        else:
            self.conv0 = SynthesisLayer(inputs, outputs, latent_dim, size, up=True)
            self.skip = Blur()
        self.conv1 = SynthesisLayer(outputs, outputs, latent_dim, size)
        self.torgb = ToRGB(outputs, channels, latent_dim)

    def forward(self, x: Tensor | None, rgb: Tensor | None, ws: list[Tensor], noise: str) -> tuple[Tensor, Tensor]:
        """ws: the styles (N, Z) of conv0 (not in the first block), conv1 and torgb."""
        if self.first:
            x = self.const.expand(ws[0].shape[0], -1, -1, -1)
        else:
            x = self.conv0(x, ws[0], noise)
        x = self.conv1(x, ws[-2], noise)
        pixels = self.torgb(x, ws[-1])
        return x, pixels if rgb is None else self.skip.double(rgb) + pixels


class Mapping(nn.Module):
    """z (N, Z) -> w (N, Z). `w_avg` (Z,) is a moving average of w, for truncation."""

    def __init__(self, latent_dim: int, layers: int) -> None:
        super().__init__()
        self.layers = layers
        for i in range(layers):
            setattr(self, f"fc{i}", Linear(latent_dim, latent_dim, lr_multiplier=MAPPING_LR))
        self.register_buffer("w_avg", torch.zeros(latent_dim))

    def forward(self, z: Tensor) -> Tensor:
        h = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for i in range(self.layers):
            h = lrelu(getattr(self, f"fc{i}")(h))
        return h


class Synthesis(nn.Module):
    """ws (N, L, Z) -> x (N, C, H, H), about in [-1, 1], not clamped. L is twice the number of resolutions."""

    def __init__(self, channels: int, image_size: int, cfg: ModelConfig) -> None:
        super().__init__()
        self.sizes = resolutions(image_size)
        widths = [0] + [width(size, cfg) for size in self.sizes]
        for before, after, size in zip(widths, widths[1:], self.sizes):
            setattr(self, f"b{size}", SynthesisBlock(before, after, cfg.latent_dim, size, channels))
        self.num_ws = 2 * len(self.sizes)

    def forward(self, ws: Tensor, noise: str = "const") -> Tensor:
        """noise: const (the same maps for all faces), random (new maps) or none."""
        assert noise in NOISES, noise
        styles = ws.unbind(1)  # L times (N, Z)
        x = rgb = None
        for i, size in enumerate(self.sizes):
            first = max(0, 2 * i - 1)  # a block's torgb and the next block's conv0 have the same style
            x, rgb = getattr(self, f"b{size}")(x, rgb, styles[first : 2 * i + 2], noise)
        return rgb  # (N, 3, 32, 32)


class Generator(nn.Module):
    """z (N, Z) -> w (N, Z) -> ws (N, L, Z) -> x (N, C, H, H)."""

    def __init__(self, channels: int, image_size: int, cfg: ModelConfig) -> None:
        super().__init__()
        self.mapping = Mapping(cfg.latent_dim, cfg.mapping_layers)
        self.synthesis = Synthesis(channels, image_size, cfg)
        self.num_ws = self.synthesis.num_ws

    def broadcast(self, w: Tensor, psi: float = 1.0) -> Tensor:
        """The same style for all layers, w (N, Z) -> ws (N, L, Z), truncated: w_avg + psi (w - w_avg) (StyleGAN)."""
        if psi != 1:
            w = self.mapping.w_avg.lerp(w, psi)
        return w[:, None].expand(-1, self.num_ws, -1)

    def forward(self, z: Tensor, psi: float = 1.0, noise: str = "const") -> Tensor:
        return self.synthesis(self.broadcast(self.mapping(z), psi), noise)


class EqualConv(nn.Module):
    """Equalized convolution, 3x3 or 1x1, then bias and leaky ReLU unless `plain`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, plain: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = None if plain else nn.Parameter(torch.zeros(outputs))
        self.gain = 1 / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        x = F.conv2d(x, self.weight * self.gain, self.bias, stride, padding)
        return x if self.bias is None else lrelu(x)


class DiscriminatorBlock(nn.Module):
    """Halves the resolution: two convolutions plus a 1x1 skip connection, their sum divided by sqrt 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = EqualConv(inputs, inputs)
        self.conv1 = EqualConv(inputs, outputs)
        self.skip = EqualConv(inputs, outputs, kernel=1, plain=True)
        self.blur = Blur()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.blur(self.conv0(x, padding=1), padding=2), stride=2)
        return (y + self.skip(self.blur(x, padding=1, stride=2))) * math.sqrt(0.5)


class Discriminator(nn.Module):
    """x (N, C, H, H) -> score (N,), high for real faces.

    The last feature map has one more channel, the standard deviation over a group of faces of the batch (Progressive
    GAN, section 3). So a score depends on the other faces of its group, although R1 is defined for single samples.
    StyleGAN2 does the same.
    """

    def __init__(self, channels: int, image_size: int, cfg: ModelConfig) -> None:
        super().__init__()
        self.sizes = resolutions(image_size)[:0:-1]
        self.fromrgb = EqualConv(channels, width(image_size, cfg), kernel=1)
        for size in self.sizes:
            setattr(self, f"b{size}", DiscriminatorBlock(width(size, cfg), width(size // 2, cfg)))
        last, first = resolutions(image_size)[0], width(resolutions(image_size)[0], cfg)
        self.group = cfg.mbstd_group
        self.conv = EqualConv(first + (self.group > 1), first)
        self.fc = Linear(first * last**2, first)
        self.out = Linear(first, 1)

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature map of every resolution, the finest first. They depend on the own face only."""
        h = self.fromrgb(x)  # (N, C, 32, 32)
        maps = [h]
        for size in self.sizes:
            h = getattr(self, f"b{size}")(h)  # (N, C, 16, 16) ... (N, C, 4, 4)
            maps.append(h)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)[-1].float()
        if self.group > 1:
            h = torch.cat([h, minibatch_std(h, self.group)], 1)
        h = self.conv(h, padding=1)  # (N, C, 4, 4)
        return self.out(lrelu(self.fc(h.flatten(1))))[:, 0].float()


def minibatch_std(h: Tensor, group: int) -> Tensor:
    """h (N, C, H, W) -> (N, 1, H, W): standard deviation over the group of a face, mean over channels and positions.

    The group size is the largest number <= `group` that divides N. With M = N / size groups, the faces i, i + M,
    i + 2M, ... are one group.
    """
    size = max(g for g in range(1, group + 1) if len(h) % g == 0)
    grouped = h.unflatten(0, (size, -1))  # (G, M, C, H, W)
    std = (grouped.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))  # (M,)
    return std.repeat(size)[:, None, None, None].expand(-1, 1, *h.shape[2:])


def resolutions(image_size: int) -> list[int]:
    """The resolutions from coarse to fine: 4 (or 3), 8, ... image_size. Raises UserError for other image sizes."""
    sizes = [image_size]
    while sizes[0] % 2 == 0 and sizes[0] > 4:
        sizes.insert(0, sizes[0] // 2)
    if sizes[0] not in (3, 4) or len(sizes) < 2:
        raise UserError(f"data.image_size: expected 4 or 3 times a power of two (32, 48, 64 ...), got {image_size}")
    return sizes


def width(size: int, cfg: ModelConfig) -> int:
    """Number of channels at size x size pixels."""
    channels = min(cfg.channel_base // size, cfg.channel_max)
    require(channels >= 1, "model.channel_base", f"at least the image size, {size}", cfg.channel_base)
    return channels
