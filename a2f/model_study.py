"""The original networks of CGAN-64 and CGAN-128: a DCGAN with a concatenated label (`model.nets: study`).

They are a baseline for the recipe. BatchNorm in the critic mixes the samples of a batch, so gradient penalties and
wrong pairs are not possible. Parameters of generator and critic: 480,630 and 1,725,697 at 64 px with 1 attribute;
482,560 and 1,875,201 at 128 px with 6 attributes.
"""

import torch
from torch import Tensor, nn

from a2f.model import num_stages

EMBEDDING = 50  # size of the attributes' embedding, which is concatenated to the noise


def _embed(num_attributes: int, units: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_attributes, units, bias=False), nn.BatchNorm1d(units), nn.ReLU())


class StudyGenerator(nn.Module):
    """(z (N, Z), a (N, A)) -> x (N, C, H, H): transposed convolutions with BatchNorm, a sigmoid at the end.

    Deviation: the sigmoid's output in [0, 1] is scaled to [-1, 1].
    """

    def __init__(self, channels: int, image_size: int, num_attributes: int, latent_dim: int) -> None:
        super().__init__()
        widths = [128, 64, 32, 16, 8, 4][: num_stages(image_size)]
        self.embed = _embed(num_attributes, EMBEDDING)
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim + EMBEDDING, widths[0], 4, bias=False)]  # 4 px
        for before, after in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        self.net = nn.Sequential(*layers, nn.Sigmoid())

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        h = torch.cat([z, self.embed(a)], 1)[:, :, None, None]  # (N, Z + 50, 1, 1)
        return 2 * self.net(h).float() - 1


class StudyCritic(nn.Module):
    """(x, a) -> score (N,): the attributes' embedding is one additional image plane."""

    mixes_samples = True

    def __init__(self, channels: int, image_size: int, num_attributes: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.embed = _embed(num_attributes, image_size**2)
        widths = [8, 16, 32, 64, 128, 256, 256][-num_stages(image_size) :]
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(zip([channels + 1, *widths], widths, strict=False)):
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=False))
            if place and after >= 128:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(0.2))
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 16, 1))

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        plane = self.embed(a).view(-1, 1, self.image_size, self.image_size)
        return self.net(torch.cat([x, plane], 1))[:, 0].float()
