"""Nyquist energy: chequers and stripes of two px raise it; blur lowers it; edges and brightness hardly matter."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.pictures import nyquist, nyquist_energy


def faces(n: int = 4, size: int = 48) -> Tensor:
    """(n, 1, size, size) uint8: smooth blobs with a little noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(n, 1, 6, 6, generator=generator), (size, size), mode="bicubic")
    return (40 + 160 * coarse + 3 * torch.randn(n, 1, size, size, generator=generator)).clamp(0, 255).byte()


def with_pattern(x: Tensor, pattern: str, amount: int = 12) -> Tensor:
    """A patch of two-px texture in the middle, as in a mouth that a generator paints for a classifier."""
    rows, columns = torch.meshgrid(torch.arange(x.shape[-1]), torch.arange(x.shape[-1]), indexing="ij")
    sign = {"chequers": rows + columns, "stripes": columns, "wide stripes": columns // 4}[pattern] % 2 * 2 - 1
    patch = torch.zeros_like(sign)
    patch[18:30, 18:30] = sign[18:30, 18:30] * amount
    return (x.int() + patch).clamp(0, 255).byte()


@pytest.mark.parametrize("pattern", ["chequers", "stripes"])
def test_texture_of_two_px_raises_it(pattern: str) -> None:
    x = faces()
    ratio = nyquist_energy(with_pattern(x, pattern)) / nyquist_energy(x)
    assert (ratio > 3).all()
    assert (ratio > 2 * nyquist_energy(with_pattern(x, "wide stripes")) / nyquist_energy(x)).all()


def test_blur_lowers_it_and_brightness_and_colour_channels_do_not_matter() -> None:
    x = faces()
    energy = nyquist_energy(x)
    blurred = F.avg_pool2d(x.float(), 3, 1, 1, count_include_pad=False).round().byte()
    assert (nyquist_energy(blurred) < 0.4 * energy).all()
    assert torch.allclose(nyquist_energy(x + 20), energy, rtol=0.02)
    assert torch.allclose(nyquist_energy(x.expand(-1, 3, -1, -1)), energy)
    assert nyquist_energy(x[:0]).shape == (0,)


def test_white_noise_gives_its_variance() -> None:
    """The unit: the variance of white noise, whatever the size."""
    generator = torch.Generator().manual_seed(1)
    for size in (32, 64):
        noise = (128 + 20 * torch.randn(64, 1, size, size, generator=generator)).clamp(0, 255).byte()
        assert nyquist_energy(noise).mean().item() == pytest.approx(400, rel=0.08)


def test_the_metric_is_per_target_and_names_the_worst() -> None:
    x = faces()
    images = torch.cat([x, x, with_pattern(x, "chequers")])  # sources, edits to sad, edits to happy
    rows = torch.arange(8)
    export = SimpleNamespace(images=images, file=4 + rows, source=rows % 4, at_full_strength=lambda kind: rows)
    groups = {"happy": rows[4:], "sad": rows[:4]}
    metric = nyquist(SimpleNamespace(export=export, conditions=lambda kind: groups), "edit")
    per = metric.detail["per_target"]
    assert per["sad"] == pytest.approx(1) and per["happy"] > 3 and metric.detail["worst"] == per["happy"]
    assert metric.value == pytest.approx((per["sad"] + per["happy"]) / 2) and metric.references == {"real": 1.0}
