"""data.sketch: photos as sketches, against hand values, NumPy and OpenCV."""

import numpy as np
import pytest
import torch

from data.sketch import SIGMA, dodge, ink, sketch


def photo(n: int = 2, side: int = 64, channels: int = 3) -> torch.Tensor:
    """Smooth pictures with edges, in [-1, 1]."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, channels, side // 8, side // 8, generator=g)
    x = torch.nn.functional.interpolate(x, size=side, mode="bilinear")
    x[:, :, side // 4 : side // 2, side // 3 : side // 2] *= 0.4
    return 2 * (0.15 + 0.7 * x) - 1


def levels(x: torch.Tensor) -> torch.Tensor:
    return (x + 1) * 127.5


def numpy_dodge(x: np.ndarray, sigma: float) -> np.ndarray:
    """x (3, H, W) in [-1, 1] -> S (H, W) in 0 .. 255, with loops over the kernel."""
    y = np.tensordot([0.299, 0.587, 0.114], (x + 1) * 127.5, 1)
    radius = max(1, round(10 * sigma / 3.5))
    place = np.arange(-radius, radius + 1)
    kernel = np.exp(-(place**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = np.pad(y, radius, mode="reflect")
    rows = sum(k * padded[:, i : i + y.shape[1]] for i, k in enumerate(kernel))
    blurred = sum(k * rows[i : i + y.shape[0]] for i, k in enumerate(kernel))
    return np.minimum(255, 256 * y / blurred)


def test_dodge_equals_its_formula():
    x = photo(1, 48)
    expected = numpy_dodge(x[0].double().numpy(), SIGMA * 48)
    assert np.abs(levels(dodge(x))[0, 0].numpy() - expected).max() < 1e-2


def test_dodge_of_flat_pictures():
    grey = torch.zeros(1, 3, 32, 32)
    assert torch.equal(dodge(grey), torch.ones(1, 1, 32, 32))  # paper
    assert torch.equal(dodge(-torch.ones(1, 3, 32, 32)), -torch.ones(1, 1, 32, 32))  # 0 / 0 stays black


def test_sketches_hardly_depend_on_the_exposure():
    x = photo()
    half = (x + 1) / 2 - 1  # Y halved
    assert (levels(dodge(x)) - levels(dodge(half))).abs().max() < 1e-3
    assert (levels(ink(x)) - levels(ink(half))).abs().mean() < 6


def test_gradients_are_right_and_finite_in_black_places():
    y = (torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1.2).requires_grad_()
    weight = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((dodge(y, 0.1, offset=1.0) * weight).sum(), y)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    step = 1e-3
    value = lambda v: float((dodge(v, 0.1, offset=1.0) * weight).double().sum())  # noqa: E731
    numeric = (value(y.detach() + step * direction) - value(y.detach() - step * direction)) / (2 * step)
    assert numeric == pytest.approx(float((gradient * direction).sum()), rel=0.05)
    black = -torch.ones(1, 3, 8, 8)
    black = black.requires_grad_()
    (gradient,) = torch.autograd.grad(dodge(black, 0.1, offset=1.0).sum(), black)
    assert gradient.isfinite().all()


def test_dodge_equals_opencv():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is an optional dependency")
    x8 = (levels(photo(1, 178)) + 0.5).to(torch.uint8)[0].permute(1, 2, 0).numpy()
    y = (x8.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.float32)
    blurred = cv2.GaussianBlur(y, (21, 21), 3.5)
    expected = np.minimum(255, cv2.divide(y, blurred, scale=256))
    mine = levels(dodge(torch.from_numpy(x8).permute(2, 0, 1)[None].float() / 127.5 - 1, 3.5 / 178))[0, 0].numpy()
    assert np.abs(mine - expected).max() < 0.05


def test_styles_by_name():
    x = photo()
    assert torch.equal(sketch(x, "ink"), ink(x)) and torch.equal(sketch(x), dodge(x))
    with pytest.raises(ValueError, match="dodge, ink"):
        sketch(x, "charcoal")
    grey = x[:, :1]
    assert torch.allclose(dodge(grey), dodge(grey.expand(-1, 3, -1, -1)), atol=1e-4)
