"""Behind and below the face: ground, cloth, neck, ears."""

import numpy as np

from data.drawn.names import STYLES
from data.drawn.scene import EVERYWHERE, Scene

NECK = (-0.75, 0.75, 0.55, 1.35)
EARS = (0.40, 0.80, -0.22, 0.30)


def ground(s: Scene) -> None:
    """A wall: light from one side above, a glow there, dimmer behind the head."""
    for v in s.on(EVERYWHERE):
        x, y, lx = v.px_x, v.px_y, v.lx
        v.paint(np.ones((1, 1, 1), np.float32), "ground")
        v.paint(np.clip(0.5 + 0.5 * y - 0.25 * lx * x, 0, 1), "ground_dark")
        glow = np.maximum(0, 1 - ((x - 0.7 * lx) ** 2 + (y + 0.35) ** 2) / 0.81) ** 2
        v.paint(0.28 * glow, "ground_light")
        behind = np.maximum(0, 1 - (x / 1.05) ** 2 - ((y - 0.1) / 1.15) ** 2) ** 2
        v.paint(0.30 * behind, "ground_dark")


def cloth_and_neck(s: Scene) -> None:
    """Paint collar, shoulders and neck, with the shadow of the chin."""
    for v in s.on((-9, 9, 0.8, 9)):
        X, y = np.abs(v.X), v.y
        w = 0.265 + 0.035 * v.m + 0.03 * v.cheek
        shoulder = 0.93 + 0.34 * (np.maximum(0, X - 0.9 * w) / 0.75) ** 2
        cover = v.cov(shoulder - y)
        v.paint(cover, "cloth")
        v.paint(cover * np.clip(0.25 - 0.35 * v.lx * v.X + 0.5 * (X - 0.45), 0, 0.7), "cloth_shade")
    for v in s.on(NECK):
        X, y = v.X, v.y
        w = 0.265 + 0.035 * v.m + 0.03 * v.cheek + 0.10 * (np.maximum(0, y - 0.75) / 0.4) ** 2
        collar = 1.02 - 0.30 * X * X
        cover = v.cov(np.abs(X) - w) * v.cov(y - collar) * v.cov(0.60 - y)
        v.paint(cover, "skin")
        v.paint(cover * np.clip(0.80 - 2.2 * (y - v.bl), 0.22, 0.75), "shadow")
        v.paint(cover * np.clip(-1.6 * v.lx * X, 0, 0.4), "shadow")
        rim = v.line(y - collar - 0.012, 0.022) * v.cov(np.abs(X) - w - 0.03)
        v.paint(0.6 * rim, "cloth_shade")


def ears(s: Scene) -> None:
    """Paint both ears where no hair covers them."""
    covered = np.isin(s.f["style"], [STYLES.index(n) for n in ("mop", "curly", "bob", "long", "wavy")])
    for v in s.on(EARS, ~covered, sides=True):
        size = 1 + 0.18 * v.ear
        narrow = 1 - 3.0 * v.side * v.yaw
        rx, ry = 0.068 * size * narrow, 0.142 * size
        y = v.y - 0.03
        x = v.X - (v.a + 0.01) + 0.28 * y
        q = np.sqrt((x / rx) ** 2 + (y / ry) ** 2 + 1e-6)
        cover = v.cov((q - 1) * rx)
        v.paint(cover, "skin")
        v.paint(cover * np.clip(0.18 - 0.30 * v.light, 0, 0.5), "shadow")
        inner = np.maximum(0, 1 - ((x - 0.006) / (0.66 * rx)) ** 2 - (y / (0.70 * ry)) ** 2) ** 2
        v.paint(0.9 * inner * cover, "line")
