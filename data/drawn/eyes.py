"""Eyes and brows."""

import numpy as np

from data.drawn.scene import Scene, View
from data.drawn.shape import EYE_Y, IRIS_Y, brow, lids

EYE = (0.02, 0.52, -0.28, 0.12)
BROW = (0.0, 0.52, -0.52, -0.06)
CROW = (0.36, 0.60, -0.20, 0.10)


def eyes(s: Scene) -> None:
    """Paint white, iris, pupil, highlight and lids of both eyes, opened as the factors say."""
    for v in s.on(EYE, sides=True):
        t = (v.x - v.ex) / v.ew
        g = np.maximum(0, 1 - t * t)
        up, low = lids(t, v)
        ball = v.band(up, low)
        v.paint(ball, "eyewhite")
        v.paint(ball * np.clip(0.55 - (v.y - up) / 0.05, 0, 0.55), "eyeshade")
        v.paint(ball * np.clip(np.abs(t) - 0.45, 0, 0.35), "eyeshade")
        _iris(v, ball)
        _rims(v, t, g, up, low)
    for v in s.on(CROW, sides=True):
        _crows_feet(v)


def _iris(v: View, ball: np.ndarray) -> None:
    gx = v.ex - 0.004 + v.side * v.gaze_x
    x, y = v.x - gx, v.y - IRIS_Y - v.gaze_y - 0.018 * v.A43
    r = np.sqrt(x * x + y * y + 1e-6)
    v.paint(ball * v.cov(r - v.ri), "iris_rim")
    inner = ball * v.cov(r - 0.82 * v.ri)
    v.paint(inner, "iris")
    v.paint(inner * np.clip(y / v.ri + 0.15, 0, 0.85), "iris_light")
    v.paint(ball * v.cov(r - 0.44 * v.ri), "ink")
    near, far = 0.36 * v.ri, 0.018
    to = 0.5 * v.lx * v.side + 0.12
    d = np.sqrt((x - near * to * 2) ** 2 + (y + near) ** 2 + 1e-6)
    v.paint(0.95 * ball * v.cov(d - far) * np.minimum(1, 0.036 / v.px), "white")
    d = np.sqrt((x + near * to * 2) ** 2 + (y - 0.45 * v.ri) ** 2 + 1e-6)
    v.paint(0.40 * ball * np.maximum(0, 1 - d / 0.022), "white")


def _rims(v: View, t: np.ndarray, g: np.ndarray, up: np.ndarray, low: np.ndarray) -> None:
    """Lid fold above, lashes, the lower lid's rim, and the pouch that AU6 and AU7 press up."""
    female = (1 - v.m) / 2
    ends = np.clip(3 * g, 0, 1)
    fold = 0.030 + 0.012 * np.clip(v.hu / 0.073, 0, 1.4)
    v.paint(0.62 * ends * v.line(v.y - up + fold, 0.011), "line")
    lash = 0.014 + 0.012 * female * (0.5 + 0.5 * v.lash)
    wing = female * (0.5 + 0.5 * v.lash)
    tw = np.clip((t - 0.55) / 0.75, 0, 1)  # the wing sweeps out and up, past the corner
    upper = up - 0.050 * wing * tw * tw
    beyond = np.where(t > 1, np.clip(1 - (t - 1) / 0.22, 0, 1) * wing, 1) * (t > -1.02)
    thick = lash * np.clip(0.95 + 0.30 * t, 0.55, 1.3) * beyond
    v.paint(0.92 * v.band(upper - thick, upper + 0.35 * thick), "ink")
    v.paint(0.50 * ends * v.line(v.y - low - 0.004, 0.009), "line")
    press = np.clip(0.75 * np.maximum(v.A6, 0.8 * v.A7), 0, 0.7)
    v.paint(press * ends * v.line(v.y - low - 0.034, 0.012), "line")


def _crows_feet(v: View) -> None:
    strength = np.clip(0.55 * v.A6 + 0.75 * v.lines**2 - 0.08, 0, 0.75)
    x0 = v.ex + v.ew + 0.022
    s = (v.x - x0) / 0.075
    span = np.clip(6 * s, 0, 1) * np.clip(3 * (1 - s), 0, 1)
    rays = sum(v.line(v.y - EYE_Y - 0.005 - k * (0.016 + 0.040 * s), 0.009) for k in (-1, 0, 1))
    v.paint(strength * span * np.minimum(rays, 1) * v.skull, "line")


def brows(s: Scene) -> None:
    """Paint both brows: height, slant and thickness are of the expression and the person."""
    for v in s.on(BROW, sides=True):
        t = (v.x - v.bxi) / (v.bxo - v.bxi)
        mid, half = brow(np.clip(t, -0.1, 1.1), v)
        ends = v.cov(v.bxi - 0.008 - v.x) * v.cov(v.x - v.bxo)
        cover = v.band(mid - half, mid + half) * ends
        v.paint(0.92 * cover, "brow")
        strokes = np.sin(90 * (0.55 * v.x + (1.1 - 1.6 * t) * v.y) + 1.5 * np.sin(37 * v.x)) * v.fade(90)
        v.paint(np.clip(0.30 * strokes, 0, 0.5) * cover, "ink")
