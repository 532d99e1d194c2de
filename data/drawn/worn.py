"""What is put on: glasses, earrings, hats."""

import numpy as np

from data.drawn.scene import Scene, View, head
from data.drawn.shape import EYE_Y

GLASSES = (0.0, 0.80, -0.24, 0.16)
EARRING = (0.45, 0.80, 0.10, 0.30)
HAT = (-0.85, 0.85, -1.05, -0.10)


def glasses(s: Scene) -> None:
    """Paint rims, bridge and temples of glasses on the faces that wear some."""
    for v in s.on(GLASSES, s.f["glasses"] > 0, sides=True):
        gold = v.frame > 1.5
        rim = np.where(gold, np.float32(0.011), np.float32(0.017))
        w, h = v.ew + 0.052, 0.128
        corner = np.where(v.frame_round > 0.5, np.minimum(0.135, np.float32(h)), np.float32(0.062))
        y0 = EYE_Y + 0.01
        x, y = np.abs(v.x - v.ex) - (w - corner), np.abs(v.y - y0) - (h - corner)
        d = np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2 + 1e-8) + np.minimum(np.maximum(x, y), 0) - corner
        shade = v.line(d - 0.012 - 0.02 * (v.y > y0), 0.040)
        v.paint(0.22 * v.glasses * shade * v.skull, "shadow")
        lens = v.cov(d)
        v.paint(0.07 * v.glasses * lens, "white")
        slant = (v.x * v.side - v.ex * v.side) * 0.8 + (v.y - y0)
        glint = np.maximum(v.line(slant + 0.045, 0.030), v.line(slant - 0.035, 0.014))
        v.paint(0.22 * v.glasses * lens * glint, "white")
        ring = v.line(d, rim * 1.35)
        ring = np.clip(1.6 * ring, 0, 1)
        bridge = np.clip(1.6 * v.line(v.y - y0 + 0.035 - 0.25 * v.x * v.x, rim * 1.2), 0, 1) * v.cov(v.x - (v.ex - w))
        bridge = bridge * (v.x > -0.5 * v.px)
        arm = np.clip(1.6 * v.line(v.y - y0 + 0.030, rim * 1.2), 0, 1) * v.cov(v.ex + w - v.x) * v.cov(v.X - v.a - 0.01)
        v.paint(v.glasses * np.maximum(ring, np.maximum(bridge, arm)), "frame")


def earrings(s: Scene) -> None:
    """Paint earrings on the faces that wear some."""
    for v in s.on(EARRING, s.f["earring"] > 0, sides=True):
        x, y = v.X - v.a - 0.016, v.y - 0.205
        r = np.sqrt(x * x + y * y + 1e-6)
        v.paint(v.earring * v.cov(r - 0.027), "gold")
        v.paint(0.8 * v.earring * v.bump(v.a + 0.016 + 0.008 * v.light, 0.197, 0.014, 0.014, v.X), "white")


def hat(s: Scene) -> None:
    """Paint a beanie or a cap over the hair."""
    beanie = s.f["hat_kind"] == 0
    for v in s.on(HAT, (s.f["hat"] > 0) & beanie):
        _beanie(v)
    for v in s.on(HAT, (s.f["hat"] > 0) & ~beanie):
        _cap(v)


def _dome(v: View, cover: np.ndarray, u: np.ndarray, w: np.ndarray) -> None:
    v.paint(cover, "hat")
    v.paint(cover * np.clip(0.10 + 0.50 * u * u - 0.40 * v.lx * u, 0, 0.85), "hat_shade")
    shine = np.maximum(0, 1 - ((u - 0.35 * v.lx) / 0.5) ** 2 - ((w + 0.62) / 0.30) ** 2) ** 2
    v.paint(0.55 * cover * shine, "hat_shine")


def _beanie(v: View) -> None:
    edge = -0.375 + 0.065 * (1 - (v.X / v.a) ** 2)
    v.paint(0.40 * v.skull * np.clip(1 - (v.y - edge) / 0.07, 0, 1) * (v.y > edge), "shadow")
    d, u, w = head(v.X, v.y + 0.30, v.a + 0.075, v.bu - 0.15, v.bu - 0.15, 0.35, 0)
    cover = v.cov(np.maximum(d, v.y - edge + 0.08))
    _dome(v, cover, u, w)
    ribs = np.sin(46 * v.X) * v.fade(46)
    v.paint(cover * np.clip(0.45 * ribs, 0, 0.5), "hat_shade")
    x, y = np.abs(v.X) - v.a - 0.005, np.abs(v.y - edge + 0.065) - 0.018  # a roll: a box with round ends
    cuff = v.cov(np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2 + 1e-8) + np.minimum(np.maximum(x, y), 0) - 0.05)
    v.paint(cuff, "hat")
    v.paint(cuff * np.clip(0.22 + 0.35 * u * u - 0.35 * v.lx * u + 0.40 * ribs, 0, 0.85), "hat_shade")
    v.paint(cuff * 0.6 * v.line(v.y - edge + 0.130, 0.014), "hat_shade")


def _cap(v: View) -> None:
    """A dome, seams that meet at its button, and a bill that bends down over the forehead."""
    d, u, w = head(v.X, v.y + 0.30, v.a + 0.045, v.bu - 0.20, v.bu - 0.20, 0.35, 0)
    cover = v.cov(np.maximum(d, v.y + 0.385))
    _dome(v, cover, u, w)
    bow = np.sqrt(np.maximum(0, 1 - np.minimum(w * w, 1)))
    for k in (-0.45, 0.0, 0.45):
        v.paint(0.30 * cover * v.line(v.X - k * (v.a + 0.045) * bow, 0.010), "hat_shade")
    half = v.a - 0.055
    arch = np.sqrt(np.maximum(0, 1 - (v.X / half) ** 2))
    top, low = -0.425 - 0.035 * arch, -0.425 + 0.135 * arch
    below = np.clip(1 - (v.y - low) / 0.10, 0, 1) * (v.y > low - 0.02) * np.clip(4 * arch, 0, 1)
    v.paint(0.45 * v.skull * below, "shadow")
    bill = v.band(top, low)
    v.paint(bill, "hat")
    v.paint(bill * np.clip(0.62 - 3.2 * (v.y - top) - 0.25 * v.lx * v.X, 0, 0.75), "hat_shade")
    v.paint(0.65 * bill * v.line(v.y - low + 0.022, 0.014), "hat_shine")
