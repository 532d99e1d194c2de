"""Beard, then the mouth over it: opening, tongue, teeth, lips."""

import numpy as np

from data.drawn.names import BEARDS
from data.drawn.scene import Scene, View, head, soft
from data.drawn.shape import lips

BEARD = (-0.76, 0.76, -0.05, 1.20)
MOUTH = (-0.46, 0.46, 0.22, 0.92)
CORNER = (0.04, 0.50, 0.22, 0.78)
STUBBLE, GOATEE, MOUSTACHE, FULL = (BEARDS.index(n) for n in ("stubble", "goatee", "moustache", "full"))


def beard(s: Scene) -> None:
    """Paint stubble, goatee, moustache or full beard, below the mouth in the order of layers."""
    kind = s.f["beard"]
    for v in s.on(BEARD, (kind == STUBBLE) | (kind == FULL)):
        full = v.beard == FULL
        x = np.abs(v.x)
        cheek = v.my - 0.34 * np.maximum(0, x - 0.95 * v.mw) - 3.2 * np.maximum(0, x - 0.40) ** 2 - 0.048
        over = v.my - 0.098 + 0.05 * (x / v.mw) ** 2
        edge = np.where(x < v.mw, np.minimum(over, cheek), cheek)
        grown = np.where(full, np.float32(0.035), np.float32(0))
        d, _, w = head(v.X, v.y, v.a + 0.5 * grown, v.bu, v.bl + grown, v.c, v.tp)
        cover = soft(edge - v.y, np.where(full, np.float32(0.05), np.float32(0.20))) * v.cov(d) * np.clip(4 * v.y, 0, 1)
        v.paint(cover * np.where(full, np.float32(0.95), np.float32(0.42)), "beard")
        _texture(v, cover * full, w)
    for v in s.on(BEARD, kind == GOATEE):
        w = (v.y - v.bl + 0.085) / 0.185
        q = np.sqrt((v.x / (0.175 - 0.060 * np.clip(-w, 0, 1))) ** 2 + w * w + 1e-6)  # narrower towards the lip
        d = head(v.X, v.y, v.a + 0.02, v.bu, v.bl + 0.035, v.c, v.tp)[0]
        cover = soft((q - 1) * 0.16, 0.05) * v.cov(d)
        v.paint(0.95 * cover, "beard")
        _texture(v, cover, v.y / v.bl)
    for v in s.on(BEARD, (kind == MOUSTACHE) | (kind == FULL)):
        mw = v.per_side("mw")
        t = v.x / mw
        cy = v.per_side("cy")
        ride = v.my - v.lu - 0.6 * v.up - 0.26 * v.gap - 0.012 + 0.35 * (cy + 0.05) * t * t
        ends = v.cov((np.abs(t) - 1.06) * mw)
        tip = 0.045 * np.clip((np.abs(t) - 0.70) / 0.36, 0, 1) ** 2  # thins to a tip
        cover = v.band(ride - 0.062 + 0.030 * t * t + tip, ride + 0.024 + 0.03 * t * t - 0.5 * tip) * ends
        v.paint(0.95 * cover, "beard")
        _texture(v, 0.6 * cover, v.y / v.bl)


def _texture(v: View, cover: np.ndarray, w: np.ndarray) -> None:
    """Strands along one warp, and a dark underside."""
    hairs = np.sin(60 * v.x + 4 * np.sin(5 * v.y + 3 * v.x)) * v.fade(60)
    v.paint(cover * np.clip(0.16 * hairs + 0.9 * (w - 0.72) - 0.25 * v.lx * v.x, 0, 0.7), "beard_shade")


def mouth(s: Scene) -> None:
    """Paint lips, teeth, tongue and the dark between, in the shape that the expression gives them."""
    for v in s.on(CORNER, sides=True):
        _corners(v)
    for v in s.on(MOUTH):
        v.mw, v.cy = v.per_side("mw"), v.per_side("cy")
        t = v.x / v.mw
        m = lips(t, v)
        v.paint(v.band(m.ou, m.mid), "lip_upper")
        v.paint(v.band(m.mid, m.ol), "lip")
        _light(v, t, m)
        _inside(v, t, m)
        closed = np.clip(1 - 60 * v.gap, 0, 1) * np.clip(6 * m.g, 0, 1)
        v.paint(0.9 * closed * v.line(v.y - m.mid, 0.011), "lip_line")


def _light(v: View, t: np.ndarray, m) -> None:
    """Gloss on the lower lip, a dark edge below it, so that lips read on any skin."""
    y = v.y - m.il - 0.38 * (m.ol - m.il)
    shine = np.maximum(0, 1 - (y / np.maximum(0.32 * v.ll, 0.006)) ** 2)
    shine = shine * np.maximum(0, 1 - ((t - 0.15 * v.lx) / 0.55) ** 2)
    v.paint((0.30 + 0.20 * v.lipstick) * shine * v.band(m.il, m.ol), "gloss")
    v.paint(0.30 * v.band(m.ol - 0.30 * v.ll * m.g, m.ol), "lip_line")


def _inside(v: View, t: np.ndarray, m) -> None:
    hole = v.band(m.iu, m.il)
    v.paint(hole, "mouth")
    v.paint(hole * np.clip(1.3 * v.bump(0, v.my + 0.78 * v.gap, 0.15, 0.42 * v.gap + 1e-4), 0, 1), "tongue")
    row = np.minimum(0.62 * v.gap, 0.016 + 0.038 * np.minimum(1, v.gap / 0.06))
    dark = np.clip(1.25 - 0.85 * t * t, 0, 1)
    v.paint(0.98 * dark * v.band(m.iu, np.minimum(m.iu + m.G * row, m.il)), "teeth")
    low = np.clip(1.6 * v.A20 - 0.1, 0, 1) * np.minimum(0.30 * v.gap, 0.026)
    v.paint(0.90 * dark * v.band(m.il - m.G * low, m.il) * (low > 0), "teeth")


def _corners(v: View) -> None:
    """A pit at the corner, and the line below it that a drawn-down mouth or age makes."""
    y = v.my + v.cy
    pit = np.clip(0.30 + 0.4 * v.A12 + 0.75 * v.A14 + 0.35 * v.A15 + 0.2 * v.A20, 0, 1)
    v.paint(pit * v.bump(v.mw + 0.006, y, 0.030, 0.030 + 0.022 * v.A14), "line")
    s = (v.y - y - 0.01) / 0.12
    d = v.x - v.mw - 0.012 - 0.035 * np.clip(s, 0, 1)
    strength = np.clip(0.42 * v.A15 + 0.65 * v.lines**2 - 0.05, 0, 0.8)
    v.paint(strength * v.line(d, 0.014) * np.clip(5 * s, 0, 1) * np.clip(2.5 * (1 - s), 0, 1), "line")
