"""Differentiable pencil sketches of photos: `dodge` and `ink` map (N, 1 | 3, H, W) to (N, 1, H, W), both in [-1, 1].

`sigma` sets the width of a stroke, as a share of the image width W. These functions draw sketches of a batch on its
device. `data.sketches` reads sketches from files instead.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of R, G, B
SIGMA = 0.0197  # 3.5 px of 178
STYLES = ("dodge", "ink")


def sketch(x: Tensor, style: str = "dodge", sigma: float = SIGMA, offset: float = 0.0) -> Tensor:
    """`dodge` or `ink` of x (N, 1 | 3, H, W) in [-1, 1] -> (N, 1, H, W) in [-1, 1]."""
    if style == "dodge":
        return dodge(x, sigma, offset)
    if style == "ink":
        return ink(x, sigma)
    raise ValueError(f"style: expected one of {', '.join(STYLES)}, got {style!r}")


def dodge(x: Tensor, sigma: float = SIGMA, offset: float = 0.0) -> Tensor:
    """Colour dodge: S = min(255, 256 Y / blur(Y)), and 0 where the blur is 0; Y is the luminance in [0, 255].

    The result does not depend on the exposure: a gain of Y cancels. At 178 px it is OpenCV's
    `divide(grey, GaussianBlur(grey, (21, 21), 3.5), scale=256)`.

    offset: added to Y and to its blur. With 1 the gradient stays finite in black places; losses use that.
    """
    y = luminance(x) * 255  # (N, 1, H, W)
    blurred = gaussian_blur(y, sigma * x.shape[-1]) + offset
    positive = blurred > 0
    ratio = 256 * (y + offset) / torch.where(positive, blurred, torch.ones_like(blurred))
    return torch.where(positive, ratio.clamp(0, 255), torch.zeros_like(ratio)) / 127.5 - 1


def ink(x: Tensor, sigma: float = SIGMA) -> Tensor:
    """Ink lines: an extended difference of Gaussians (XDoG, Winnemöller et al. 2012) of the locally normalised Y.

    N = 0.5 Y / (blur_{W/8}(Y) + 0.02) with Y in [0, 1]; u = (1 + p) G_s N - p G_{ks} N; S = 1 where u >= eps, else
    1 + tanh(phi (u - eps)), in [0, 1]. k 1.6, p 10, eps 0.35, phi 5. The scale s is `sigma` x W / 3.5: 1 px at 178 px.
    Plain XDoG paints dark skin black; the normalisation makes the lines nearly independent of the exposure.
    """
    k, p, eps, phi = 1.6, 10.0, 0.35, 5.0
    width = x.shape[-1]
    y = luminance(x)
    normal = 0.5 * y / (gaussian_blur(y, width / 8) + 0.02)
    s = sigma * width / 3.5
    u = (1 + p) * gaussian_blur(normal, s) - p * gaussian_blur(normal, k * s)
    return 2 * torch.where(u >= eps, torch.ones_like(u), 1 + torch.tanh(phi * (u - eps))).clamp(0, 1) - 1


def luminance(x: Tensor) -> Tensor:
    """(N, 1 | 3, H, W) in [-1, 1] -> Y (N, 1, H, W) in [0, 1]."""
    x = (x.float() + 1) / 2
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of x (N, 1, H, W), sigma in px; radius max(1, round(10 sigma / 3.5)).

    The border is reflected without its edge pixel (OpenCV's BORDER_REFLECT_101).
    """
    radius = max(1, round(10 * sigma / 3.5))
    radius = min(radius, x.shape[-1] - 1, x.shape[-2] - 1)  # reflection cannot reach further
    place = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-place.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="reflect"), kernel[None, None, None, :])
    return F.conv2d(F.pad(x, (0, 0, radius, radius), mode="reflect"), kernel[None, None, :, None])
