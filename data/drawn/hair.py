"""Hair: what hangs behind the head, what falls over it, and hats, which cut it."""

import numpy as np

from data.drawn.names import STYLES
from data.drawn.scene import EVERYWHERE, Scene, View, head, soft

# Per cut: height over the skull, width beside the head, width of the face's opening / a, y where it ends;
# back hair: y where it ends, half width, wave; how far the parting lifts one side; opacity
CUTS = {
    "bald": (0.0, 0.0, 1.2, -0.5, -1.0, 0.60, 0.0, 0.0, 0.0),
    "buzz": (0.012, 0.0, 0.97, -0.02, -1.0, 0.60, 0.0, 0.0, 0.78),
    "part": (0.12, 0.05, 0.93, 0.05, -1.0, 0.60, 0.0, 0.22, 1.0),
    "quiff": (0.20, 0.04, 0.95, 0.02, -1.0, 0.60, 0.0, 0.06, 1.0),
    "curly": (0.20, 0.16, 0.93, 0.16, 0.20, 0.70, 0.022, 0.0, 1.0),
    "mop": (0.13, 0.09, 0.90, 0.22, 0.25, 0.64, 0.012, 0.10, 1.0),
    "bob": (0.12, 0.11, 0.86, 0.50, 0.56, 0.70, 0.004, 0.16, 1.0),
    "long": (0.11, 0.09, 0.88, 0.62, 1.50, 0.68, 0.004, 0.12, 1.0),
    "wavy": (0.15, 0.14, 0.86, 0.66, 1.50, 0.76, 0.03, 0.18, 1.0),
    "bun": (0.07, 0.03, 0.95, 0.06, -1.0, 0.60, 0.0, 0.05, 1.0),
}
COLUMNS = (
    *("hair_top", "hair_side", "hair_open", "hair_end", "back_end", "back_w", "hair_wave", "hair_skew", "hair_alpha"),
)
SOFT = {"bob": 0.04, "long": 0.34, "wavy": 0.34}  # over what height the front hair fades at its end; else .10
HAT_LINE = -0.445  # above it a hat hides all hair
FRONT = (-0.92, 0.92, -1.02, 0.80)
BUN = (-0.24, 0.24, -1.10, -0.60)


def is_style(s: Scene, *names: str) -> np.ndarray:
    """(N,) bool: the faces whose haircut is one of `names`."""
    return np.isin(s.f["style"], [STYLES.index(n) for n in names])


def cuts(f: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The cut's measures as values of a scene; volume scales what stands off the head."""
    table = np.array([CUTS[n] for n in STYLES])[f["style"]]
    vol = 1 + 0.35 * f["volume"].astype(np.float64)
    values = dict(zip(COLUMNS, table.T, strict=True))
    values["hair_top"] = values["hair_top"] * vol
    values["back_w"] = values["back_w"] + values["hair_side"] * (vol - 1)
    values["hair_side"] = values["hair_side"] * vol
    values["hair_soft"] = np.array([SOFT.get(n, 0.10) for n in STYLES])[f["style"]]
    bangs = f["bangs"].astype(np.float64)
    values["hair_line"] = np.minimum(-0.50 + 0.035 * f["hairline"] - 0.11 * f["receding"] * (1 - bangs), -0.30)
    return {k: v.astype(np.float32) for k, v in values.items()}


def strands(v: View, x: np.ndarray) -> np.ndarray:
    """Locks in [-1, 1] at the pixels' resolution: one warped wave times a broad one."""
    fine = np.sin(38 * x + 3.2 * np.sin(3.1 * v.y + 2 * x)) * v.fade(38)
    return fine * np.sin(14 * x - 4 * v.y)


def under_hat(v: View) -> np.ndarray | float:
    """What a hat leaves of the hair: 1 below its line."""
    if not v.scene.f["hat"].any():
        return 1.0
    return 1 - v.hat * v.cov(v.y - HAT_LINE - 0.9 * np.maximum(0, np.abs(v.X) - v.a - 0.03))  # comes out rounded


def back(s: Scene) -> None:
    """Paint the hair behind head and neck."""
    for v in s.on(EVERYWHERE, is_style(s, "curly", "mop", "bob", "long", "wavy")):
        X = v.X + v.hair_wave * np.sin(13 * v.y + 1.5)
        y = v.y + 0.05
        d, u, _ = head(X, y, v.back_w, v.bu + v.hair_top - 0.045, v.back_end + 0.05, 0.75, 0)
        d = d + curl(v)
        cover = v.cov(d) * under_hat(v)
        v.paint(cover, "hair_back")
        lit = np.clip(0.30 + 0.30 * strands(v, X) + 0.30 * v.lx * u, 0, 1)
        v.paint(cover * lit * np.clip(np.abs(v.X) / 0.55 - 0.35, 0, 1), "hair")
    for v in s.on(BUN, is_style(s, "bun") & (s.f["hat"] < 0.5)):
        x, y = v.X, v.y + v.bu + 0.10
        r = np.sqrt(x * x + y * y + 1e-6)
        cover = v.cov(r - 0.20)
        v.paint(cover, "hair")
        wound = 0.25 * np.sin(30 * r) * v.fade(30)
        v.paint(cover * np.clip(0.2 + 12.8 * r * r - 1.1 * v.lx * x + wound, 0, 0.9), "hair_shade")
        v.paint(cover * 0.7 * v.bump(0.07 * v.lx, -v.bu - 0.17, 0.10, 0.06, v.X), "hair_shine")


def curl(v: View) -> np.ndarray:
    """The knobbly edge of curly hair, as a displacement of its outline (face units)."""
    on = (v.style == STYLES.index("curly")).astype(np.float32)
    return on * 0.024 * np.sin(19 * v.X + 2.0 * np.sin(9 * v.y)) * np.sin(17 * v.y + 1.0)


def _opening(v: View) -> np.ndarray:
    """Signed distance (about) to the face's opening in the front hair: inside < 0."""
    side = v.x * v.part - 0.10
    bangs, edge = v.bangs, v.hair_line
    fringe = 0.175 - 0.05 * np.cos(6 * v.x)
    locks = 0.018 * np.sin(30 * v.x) * v.fade(30) + 0.012 * np.sin(53 * v.x) * v.fade(53)
    edge = np.minimum(edge + bangs * (fringe + locks), -0.24)
    skew = v.hair_skew * (1 - bangs)
    y = v.y - skew * np.where(side > 0, 0.8 * side, -1.8 * side)
    wide = v.hair_open * v.a
    u = v.x / wide
    up = y < -0.02
    w = np.where(up, y / edge, 0.10 * y)
    u2, w2 = np.minimum(u * u, 1.2), np.minimum(w * w, 1.2)
    f = u * u + w * w - 0.72 * u2 * w2 - 1
    fu = 2 * u * (1 - 0.72 * np.minimum(w2, 1)) / wide
    fw = np.where(up, 2 * w * (1 - 0.72 * np.minimum(u2, 1)) / edge, 0.02 * y)
    return f / np.sqrt(fu * fu + fw * fw + 0.3)


def front(s: Scene) -> None:
    """Paint the hair over skull and forehead."""
    for v in s.on(FRONT, ~is_style(s, "bald")):
        short = v.hair_end < 0.30
        narrow = np.where(short, np.clip((v.hair_end + 0.02 - v.y) / 0.30, 0, 1), 1)
        wide = v.a + 0.012 + v.hair_side * narrow
        d, u, w = head(v.X, v.y, wide, v.bu + v.hair_top, 1.6 * np.maximum(v.hair_end + 0.12, 0.45), 0.25, 0)
        hole = _opening(v)
        end = soft(v.y - v.hair_end, v.hair_soft)
        rest = under_hat(v)
        v.paint(0.34 * v.skull * soft(-hole - 0.045, 0.09) * soft(v.y - v.hair_end - 0.03, 0.14) * rest, "shadow")
        cover = v.cov(np.maximum(d + curl(v), -hole)) * end * rest * v.hair_alpha
        _comb(v, cover, u, w)
    for v in s.on(FRONT, is_style(s, "bald")):
        shine = v.bump(0.22 * v.lx, -0.56, 0.22, 0.12, v.X) + 0.35 * v.bump(-0.10 * v.lx, -0.60, 0.30, 0.10, v.X)
        v.paint(np.clip(0.75 * shine, 0, 1) * v.skull, "hi")


def _comb(v: View, cover: np.ndarray, u: np.ndarray, w: np.ndarray) -> None:
    """Colour of the front hair: locks, the dark of the far side, a ring of light that moves with the light."""
    v.paint(cover, "hair")
    meridian = np.sqrt(np.maximum(0.22, 1 - 0.9 * np.minimum(w * w, 1) * (w < 0)))  # locks meet towards the crown
    locks = strands(v, v.x / meridian)
    v.paint(cover * np.clip(0.16 + 0.34 * locks + 0.30 * u * u - 0.28 * v.lx * u, 0, 0.95), "hair_shade")
    ring = np.maximum(0, 1 - np.abs(w + 0.70 + 0.12 * u * u) / 0.16) * np.maximum(0, 1 - (u - 0.35 * v.lx) ** 2)
    v.paint(cover * np.clip(ring * (0.42 + 0.30 * locks), 0, 1), "hair_shine")
