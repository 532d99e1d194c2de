"""The head's skin: its form in light and shade, cheeks, folds, chin, freckles, lines, sockets."""

import numpy as np

from data.drawn.hashing import FRECKLES, grain, key
from data.drawn.scene import Scene, head
from data.drawn.shape import lids, lips

HEAD = (-0.72, 0.72, -0.80, 1.12)
CHEEK = (-0.02, 0.66, -0.05, 0.46)
FOLD = (0.0, 0.50, 0.05, 0.75)
CHIN = (-0.30, 0.30, 0.40, 1.12)
FRECKLED = (-0.62, 0.62, -0.05, 0.42)
FOREHEAD = (-0.45, 0.45, -0.62, -0.28)
FROWN = (0.0, 0.12, -0.33, -0.12)
SOCKET = (0.0, 0.54, -0.27, 0.14)
CELLS = 17  # freckle cells a face unit


def skull(s: Scene) -> None:
    """The head: base, shade away from the light and round the rim, a broad light on the forehead."""
    for v in s.on(HEAD):
        d, u, w = head(v.X, v.y, v.a, v.bu, v.bl, v.c, v.tp)
        cover = v.cov(d)
        s.keep("skull", v, cover)
        v.paint(cover, "skin")
        r2 = u * u + w * w
        v.paint(cover * np.clip(-0.40 * v.lx * u + 0.225 * r2 * r2 + 0.14 * w * w - 0.06, 0, 0.62), "shadow")
        light = 0.30 * v.lx * u + 0.18 * v.bump(0.12 * v.lx, -0.42, 0.42, 0.26, v.X)
        v.paint(cover * np.clip(light, 0, 0.6), "hi")


def cheeks(s: Scene) -> None:
    """Paint blush, and the apples of the cheeks that a smile lifts."""
    for v in s.on(CHEEK, sides=True):
        k = np.maximum(v.A6, 0.8 * v.A12)
        v.paint(v.bump(0.34, 0.21 - 0.03 * k, 0.24, 0.19) * (0.11 + 0.45 * v.rosy) * v.skull, "blush")
        apple = v.bump(0.31, 0.135 - 0.02 * k, 0.15, 0.095)
        v.paint(apple * np.clip((0.20 + 0.38 * k) * (1 + 0.5 * v.light), 0, 1) * v.skull, "hi")


def folds(s: Scene) -> None:
    """Nasolabial folds: from beside the nose round the mouth's corner."""
    for v in s.on(FOLD, sides=True):
        n = 0.42 * v.lines**2 + 0.70 * v.A12 + 0.45 * v.A10 + 0.20 * v.A9 + 0.25 * v.A14 + 0.08 * v.A15
        x0, y0 = v.nw + 0.022, v.ny - 0.03
        x1, y1 = v.mw + 0.045, v.my + v.cy + 0.035
        t = (v.y - y0) / (y1 - y0)
        x = v.x - (x0 + (x1 - x0) * t + 0.11 * t * (1 - t))
        d = x / np.sqrt(1 + ((x1 - x0) / (y1 - y0)) ** 2)
        ends = np.clip(5 * t + 0.2, 0, 1) * np.clip(4 * (1 - t) + 0.2, 0, 1)
        v.paint(np.clip(0.62 * n, 0, 0.8) * v.line(d, 0.030) * ends, "line")
        v.paint(np.clip(0.30 * n, 0, 0.5) * np.clip(1 + d / 0.09, 0, 1) * (d < 0) * ends, "shadow")


def chin(s: Scene) -> None:
    """Paint the chin: its light, and the shade below the lip."""
    for v in s.on(CHIN):
        v.paint(0.34 * v.bump(0, v.bl - 0.115, 0.15, 0.095), "hi")
        low = lips(np.zeros((1, 1, 1), np.float32), v).ol
        v.paint(np.clip(0.42 + 0.3 * v.A17 + 0.2 * v.A15, 0, 1) * v.bump(0, low + 0.035, 0.14, 0.045), "shadow")
        q = (v.x / 0.13) ** 2 + ((v.y - v.bl + 0.125) / 0.085) ** 2
        ring = np.maximum(0, 1 - np.abs(q - 1) / 0.55) * np.clip(0.6 - 3 * (v.y - v.bl + 0.125) / 0.085 * 0.2, 0, 1)
        v.paint(0.42 * v.A17 * ring * v.skull, "shadow")


def freckles(s: Scene) -> None:
    """One jittered dot a cell, over nose and cheeks, the same for all pictures of a person."""
    for v in s.on(FRECKLED, s.f["freckle"] > 0):
        cx, cy = np.floor(CELLS * v.x), np.floor(CELLS * v.y)
        rows = slice(None) if v.rows is None else v.rows
        h = (key(s.f["seed"][rows], FRECKLES, s.f["identity"][rows]) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        bits = grain(h.reshape(-1, 1, 1), (cx + 128).astype(np.uint32), (cy + 128).astype(np.uint32))
        part = [((bits >> np.uint32(8 * k)) & np.uint32(255)).astype(np.float32) / 255 for k in range(3)]
        x, y = v.x - (cx + 0.2 + 0.6 * part[0]) / CELLS, v.y - (cy + 0.2 + 0.6 * part[1]) / CELLS
        r = 0.012 * (1.0 - 0.5 * part[2])
        cheeks, bridge = v.bump(0.30, 0.13, 0.26, 0.20, np.abs(v.x)), v.bump(0, 0.08, 0.20, 0.16)
        where = np.minimum(2.4 * np.maximum(cheeks, bridge), 1)
        shown = np.clip((where - 1.1 * part[2]) * 3, 0, 1)
        thin = np.minimum(1, 2 * r / v.px)  # a dot below a pixel's size only tints it
        v.paint(0.62 * v.freckle * shown * thin * v.cov(np.sqrt(x * x + y * y) - np.maximum(r, 0.5 * v.px)) * v.skull,
                "line")  # fmt: skip


def forehead(s: Scene) -> None:
    """Lines across the forehead: raised brows and age; oblique brows bend them."""
    for v in s.on(FOREHEAD):
        a1, a2 = v.A1, v.A2
        strength = np.clip(0.62 * np.maximum(a1 * (0.75 + 0.25 * a2), a2) + 0.80 * v.lines**2 - 0.06, 0, 0.85)
        half = 0.16 + 0.22 * np.clip(np.maximum(a2, v.lines), 0, 1)
        inside = np.clip((half - np.abs(v.x)) / 0.09, 0, 1)
        bend = np.cos(9 * np.clip(v.x, -0.42, 0.42)) * (0.020 - 0.035 * a1 * (1 - a2)) - 0.03 * a1
        lines = sum(v.line(v.y - y - bend, 0.010) for y in (-0.345, -0.405, -0.465))
        v.paint(strength * inside * np.minimum(lines, 1), "line")


def frown(s: Scene) -> None:
    """Fold the skin between the brows."""
    for v in s.on(FROWN, sides=True):
        strength = np.clip(v.A4 * (1 - 0.45 * v.A1) + 0.12 * v.lines, 0, 1)
        d = v.x - 0.034 - 0.10 * (v.y + 0.22) ** 2
        span = np.clip((v.y + 0.31) / 0.05, 0, 1) * np.clip((-0.14 - v.y) / 0.05, 0, 1)
        v.paint(0.85 * strength * span * v.line(d, 0.012), "line")


def sockets(s: Scene) -> None:
    """The shade round the eyes, eye make-up with lipstick, bags below."""
    for v in s.on(SOCKET, sides=True):
        v.paint(v.bump(v.ex - 0.01, -0.105, 0.235, 0.15) * (0.30 - 0.10 * v.light), "shadow")
        if s.f["lipstick"].any():
            v.paint(0.40 * v.lipstick * v.bump(v.ex + 0.01, -0.125, 0.19, 0.085), "make_up")
        t = (v.x - v.ex) / v.ew
        g = np.maximum(0, 1 - t * t)
        y = v.y - lids(t, v)[1] - 0.055 * g
        bags = np.clip(1.1 * v.bags - 0.25 + 0.40 * v.lines**2, 0, 1) * np.clip(1.6 * g, 0, 1)
        v.paint(0.62 * bags * v.line(y - 0.012, 0.016), "line")
        v.paint(0.38 * bags * np.clip(1 + (y - 0.012) / 0.045, 0, 1) * (y < 0.012), "shadow")
