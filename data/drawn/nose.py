"""The nose: a shaded side, a lit ridge, wings, nostrils. It stands out, so the yaw slides it further."""

import numpy as np

from data.drawn.scene import Scene

NOSE = (-0.30, 0.30, -0.24, 0.40)
PARALLAX = 0.55


def nose(s: Scene) -> None:
    """Paint ridge, tip, nostrils and the shadow of the nose."""
    for v in s.on(NOSE):
        t = np.clip((v.y + 0.16) / (v.ny + 0.16), 0, 1)
        _draw(v, v.x - PARALLAX * v.yaw * t, t)


def _draw(v, x: np.ndarray, t: np.ndarray) -> None:
    top, bottom = np.clip((v.y + 0.22) / 0.08, 0, 1), np.clip((v.ny + 0.03 - v.y) / 0.05, 0, 1)
    w = 0.040 + (0.62 * v.nw - 0.040) * t * t
    out = np.abs(x)
    right = (x > 0).astype(np.float32) * 2 - 1
    side = np.maximum(0, 1 - np.abs(out - w - 0.018) / (0.042 + 0.02 * t))
    v.paint(side * np.clip(0.30 - 0.38 * right * v.lx, 0.02, 0.62) * (0.35 + 0.65 * t) * top * bottom, "shadow")
    v.paint(0.38 * np.maximum(0, 1 - np.abs(x - 0.008 * v.lx) / 0.030) * top * bottom, "hi")
    v.paint(0.50 * v.bump(0, v.ny + 0.052, 0.95 * v.nw, 0.060, x), "shadow")
    rx, wx, wy = 0.42 * v.nw, 0.70 * v.nw, v.ny - 0.012
    dx, dy = (out - wx) / rx, (v.y - wy) / 0.046
    q = np.sqrt(dx * dx + dy * dy + 1e-6)
    v.paint(0.30 * v.cov((q - 1) * 0.042), "wing")
    arc = v.line((q - 1) * 0.042, 0.013) * np.clip(1.5 * dx + 0.5 * dy + 0.25, 0, 1)
    v.paint(0.85 * arc, "line")
    v.paint(0.55 * v.bump(0.018 * v.lx, v.ny - 0.035, np.maximum(0.6 * v.nt, 0.012), 0.026, x), "hi")
    tip = v.line(v.y - v.ny - 0.030 + 1.6 * x * x, 0.011) * np.clip(1.3 - out / (0.34 * v.nw), 0, 1)
    v.paint(0.45 * tip, "line")
    hole = ((out - 0.45 * v.nw) / (0.026 + 0.06 * v.nw)) ** 2 + ((v.y - v.ny - 0.022) / 0.014) ** 2
    v.paint(0.80 * np.clip(1.5 - 1.2 * hole, 0, 1) * np.minimum(1, 0.028 / v.px), "nostril")
    _wrinkles(v, x, out)


def _wrinkles(v, x: np.ndarray, out: np.ndarray) -> None:
    """AU9 folds the bridge: three slanted lines."""
    a9 = v.A9
    reach = np.clip((0.085 - out) / 0.03, 0, 1)
    folds = sum(v.line(v.y - y + 0.45 * out, 0.012) for y in (-0.085, -0.030, 0.025))
    v.paint(np.clip(0.80 * a9, 0, 0.85) * reach * np.minimum(folds, 1), "line")
