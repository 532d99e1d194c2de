"""Networks: generator G, critic D, and GC-GAN's encoder and decoder of landmarks. All outputs are float32.

Comments at the end of lines give shapes for 128 px, three channels, width 64. c (N, K) is the condition of a network: a
one-hot or mixed class, attributes in {0, 1}, or GC-GAN's code of landmarks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcgan.config import ModelConfig

MAX_FLOW = 0.25  # of the picture's side: how far `warp` may move a pixel, each way


class ConditionalInstanceNorm(nn.Module):
    """InstanceNorm whose scale and shift follow the condition: (1 + g(c)) IN(h) + b(c).

    Source: Dumoulin et al., "A Learned Representation For Artistic Style", arXiv 1610.07629. InstanceNorm after a
    convolution removes a constant label plane, except at the zero-padded border. It does not remove this condition, at
    any image size. The layer is linear in c, so labels can be mixed and extrapolated.
    """

    def __init__(self, channels: int, cond_dim: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.affine = nn.Linear(cond_dim, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.1)
        nn.init.zeros_(self.affine.bias)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.affine(c)[:, :, None, None].chunk(2, 1)
        return (1 + scale) * self.norm(h) + shift


class PlainInstanceNorm(nn.InstanceNorm2d):
    """InstanceNorm of the reference code: affine, without a condition."""

    def __init__(self, channels: int, cond_dim: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        return super().forward(h)


class ResidualBlock(nn.Module):
    """h + norm(conv(relu(norm(conv(h))))), without an activation after the sum."""

    def __init__(self, channels: int, norm: type[nn.Module], cond_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm1 = norm(channels, cond_dim)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = norm(channels, cond_dim)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        return h + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(h), c))), c)


class Generator(nn.Module):
    """(x (N, C, H, H), c (N, cond_dim)) -> x_fake (N, C, H, H) in [-1, 1]. StarGAN, arXiv 1711.09020, table 4.

    output tanh: tanh(C), as in the reference code. skip: clamp(x + tanh(C)). mask: m tanh(C) + (1 - m) x; m is the
    sigmoid of a second convolution (GANimation, arXiv 1807.09251). warp: as mask, with x moved by a flow, which is
    computed at a quarter of the side, so that it is smooth. At the start, C of skip and the flow are 0, and m of warp
    is small, so the output is about the photo.

    skip and warp have one more convolution, of the last features and x. InstanceNorm removes the brightness and hue of
    the photo from the features, but the pixels of a new mouth must have the colour of the skin.
    """

    def __init__(self, channels: int, cond_dim: int, cfg: ModelConfig) -> None:
        super().__init__()
        d, self.output, self.planes = cfg.width, cfg.output, cfg.conditioning == "planes"
        norm = PlainInstanceNorm if self.planes else ConditionalInstanceNorm
        inp = nn.Conv2d(channels + (cond_dim if self.planes else 0), d, 7, 1, 3, bias=False)
        down = [nn.Conv2d(n, 2 * n, 4, 2, 1, bias=False) for n in (d, 2 * d)]
        up = [nn.ConvTranspose2d(n, n // 2, 4, 2, 1, bias=False) for n in (4 * d, 2 * d)]
        self.down, self.up = nn.ModuleList([inp, *down]), nn.ModuleList(up)
        self.down_norms = nn.ModuleList(norm(n, cond_dim) for n in (d, 2 * d, 4 * d))
        self.blocks = nn.ModuleList(ResidualBlock(4 * d, norm, cond_dim) for _ in range(cfg.blocks))
        self.up_norms = nn.ModuleList(norm(n, cond_dim) for n in (2 * d, d))
        self.join = nn.Conv2d(d + channels, d, 3, 1, 1) if self.output in ("skip", "warp") else None
        if self.join is not None:  # else the cycle loss of the first steps can switch off all its ReLUs for good
            nn.init.constant_(self.join.bias, 0.5)
        self.out = nn.Conv2d(d, channels, 7, 1, 3, bias=False)
        if self.output == "skip":
            nn.init.zeros_(self.out.weight)
        if self.output in ("mask", "warp"):
            self.mask = nn.Conv2d(d, 1, 7, 1, 3)
            nn.init.zeros_(self.mask.bias)
        if self.output == "warp":
            nn.init.zeros_(self.mask.weight)
            nn.init.constant_(self.mask.bias, -3.0)
            self.flow = nn.Conv2d(4 * d, 2 * cond_dim, 3, 1, 1)
            nn.init.zeros_(self.flow.weight)
            nn.init.zeros_(self.flow.bias)

    def forward(self, x: Tensor, c: Tensor, with_mask: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """With `with_mask` also m (N, 1, H, H) in [0, 1]: where the image changes (skip: mean absolute change;
        tanh: 1)."""
        h = x
        if self.planes:
            h = torch.cat([x, c[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)  # (N, 3 + K, 128, 128)
        for conv, norm in zip(self.down, self.down_norms, strict=True):
            h = F.relu(norm(conv(h), c))  # (N, 64, 128, 128), (N, 128, 64, 64), (N, 256, 32, 32)
        for block in self.blocks:
            h = block(h, c)  # (N, 256, 32, 32)
        coarse = h
        for conv, norm in zip(self.up, self.up_norms, strict=True):
            h = F.relu(norm(conv(h), c))  # (N, 128, 64, 64), (N, 64, 128, 128)
        if self.join is not None:
            h = F.relu(self.join(torch.cat([h, x.to(h.dtype)], 1)))  # (N, 64, 128, 128)
        x_fake, m = self.compose(x, h, coarse, c)
        return (x_fake, m) if with_mask else x_fake

    def compose(self, x: Tensor, h: Tensor, coarse: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, C, H, H), the last features h (N, d, H, H), those of the blocks, c -> x_fake, mask (N, 1, H, H)."""
        content = torch.tanh(self.out(h).float())  # (N, 3, 128, 128)
        if self.output == "tanh":
            return content, torch.ones_like(content[:, :1])
        if self.output == "skip":
            return (x + content).clamp(-1, 1), content.abs().mean(1, keepdim=True)
        m = torch.sigmoid(self.mask(h).float())  # (N, 1, 128, 128)
        if self.output == "warp":
            flows = self.flow(coarse).float().unflatten(1, (-1, 2))  # (N, K, 2, 32, 32)
            flow = 2 * MAX_FLOW * torch.tanh(torch.einsum("nkchw,nk->nchw", flows, c.float()))  # (N, 2, 32, 32)
            x = warp(x, F.interpolate(flow, size=x.shape[2:], mode="bilinear", align_corners=False))
        return m * content + (1 - m) * x, m


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample x (N, C, H, H) at its pixels plus flow (N, 2, H, H), in half image sides. Borders are repeated."""
    identity = torch.eye(2, 3, device=x.device).expand(x.shape[0], -1, -1)
    grid = F.affine_grid(identity, list(x.shape), align_corners=False) + flow.permute(0, 2, 3, 1)  # (N, H, H, 2)
    return F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)


def halvings(image_size: int) -> tuple[int, int]:
    """How often the critic halves the image side (at most six times), and the last side: 2, or 3 at 48 and 96 px."""
    count = 0
    while count < 6 and image_size % 2 == 0 and image_size // 2 >= 2:
        count, image_size = count + 1, image_size // 2
    return count, image_size


class Critic(nn.Module):
    """Critic of patches (pix2pix, arXiv 1611.07004) and of the label, without normalisation.

    class: a head predicts the label (StarGAN). projection: s_p = psi(h)_p + <V c, h_p> (arXiv 1802.05637); with V = 0
    the label would have no effect. planes: c is an input with x, so there is no class head.
    """

    def __init__(
        self, channels: int, image_size: int, cond_dim: int, cfg: ModelConfig, num_points: int = 0, num_labels: int = 0
    ) -> None:
        """num_points: landmarks to predict; num_labels: labels to predict, 0 = cond_dim."""
        super().__init__()
        count, last = halvings(image_size)
        self.planes, projects = cfg.critic == "planes+projection", "projection" in cfg.critic
        widths = [min(cfg.critic_width * 2**i, cfg.max_width) for i in range(count)]
        before = [channels + (cond_dim if self.planes else 0), *widths]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in zip(before, widths, strict=False))
        self.psi = nn.Conv2d(widths[-1], 1, 3, 1, 1, bias=False)
        self.project = nn.Linear(cond_dim, widths[-1], bias=False) if projects else None
        if self.project is not None:
            nn.init.normal_(self.project.weight, std=0.02)
        self.head = None if self.planes else nn.Conv2d(widths[-1], num_labels or cond_dim, last, bias=False)
        self.points = nn.Conv2d(widths[-1], 2 * num_points, last) if num_points else None

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (N, C, H, H) -> h (N, F, P, P); c (N, K) is used with planes only."""
        if self.planes:
            x = torch.cat([x, c[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.01)  # (N, 64, 64, 64) ... (N, 512, 2, 2)
        return x

    def score(self, h: Tensor, c: Tensor) -> Tensor:
        """Patch scores (N, P, P); h (N, F, P, P), c (N, K)."""
        s = self.psi(h)[:, 0].float()
        return s if self.project is None else s + torch.einsum("nf,nfpq->npq", self.project(c), h).float()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Patch scores (N, P, P) of images x (N, C, H, H) with labels c (N, K)."""
        return self.score(self.features(x, c), c)

    def logits(self, h: Tensor) -> Tensor:
        """Logits of the class head, (N, K)."""
        return self.head(h)[:, :, 0, 0].float()

    def landmarks(self, h: Tensor) -> Tensor:
        """Predicted landmarks (N, 68, 2) in [-1, 1], for GC-GAN."""
        return self.points(h)[:, :, 0, 0].float().unflatten(1, (-1, 2))


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers, LayerNorm and ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(a, b), nn.LayerNorm(b), nn.ReLU()]
    return nn.Sequential(*layers[:-2])


class GeometryEncoder(nn.Module):
    """Aligned, standardised landmarks (N, 68, 2) -> a code z (N, code_dim) of unit length."""

    def __init__(self, num_points: int, code_dim: int) -> None:
        super().__init__()
        self.net = mlp(2 * num_points, 128, 64, code_dim)

    def forward(self, points: Tensor) -> Tensor:
        return F.normalize(self.net(points.flatten(1)), dim=1)


class GeometryDecoder(nn.Module):
    """(z (N, code_dim), landmarks of a face (N, 68, 2)) -> that face's landmarks with z's expression (N, 68, 2).

    The points are added to the output of the layers, so the code needs the expression only, not the person.
    """

    def __init__(self, num_points: int, code_dim: int) -> None:
        super().__init__()
        self.net = mlp(code_dim + 2 * num_points, 128, 128, 2 * num_points)

    def forward(self, z: Tensor, points: Tensor) -> Tensor:
        return points + self.net(torch.cat([z, points.flatten(1)], 1)).unflatten(1, (-1, 2))
