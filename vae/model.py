"""Networks: five encoder / decoder pairs in one table, the feature networks, and FactorVAE's discriminator.

Images are (N, C, H, H) in [-1, 1], codes (N, Z). Every network returns float32, also under autocast.
"""

import logging
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import UserError
from engine.files import sha256


class Arch(NamedTuple):
    """One architecture: downsampling, layers between the last map and the code, upsampling."""

    channels: tuple[int, ...]  # per stage, the last repeated for larger images; `residual`: times width
    side: int  # of the last map; an image of twice the size has one more stage
    down: int  # kernel of the stride-2 convolution (padding 1)
    up: str  # "transpose4" | "transpose3" | "nearest"
    slope: float = 0.0  # of the (leaky) ReLU
    norm_eps: float = 0.0  # BatchNorm's; 0 = no normalisation
    hidden: tuple[int, ...] = ()  # fully connected layers between the last map and the code


ARCHS = {
    "residual": Arch((1, 2, 4, 4), side=4, down=4, up="nearest"),  # not from a paper: GroupNorm, SiLU, residual blocks
    "burgess": Arch((32, 32, 32, 32), side=4, down=4, up="transpose4", hidden=(256, 256)),  # arxiv.org/abs/1804.03599
    "higgins": Arch((32, 32, 64, 64), side=4, down=4, up="transpose4", hidden=(256,)),  # beta-VAE, ICLR 2017
    "vanilla": Arch(
        (32, 64, 128, 256, 512), side=2, down=3, up="transpose3", slope=0.01, norm_eps=1e-5
    ),  # AntixK/PyTorch-VAE
    "dfc": Arch(
        (32, 64, 128, 256, 256), side=4, down=4, up="nearest", slope=0.2, norm_eps=1e-3
    ),  # DFC-VAE, arxiv.org/abs/1610.00291
}


def stage_channels(cfg, image_size: int) -> tuple[int, ...]:
    """Channels after each halving. `cfg.stages` None: as many stages as lead to the last side in the table."""
    arch = ARCHS[cfg.arch]
    stages = cfg.stages or (image_size // arch.side).bit_length() - 1
    if stages < 1 or image_size % 2**stages:
        remedy = "choose a multiple, or another model.stages"
        raise UserError(f"data.image_size: {image_size} cannot be halved {max(stages, 1)} times; {remedy}")
    channels = (arch.channels + arch.channels[-1:] * stages)[:stages]
    return tuple(c * cfg.width for c in channels) if cfg.arch == "residual" else channels


class ResidualBlock(nn.Module):
    """x + Conv3(SiLU(GN(Conv3(SiLU(GN(x)))))), initialised to the identity. (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Encoder(nn.Module):
    """(N, C, H, H) -> mu (N, Z), logvar (N, Z) in [-10, 10] (Z = `cfg.latent_dim`)."""

    def __init__(self, channels: int, image_size: int, cfg) -> None:
        super().__init__()
        arch, widths = ARCHS[cfg.arch], stage_channels(cfg, image_size)
        layers: list[nn.Module] = []
        if cfg.arch == "residual":
            layers.append(nn.Conv2d(channels, widths[0], 3, padding=1))
            channels = widths[0]
        for width in widths:
            layers.append(nn.Conv2d(channels, width, arch.down, stride=2, padding=1))
            layers += [ResidualBlock(width)] if cfg.arch == "residual" else _activate(arch, width)
            channels = width
        if cfg.arch == "residual":
            layers += [nn.GroupNorm(8, channels), nn.SiLU()]
        self.maps = nn.Sequential(*layers)

        flat = channels * (image_size // 2 ** len(widths)) ** 2
        head: list[nn.Module] = [nn.Flatten()]
        for size in arch.hidden:
            head += [nn.Linear(flat, size), nn.ReLU()]
            flat = size
        head.append(nn.Linear(flat, 2 * cfg.latent_dim))
        self.head = nn.Sequential(*head)
        if cfg.arch == "residual":  # initial posterior variance 1, so the KL starts at |mu|^2 / 2
            nn.init.zeros_(head[-1].weight[cfg.latent_dim :])
            nn.init.zeros_(head[-1].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.head(self.maps(x)).float().chunk(2, dim=1)
        return mu, logvar.clamp(-10.0, 10.0)


class Decoder(nn.Module):
    """z (N, Z) -> the mean image (N, C, H, H) in [-1, 1]; `logits(z)` before the tanh."""

    def __init__(self, channels: int, image_size: int, cfg) -> None:
        super().__init__()
        arch, widths = ARCHS[cfg.arch], stage_channels(cfg, image_size)[::-1]
        side = image_size // 2 ** len(widths)
        layers: list[nn.Module] = []
        flat = cfg.latent_dim
        for size in reversed(arch.hidden):
            layers += [nn.Linear(flat, size), nn.ReLU()]
            flat = size
        layers += [nn.Linear(flat, widths[0] * side**2), nn.Unflatten(1, (widths[0], side, side))]
        if arch.hidden:
            layers.append(nn.ReLU())

        width = widths[0]
        targets = [*widths[1:], widths[-1] if cfg.arch in ("residual", "vanilla") else channels]
        for i, target in enumerate(targets):
            layers += _grow(arch.up, width, target)
            if cfg.arch == "residual":
                layers.append(ResidualBlock(target))
            elif i < len(targets) - 1 or cfg.arch == "vanilla":
                layers += _activate(arch, target)
            width = target
        if cfg.arch == "residual":
            layers += [nn.GroupNorm(8, width), nn.SiLU()]
        if cfg.arch in ("residual", "vanilla"):
            layers.append(nn.Conv2d(width, channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def logits(self, z: Tensor) -> Tensor:
        """z (N, Z) -> (N, C, H, H); the mean image is tanh(logits / 2)."""
        return self.layers(z).float()

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.logits(z) / 2)  # 2 sigmoid(logits) - 1

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the layers that `logits` and `forward` share."""
        self.layers.compile(*args, **kwargs)


def _activate(arch: Arch, width: int) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(width, eps=arch.norm_eps)] if arch.norm_eps else []
    return [*norm, nn.LeakyReLU(arch.slope) if arch.slope else nn.ReLU()]


def _grow(up: str, width: int, target: int) -> list[nn.Module]:
    """Layers that double the side of (N, width, h, h) and change the channels to `target`."""
    if up == "transpose4":
        return [nn.ConvTranspose2d(width, target, 4, stride=2, padding=1)]
    if up == "transpose3":
        return [nn.ConvTranspose2d(width, target, 3, stride=2, padding=1, output_padding=1)]
    # Nearest upsampling and convolution: no checkerboard. Replicated border: no dark frame.
    return [nn.Upsample(scale_factor=2), nn.Conv2d(width, target, 3, padding=1, padding_mode="replicate")]


class FeatureNet(nn.Module):
    """A small classifier that is trained in the run. Its maps are the features of `loss.features=own`.

    `features(x)` -> three maps after ReLU. `forward(x)` -> logits (N, num_outputs). No normalisation layers, so nothing
    in it changes once its optimiser stops.
    """

    def __init__(self, channels: int, image_size: int, num_outputs: int) -> None:
        super().__init__()
        w = 16 if image_size <= 32 else 24
        self.conv0, self.conv1 = nn.Conv2d(channels, w, 3, padding=1), nn.Conv2d(w, w, 3, padding=1)
        self.conv2, self.conv3 = nn.Conv2d(w, 2 * w, 3, padding=1), nn.Conv2d(2 * w, 4 * w, 3, padding=1)
        self.head = nn.Linear(4 * w * (image_size // 8) ** 2, num_outputs)

    def features(self, x: Tensor) -> list[Tensor]:
        """x (N, C, H, H) in [-1, 1] -> maps after each ReLU, (N, w 2^i, H / 2^i, H / 2^i)."""
        h1 = F.relu(self.conv1(F.relu(self.conv0(x))))  # (N, w, H, H)
        h2 = F.relu(self.conv2(F.max_pool2d(h1, 2)))  # (N, 2w, H/2, H/2)
        h3 = F.relu(self.conv3(F.max_pool2d(h2, 2)))  # (N, 4w, H/4, H/4)
        return [h1, h2, h3]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(self.features(x)[-1], 2).flatten(1)).float()


class VGG19Features(nn.Module):
    """Maps of VGG-19 after the ReLUs `taps` (indices of torchvision's `features`), from a local state dict.

    The weights are non-persistent buffers: not in an optimiser and not in a checkpoint. The plain network without
    BatchNorm, cut after its last tap. Input in [-1, 1]; grey is repeated to three channels.
    """

    PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512)  # 0: pool

    def __init__(self, path: str, taps: tuple[int, ...]) -> None:
        super().__init__()
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError) as error:
            remedy = "give the path of torchvision's vgg19 state dict, or loss.features=own"
            raise UserError(f"loss.vgg19_weights: cannot read {path!r} ({error}); {remedy}") from error
        logging.getLogger("faces").info(f"VGG-19 features from {path}, sha256 {sha256(path)}")
        self.ops: list[tuple[str, int]] = []
        index = 0
        for width in self.PLAN:
            if index > max(taps):
                break
            if not width:
                self.ops.append(("pool", index))
                index += 1
                continue
            for part in ("weight", "bias"):
                key = f"features.{index}.{part}"
                if key not in state:
                    raise UserError(f"loss.vgg19_weights: {path!r} has no {key}: not torchvision's plain vgg19")
                self.register_buffer(f"{part}{index}", state[key].float(), persistent=False)
            self.ops.append(("conv", index))
            index += 2
        self.taps = taps
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):  # ImageNet's
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def features(self, x: Tensor) -> list[Tensor]:
        """x (N, 1|3, H, H) in [-1, 1] -> the tapped maps, finest first."""
        h = ((x.expand(-1, 3, -1, -1) + 1) / 2 - self.mean) / self.std
        maps = []
        for op, index in self.ops:
            if op == "pool":
                h = F.max_pool2d(h, 2)
                continue
            h = F.relu(F.conv2d(h, getattr(self, f"weight{index}"), getattr(self, f"bias{index}"), padding=1))
            if index + 1 in self.taps:
                maps.append(h)
        return maps


class LatentDiscriminator(nn.Module):
    """FactorVAE's discriminator: a code (N, Z) -> 2 logits; class 0 = code of an image, 1 = dimensions permuted."""

    def __init__(self, latent_dim: int, hidden: int = 1000) -> None:
        super().__init__()
        sizes = [latent_dim, *[hidden] * 5]
        layers: list[nn.Module] = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 2))

    def forward(self, z: Tensor) -> Tensor:
        """Logits (N, 2), float32, of codes z (N, Z)."""
        return self.layers(z).float()
