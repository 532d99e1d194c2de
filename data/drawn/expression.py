"""Expressions as action units (Ekman and Friesen's FACS), each per side of the face.

strength = clip(i^.75 p (1 + .18 jitter) (1 +- .10 asym), 0, 1.1) with the class's prototype p and intensity i.
"""

import numpy as np

from data.drawn.factors import AUS
from data.drawn.names import CLASSES

PLACE = {n: k for k, n in enumerate(AUS)}

PROTOTYPES: dict[str, dict[int, float]] = {
    "angry": {4: 1, 5: 0.3, 7: 0.8, 17: 0.4, 23: 1},
    "disgust": {9: 1, 10: 1, 4: 0.45, 7: 0.6, 6: 0.3, 15: 0.25, 17: 0.25, 20: 0.25, 25: 0.55},
    "fear": {1: 1, 2: 0.45, 4: 0.55, 5: 1, 20: 1, 25: 0.75, 26: 0.3},
    "happy": {6: 0.85, 12: 1, 25: 0.85, 26: 0.22},
    "sad": {1: 1, 4: 0.5, 15: 1, 17: 0.6, 43: 0.34},
    "surprise": {1: 1, 2: 1, 5: 0.75, 25: 0.5, 26: 0.8, 27: 0.75},
    "neutral": {},
    "contempt": {12: 0.75, 14: 1, 2: 0.75, 43: 0.22, 7: 0.2},
}
ONE_SIDED = {"contempt": (2, 12, 14)}
OTHER_SIDE = 0.06  # of a one-sided unit, on the side that rests
STIR = (1, 2, 4, 7, 12, 15)  # units that stir a little even where the prototype has none
PARTED = 0.22  # share of neutral and sad faces whose lips are parted

_TABLE = np.array([[PROTOTYPES[c].get(n, 0.0) for n in AUS] for c in CLASSES])
_SIDED = np.array([[n in ONE_SIDED.get(c, ()) for n in AUS] for c in CLASSES])
_STIR = np.array([n in STIR for n in AUS])
_MAY_PART = np.array([c in ("neutral", "sad") for c in CLASSES])


def action_units(f: dict[str, np.ndarray]) -> np.ndarray:
    """(N, 18, 2) float32 strengths in [0, 1.1] in the order of AUS; last axis image-left, image-right."""
    expr, jitter, asym = f["expr"], f["jitter"].astype(np.float64), f["asym"].astype(np.float64)
    p = np.repeat(_TABLE[expr][:, :, None], 2, 2)
    rests = f["side"][:, None] != np.array([-1, 1])  # (N, 2)
    p = np.where(_SIDED[expr][:, :, None] & rests[:, None], OTHER_SIDE, p)
    strength = f["intensity"].astype(np.float64)[:, None, None] ** 0.75
    au = strength * p * (1 + 0.18 * jitter[..., None]) * (1 + 0.10 * asym[..., None] * np.array([-1, 1]))
    au += ((p == 0) & _STIR[:, None]) * 0.05 * np.maximum(0, jitter)[..., None]
    parted = (f["open"] < PARTED) & _MAY_PART[expr]
    au[:, PLACE[25]] += (parted * (0.35 + f["open"]))[:, None]
    au = np.clip(au, 0, 1.1)
    return np.where(np.isnan(f["au"]), au, f["au"]).astype(np.float32)
