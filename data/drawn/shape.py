"""Control points and curves of a face: the one source of both the painted features and the landmarks.

Face units: the picture spans [-1, 1] in x (right) and y (down) at scale 1. Paired features use outward x: the
distance from the middle towards their own side. A point is (N,) if the face has one of it, (N, 2) if one per side
(image-left, image-right).
"""

from types import SimpleNamespace

import numpy as np

from data.drawn.expression import PLACE, action_units

EYE_Y, IRIS_Y = -0.06, -0.072
SKULL_C = 0.22  # squareness of the head above y = 0


class Rows(dict):
    """Factors by attribute, as float64 of shape (N,) or, for paired features, (N, 1)."""

    def __init__(self, f: dict[str, np.ndarray], sided: bool) -> None:
        super().__init__({k: v.astype(np.float64) for k, v in f.items() if v.ndim == 1})
        self.sided = sided

    def __getattr__(self, name: str) -> np.ndarray:
        return self[name][:, None] if self.sided else self[name]


def control_points(f: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All control points of faces f as float32 (N,) or (N, 2), and the units' strengths as A1 .. A43 (N, 2)."""
    au = action_units(f).astype(np.float64)
    p = _outline(Rows(f, False), lambda n: au[:, PLACE[n]].mean(1))
    p |= _middle(Rows(f, False), lambda n: au[:, PLACE[n]].mean(1))
    p |= _eyes_and_brows(Rows(f, True), lambda n: au[:, PLACE[n]])
    p |= _mouth_corners(Rows(f, True), lambda n: au[:, PLACE[n]])
    p |= {f"A{n}": au[:, k] for n, k in PLACE.items()}
    full = len(au)
    return {k: np.broadcast_to(v, (full,) + np.shape(v)[1:]).astype(np.float32) for k, v in p.items()}


def _outline(f: Rows, A) -> dict:
    m, cheek = 2 * f.male - 1, np.maximum(f.cheek, 0)
    return {
        "m": m,
        "a": 0.565 + 0.032 * f.face_w + 0.014 * m + 0.06 * cheek,
        "bu": 0.74 + 0.02 * f.face_h,
        "bl": 0.80 + 0.045 * f.face_h + 0.035 * f.chin + 0.022 * m + 0.060 * A(26) + 0.085 * A(27) - 0.012 * A(17),
        "c": np.clip(0.24 + 0.20 * m + 0.13 * f.jaw, 0, 0.62),
        "tp": np.clip(0.17 - 0.085 * m + 0.07 * f.taper - 0.10 * cheek, 0.03, 0.34),
    }


def _middle(f: Rows, A) -> dict:
    m, line = 2 * f.male - 1, f.lines
    gap = 0.066 * A(25) + 0.100 * A(26) + 0.155 * A(27)
    thin = (1 - 0.60 * A(23) - 0.22 * A(12) - 0.15 * A(20)) * (1 - 0.22 * line**2)
    return {
        "ny": 0.225 + 0.012 * f.nose_w + 0.035 * f.nose_l + 0.042 * f.nose_tip - 0.030 * A(9),
        "nt": 0.050 - 0.026 * f.nose_tip + 0.014 * np.maximum(f.nose_w, 0),
        "nw": 0.102 + 0.052 * f.nose_w - 0.014 * np.maximum(f.nose_tip, 0) + 0.008 * m + 0.012 * A(9) + 0.010 * A(12),
        "my": 0.462 + 0.022 * f.mouth_y + 0.018 * f.nose_l - 0.022 * A(17) - 0.012 * A(9) - 0.02 * A(10)
        + 0.03 * A(27) + 0.020 * A(12) - 0.018 * A(15),
        "gap": np.where(gap <= 0.02, 0, gap),
        "up": 0.036 * A(10) + 0.014 * A(9),
        "sq": np.clip(0.6 * A(27) + 0.5 * A(20) + 0.25 * A(26), 0, 1),
        "lu": (0.046 + 0.022 * f.lip_u - 0.007 * m) * thin + 0.006 * A(10),
        "ll": (0.064 + 0.028 * f.lip_l - 0.007 * m) * thin + 0.012 * A(17),
    }  # fmt: skip


def _eyes_and_brows(f: Rows, A) -> dict:
    m = 2 * f.male - 1
    n = np.exp(0.45 * f.eye_h) * (1 - 0.07 * m) * (1 - 0.14 * f.lines**2)
    upper = 1 + 0.62 * A(5) - 0.30 * A(7) - 0.22 * A(6) - 0.30 * A(9) - 0.62 * A(43) - 0.12 * A(4)
    lower = 1 + 0.10 * A(5) - 0.42 * A(7) - 0.62 * A(6) - 0.45 * A(9) - 0.10 * A(43)
    ex, by = 0.262 + 0.022 * f.eye_d, -0.235 + 0.016 * f.brow_y + 0.016 * m
    bym = by - 0.042 - 0.052 * f.brow_arch - 0.030 * A(1) + 0.056 * A(4) * (1 - 0.5 * A(1))
    byo = by + 0.018 - 0.010 * f.brow_slope + 0.018 * A(1) - 0.012 * A(4) * (1 - A(1))
    return {
        "ex": ex[:, 0],
        "ew": (0.138 + 0.014 * f.eye_w - 0.006 * m)[:, 0],
        "tilt": (0.014 + 0.016 * f.eye_tilt)[:, 0],
        "ri": (0.064 + 0.005 * f.iris_r)[:, 0],
        "hu": 0.073 * n * np.clip(upper, 0.12, 2),
        "hl": 0.045 * n * np.clip(lower, 0.08, 2),
        "bt": np.maximum(0.028 + 0.016 * f.brow_t + 0.0045 * m, 0.014)[:, 0],
        "bxi": 0.105 + 0.008 * f.eye_d - 0.040 * A(4) - 0.012 * A(9),
        "bxo": (ex + 0.175 + 0.012 * f.eye_w)[:, 0],
        "byi": by + 0.010 * f.brow_slope - 0.115 * A(1) + 0.100 * A(4) * (1 - 0.75 * A(1)) + 0.055 * A(9)
        - 0.020 * A(2),
        "bym": bym - 0.090 * A(2) + 0.035 * A(9) - 0.015 * A(5),
        "byo": byo - 0.085 * A(2) + 0.008 * A(9) + 0.02 * A(43),
    }  # fmt: skip


def _mouth_corners(f: Rows, A) -> dict:
    width = 0.192 + 0.022 * f.mouth_w + 0.085 * A(12) + 0.085 * A(20) - 0.035 * A(23) - 0.045 * A(27)
    return {
        "mw": width - 0.010 * A(15) + 0.030 * A(14) - 0.012 * A(17),
        "cy": -0.125 * A(12) + 0.100 * A(15) + 0.028 * A(20) - 0.030 * A(14) + 0.010 * A(26) + 0.02 * A(10),
    }


def brow(t: np.ndarray, p: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
    """Middle line y and half thickness of a brow at t (0 inner end, 1 outer end)."""
    inner, middle, outer = (t - 0.55) * (t - 1) / 0.55, t * (1 - t) / (0.55 * 0.45), t * (t - 0.55) / 0.45
    half = p.bt * np.clip(1.08 - 0.85 * t * t, 0.12, 1.1) * np.clip(4.5 * (t + 0.16), 0.2, 1)
    return p.byi * inner + p.bym * middle + p.byo * outer, half


def lids(t: np.ndarray, p: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower lid y at t (-1 inner corner, 1 outer corner); they meet at and beyond the corners."""
    g = np.maximum(0, 1 - t * t)
    opening = 0.55 * g + 0.45 * np.sqrt(g)
    base = EYE_Y - p.tilt * t
    return base - p.hu * opening * (1 - 0.10 * t), base + p.hl * opening * (1 + 0.12 * t)


def lips(t: np.ndarray, p: SimpleNamespace) -> SimpleNamespace:
    """The mouth's lines y at t (-1, 1 its corners): mid; inner iu, il; outer ou, ol.

    g = 1 - t² is the lips' profile, G the opening's (squarer as `sq` grows).
    """
    g = np.maximum(0, 1 - t * t)
    root = np.sqrt(g)
    t2 = np.minimum(t * t, 1.6)
    mid = p.my + p.cy * t2 * (0.75 + 0.25 * t2) - 0.8 * p.up * g * root
    opening = g + p.sq * (root - g)
    bow = np.maximum(0, 1 - (t / 0.32) ** 2)
    iu, il = mid - 0.26 * p.gap * opening, mid + 0.74 * p.gap * opening
    ou = iu - p.lu * g * (1.12 - 0.30 * bow * bow) - 0.25 * p.up * g
    ol = il + p.ll * g * (1 + 0.15 * g)
    return SimpleNamespace(mid=mid, iu=iu, il=il, ou=ou, ol=ol, G=opening, g=g)
