"""The networks of CGAN-64 and CGAN-128 as the study wrote them: a DCGAN with a joined label (`model.nets: study`).

Kept as the fault that the recipe is compared with. BatchNorm in the critic mixes the samples of a batch, so that it
takes neither a gradient penalty nor wrong pairs. At A attributes: 64 px, A 1: 480,630 and 1,725,697 parameters;
128 px, A 6: 482,560 and 1,875,201.
"""

import torch
from torch import Tensor, nn

from a2f.model import num_stages

EMBEDDING = 50  # units that the attributes become beside the noise


def _embed(num_attributes: int, units: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_attributes, units, bias=False), nn.BatchNorm1d(units), nn.ReLU())


class StudyGenerator(nn.Module):
    """(z (N, Z), a (N, A)) -> x (N, C, H, H): transposed convolutions with BatchNorm, a sigmoid at the end.

    Deviation: the sigmoid's picture in [0, 1] is moved to [-1, 1].
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
    """(x, a) -> score (N,): the attributes become one plane of learned pixels beside the picture."""

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
