"""Landmarks from the curves that the painter uses: 68 in iBUG's order, and CelebA's 5."""

from types import SimpleNamespace

import numpy as np

from data.drawn.nose import PARALLAX
from data.drawn.shape import SKULL_C, brow, control_points, lids, lips

BROW_T = (0.97, 0.74, 0.50, 0.26, 0.03)
EYE_T = (1.0, 0.36, -0.36, -1.0, -0.36, 0.36)  # the first half lies on the upper lid, corners on both
OUTER_UPPER, OUTER_LOWER = (-0.62, -0.25, 0.0, 0.25, 0.62), (0.6, 0.3, 0.0, -0.3, -0.6)
INNER = (-0.35, 0.0, 0.35)

# Index of a point's mirror image: landmarks of a flipped picture are x -> -x and this permutation.
MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
     41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)  # fmt: skip
MIRROR5 = np.array([1, 0, 2, 4, 3])


def _side(p: dict, side: int) -> SimpleNamespace:
    """Control points of one side as (N, 1)."""
    at = (side + 1) // 2
    return SimpleNamespace(**{k: (v[:, at] if v.ndim == 2 else v)[:, None] for k, v in p.items()})


def _jaw(p: SimpleNamespace) -> np.ndarray:
    angle = np.deg2rad(np.linspace(184, -4, 17))[None]
    cos, sin = np.cos(angle), np.sin(angle)
    below = sin > 0
    c = np.where(below, p.c, SKULL_C)
    s = cos**2 * sin**2
    r2 = np.where(c * s > 1e-9, (1 - np.sqrt(1 - 4 * c * s)) / np.maximum(2 * c * s, 1e-12), 1)
    u, v = np.sqrt(r2) * cos, np.sqrt(r2) * sin
    x = p.a * (1 - p.tp * np.where(below, v, 0) ** 2) * u
    return np.stack([x, np.where(below, p.bl, p.bu) * v], -1)


def _nose(p: SimpleNamespace) -> np.ndarray:
    ridge = -0.06 + (p.ny + 0.04) * np.linspace(0, 1, 4)
    x = np.concatenate([np.zeros_like(ridge), p.nw * np.array([-0.80, -0.42, 0, 0.42, 0.80])], 1)
    y = np.concatenate([ridge, p.ny + np.array([0.020, 0.034, 0.042, 0.034, 0.020])], 1)
    return np.stack([x, y], -1)


def _paired(left: SimpleNamespace, right: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
    """Brows (N, 10, 2) and eyes (N, 12, 2)."""
    brows, eyes = [], []
    for p, side in ((left, -1), (right, 1)):
        t = np.array(BROW_T if side < 0 else BROW_T[::-1])[None]
        brows.append(np.stack([side * (p.bxi + (p.bxo - p.bxi) * t), brow(t, p)[0]], -1))
        t = np.array(EYE_T)[None]
        upper, lower = lids(t, p)
        y = np.where(np.arange(6) < 4, upper, lower)
        eye = np.stack([side * (p.ex + p.ew * t), y], -1)
        eyes.append(eye if side < 0 else eye[:, [3, 2, 1, 0, 5, 4]])
    return np.concatenate(brows, 1), np.concatenate(eyes, 1)


def _mouth(left: SimpleNamespace, right: SimpleNamespace) -> np.ndarray:
    def at(t: float, line: str) -> np.ndarray:
        p = left if t < 0 else right
        t_ = np.full_like(p.mw, abs(t))
        return np.stack([np.sign(t) * p.mw * t_, getattr(lips(t_, p), line)], -1)

    outer = [(-1, "mid"), *((t, "ou") for t in OUTER_UPPER), (1, "mid"), *((t, "ol") for t in OUTER_LOWER)]
    inner = [(-0.9, "mid"), *((t, "iu") for t in INNER), (0.9, "mid"), *((t, "il") for t in INNER[::-1])]
    return np.concatenate([at(t, line) for t, line in outer + inner], 1)


def landmarks(f: dict[str, np.ndarray]) -> np.ndarray:
    """The 68 points of faces f: (N, 68, 2) float32, x right and y down in [-1, 1] from edge to edge.

    Exact: they lie on the curves that are drawn, hidden or not, and may leave the picture.
    """
    p = {k: v.astype(np.float64) for k, v in control_points(f).items()}
    left, right = _side(p, -1), _side(p, 1)
    brows, eyes = _paired(left, right)
    nose = _nose(left)
    v = {k: f[k].astype(np.float64)[:, None] for k in ("roll", "scale", "shift_x", "shift_y", "yaw")}
    nose[..., 0] += PARALLAX * v["yaw"] * np.clip((nose[..., 1] + 0.16) / (left.ny + 0.16), 0, 1)
    moved = np.concatenate([brows, nose, eyes, _mouth(left, right)], 1)
    s, x = v["yaw"], moved[..., 0]
    moved[..., 0] = 2 * (s + x) / (1 + np.sqrt(1 + 4 * s / left.a**2 * (s + x)))
    points = np.concatenate([_jaw(left), moved], 1)
    cos, sin = np.cos(v["roll"]) * v["scale"], np.sin(v["roll"]) * v["scale"]
    x, y = points[..., 0], points[..., 1]
    return np.stack([x * cos - y * sin + v["shift_x"], x * sin + y * cos + v["shift_y"]], -1).astype(np.float32)


def landmarks5(points: np.ndarray) -> np.ndarray:
    """CelebA's five of iBUG's 68: eye centres, nose tip, mouth corners, image-left first. (N, 68, 2) -> (N, 5, 2)."""
    eyes = [points[:, 36:42].mean(1), points[:, 42:48].mean(1)]
    return np.stack([*eyes, points[:, 30], points[:, 48], points[:, 54]], 1)
