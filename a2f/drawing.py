"""A user's own sketch, on any paper and with any pen, as a sketch like those of training."""

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

PAPER = 1 / 8  # of the width: sigma of the blur that tells the paper from the lines
LEAST_CONTRAST = 0.08  # between line and paper, in [0, 1]; less is an empty page
TONE, MOST_TONES = 0.25, 0.035  # broad areas so far from the paper's grey; more than this share is said to be a photo
GAMMAS = (0.2, 5.0)
WORK = 512  # px: larger drawings are reduced to this side first


def load_drawing(path: str | Path, image_size: int, mean: float) -> Tensor:
    """Read a drawing: (1, 1, H, H) in [-1, 1], dark lines on white.

    Transparency is laid on white and EXIF rotation applied (`open_photo`). A dark page is inverted. Grey or uneven
    paper is divided away; the 1st and 99th percentile become black and white; the page is padded to a square; its
    mean becomes `mean` by a gamma. Broad tones, as a photo has them, are said on stderr: only their outlines stay.

    Args:
        image_size: H.
        mean: of the training sketches, in [0, 1].

    Raises:
        UserError: an unreadable file, an empty page.
    """
    page = _grey(open_photo(path))  # (h, w) in [0, 1]
    if _border(page) < 0.5:
        page = 1 - page
    flat = _without_paper(page)
    low, high = (float(v) for v in np.percentile(flat, (1, 99)))
    if high - low < LEAST_CONTRAST:
        raise UserError(f"{path}: the page is empty, or its lines are too faint; draw with a darker pen")
    tones = float(((flat > 0.8) & (np.abs(page - _border(page)) > TONE)).mean())
    if tones > MOST_TONES:
        print(f"{path}: has broad grey areas, as a photo has; only lines are read. A photo goes into recon or edit",
              file=sys.stderr)  # fmt: skip
    lines = ((flat - low) / (high - low)).clip(0, 1)
    s = torch.from_numpy(_square(lines)).float()[None, None]
    s = F.interpolate(s, size=(image_size, image_size), mode="area")
    return 2 * _with_mean(s, mean) - 1


def _grey(photo: Image.Image) -> np.ndarray:
    """Luminance (h, w) in [0, 1], at most 512 px on the longer side."""
    scale = WORK / max(photo.size)
    if scale < 1:
        photo = photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))), Image.BOX)
    return np.asarray(photo, np.float32) @ np.array(LUMA, np.float32) / 255


def _border(page: np.ndarray) -> float:
    """Median of the outermost pixels: the paper's own grey."""
    return float(np.median(np.concatenate([page[0], page[-1], page[:, 0], page[:, -1]])))


def _without_paper(page: np.ndarray) -> np.ndarray:
    """The page over its own blurred brightness: even paper is 1, whatever its grey or shade."""
    paper = gaussian_blur(torch.from_numpy(page)[None, None], PAPER * page.shape[1])[0, 0].numpy()
    return (page / np.maximum(paper, 1e-3)).clip(0, 1)


def _square(page: np.ndarray) -> np.ndarray:
    """Padded with white on both sides of the shorter edge."""
    h, w = page.shape
    side = max(h, w)
    top, left = (side - h) // 2, (side - w) // 2
    return np.pad(page, ((top, side - h - top), (left, side - w - left)), constant_values=1.0)


def _with_mean(s: Tensor, mean: float) -> Tensor:
    """s ** gamma, with the gamma in 0.2 .. 5 that brings the mean of s nearest to `mean`, found by bisection."""
    low, high = GAMMAS
    for _ in range(30):
        gamma = (low * high) ** 0.5
        low, high = (gamma, high) if float((s**gamma).mean()) > mean else (low, gamma)
    return s ** ((low * high) ** 0.5)
