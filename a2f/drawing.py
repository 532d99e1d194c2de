"""Read a user's own sketch, on any paper and with any pen, and make it similar to the training sketches."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.photo import open_photo
from data.sketch import LUMA, gaussian_blur
from engine.errors import UserError

PAPER_SIGMA = 1 / 8  # sigma of the blur that estimates the brightness of the paper, as a share of the width
MIN_CONTRAST = 0.08  # contrast of lines and paper, in [0, 1]; a page with less is empty
MIN_TONE = 0.25  # a broad area this much darker or lighter than the paper is a tone
MAX_TONE_SHARE = 0.035  # a page with a larger share of tones is probably a photo
GAMMA_RANGE = (0.2, 5.0)
MAX_SIDE = 512  # px; larger drawings are reduced to this longer side


def load_drawing(path: str | Path, image_size: int, mean: float) -> Tensor:
    """Read a drawing as (1, 1, H, H) in [-1, 1], with dark lines on white.

    `open_photo` handles transparency and EXIF. A dark page is inverted. The page is divided by the brightness of its
    paper. The 1st and 99th percentiles become black and white. The page is padded to a square, and a gamma changes its
    mean to `mean`. If the page has broad tones like a photo, a note on stderr says that only the lines are used.

    Args:
        image_size: H, in px.
        mean: the mean of the training sketches, in [0, 1].

    Raises:
        UserError: the file cannot be read, or the page is empty.
    """
    page = _grey(open_photo(path))  # (h, w) in [0, 1]
    if _border(page) < 0.5:
        page = 1 - page
    flat = _without_paper(page)
    low, high = (float(v) for v in np.percentile(flat, (1, 99)))
    if high - low < MIN_CONTRAST:
        raise UserError(f"{path}: the page is empty, or its lines are too faint; draw with a darker pen")
    tones = float(((flat > 0.8) & (np.abs(page - _border(page)) > MIN_TONE)).mean())
    if tones > MAX_TONE_SHARE:
        print(f"{path}: this looks like a photo (broad grey areas); only its lines are used. For a photo, use the mode "
              "recon or edit", file=sys.stderr)  # fmt: skip
    lines = ((flat - low) / (high - low)).clip(0, 1)
    s = torch.from_numpy(_square(lines)).float()[None, None]
    s = F.interpolate(s, size=(image_size, image_size), mode="area")
    return 2 * _with_mean(s, mean) - 1


def _grey(photo: Image.Image) -> np.ndarray:
    """Luminance (h, w) in [0, 1], reduced to at most MAX_SIDE px."""
    scale = MAX_SIDE / max(photo.size)
    if scale < 1:
        photo = photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))), Image.BOX)
    return np.asarray(photo, np.float32) @ np.array(LUMA, np.float32) / 255


def _border(page: np.ndarray) -> float:
    """The median of the border pixels: the grey level of the paper."""
    return float(np.median(np.concatenate([page[0], page[-1], page[:, 0], page[:, -1]])))


def _without_paper(page: np.ndarray) -> np.ndarray:
    """The page divided by its blurred brightness, so that paper of any grey or shade becomes 1."""
    paper = gaussian_blur(torch.from_numpy(page)[None, None], PAPER_SIGMA * page.shape[1])[0, 0].numpy()
    return (page / np.maximum(paper, 1e-3)).clip(0, 1)


def _square(page: np.ndarray) -> np.ndarray:
    """Pad the shorter side with white to a square, equally on both sides."""
    h, w = page.shape
    side = max(h, w)
    top, left = (side - h) // 2, (side - w) // 2
    return np.pad(page, ((top, side - h - top), (left, side - w - left)), constant_values=1.0)


def _with_mean(s: Tensor, mean: float) -> Tensor:
    """s ** gamma, with the gamma in GAMMA_RANGE for which the mean is nearest to `mean`, found by bisection."""
    low, high = GAMMA_RANGE
    for _ in range(30):
        gamma = (low * high) ** 0.5
        low, high = (gamma, high) if float((s**gamma).mean()) > mean else (low, gamma)
    return s ** ((low * high) ** 0.5)
