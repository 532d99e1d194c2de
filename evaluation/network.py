"""The network of a classifier: a convolutional trunk and one head per kind of label."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as mode L of Pillow
EMBEDDING = 128  # dimension of an identity embedding


def prepare(x: Tensor, size: int, channels: int) -> Tensor:
    """Convert images (N, 1 or 3, H, W) to the input of a network (N, channels, size, size).

    Bilinear, antialiased, differentiable. Grey is the luminance; a grey image is repeated to three channels.
    """
    if channels == 1 and x.shape[1] == 3:
        x = (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    elif channels == 3 and x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    if x.shape[-2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return x


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(min(8, channels // 4), channels)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; stride 2 halves height and width."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = _norm(channels)
        same = stride == 1 and channels_in == channels
        self.short = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(h))
        shortcut = F.avg_pool2d(x, 2, ceil_mode=True) if self.stride == 2 else x
        return F.relu(h + self.short(shortcut))


class PlainBlock(nn.Module):
    """One 3 x 3 convolution with leaky ReLU, without a shortcut; for guides."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), 0.1)


class PooledBlock(nn.Module):
    """Max-pooling and one 3 x 3 convolution with BatchNorm; for identity.

    BatchNorm matters: with GroupNorm the verification rate was .38 instead of .96 (drawn faces, 1,200 steps, one seed).
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, 2) if self.stride == 2 else x
        return F.relu(self.norm(self.conv(x)))


class Network(nn.Module):
    """A stem, stages that each halve height and width, and the heads. `forward` returns one tensor per head:

    logits of expression (N, K) and attributes (N, A), landmarks (N, P, 2) in [-1, 1], identity (N, 128) of unit length,
    and features (N, F).
    """

    def __init__(
        self, kind: str, channels: int, widths: Sequence[int], blocks: int, heads: dict[str, int], dropout: float
    ) -> None:
        """heads: {"expression": K, "attributes": A, "landmarks": P, "identity": any}."""
        super().__init__()
        block = {"residual": ResidualBlock, "plain": PlainBlock, "pooled": PooledBlock}[kind]
        last = widths[0] // 2 if kind == "pooled" else widths[0]  # the stem at full size costs most
        norm = nn.BatchNorm2d(last) if kind == "pooled" else _norm(last)
        self.stem = nn.Sequential(nn.Conv2d(channels, last, 3, 1, 1, bias=False), norm, nn.ReLU())
        self.stages = nn.ModuleList()
        for width in widths:
            self.stages.append(
                nn.Sequential(*(block(last if b == 0 else width, width, 2 - (b > 0)) for b in range(blocks)))
            )
            last = width
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict()
        for name, size in heads.items():
            if name == "landmarks":
                # Landmarks need positions, so the map is pooled to 4 x 4 and not averaged.
                cells = nn.Sequential(nn.Conv2d(widths[-2], 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
                self.heads[name] = nn.Sequential(cells, nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 2 * size))
            elif name == "identity":
                # Identity depends on positions too, so the map is pooled to 4 x 4 and not averaged.
                self.heads[name] = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * last, EMBEDDING))
            else:
                self.heads[name] = nn.Linear(last, size)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The output of every stage k = 1, 2, ...: (N, width, H / 2^k, W / 2^k)."""
        h, found = self.stem(x), []
        for stage in self.stages:
            h = stage(h)
            found.append(h)
        return found

    def apply_heads(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """The outputs of all heads, and `features` (N, F): the mean of the last map, or the embedding."""
        features = maps[-1].float().mean((2, 3))
        out = {"features": features}
        for name, head in self.heads.items():
            if name == "landmarks":
                out[name] = head(maps[-2]).float().unflatten(1, (-1, 2))
            elif name == "identity":
                out[name] = F.normalize(head(maps[-1]).float())
                out["features"] = out[name]
            else:
                out[name] = head(self.dropout(features)).float()
        return out

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.apply_heads(self.maps(x))


def erase(x: Tensor, share: float) -> Tensor:
    """Random erasing: a rectangle (0.1 to 0.4 of each side) becomes 0 in a random `share` of images (N, C, H, W)."""
    n, _, height, width = x.shape
    u = torch.rand(5, n, device=x.device)
    tall, wide = (0.1 + 0.3 * u[0]) * height, (0.1 + 0.3 * u[1]) * width
    top, left = u[2] * (height - tall), u[3] * (width - wide)
    ys, xs = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    in_y = (ys >= top[:, None]) & (ys < (top + tall)[:, None])
    in_x = (xs >= left[:, None]) & (xs < (left + wide)[:, None])
    inside = in_y[:, :, None] & in_x[:, None, :] & (u[4] < share)[:, None, None]
    return x.masked_fill(inside[:, None], 0.0)
