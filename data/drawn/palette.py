"""A face's colours, in [0, 1], from its factors. Shadows are warm: red falls least, which makes skin look alive."""

import numpy as np


def luminance(c: np.ndarray) -> np.ndarray:
    """(N, 3) colours -> (N, 1); a plain sum: a matrix product's last bits may depend on N."""
    return 0.299 * c[:, :1] + 0.587 * c[:, 1:2] + 0.114 * c[:, 2:]


def _rgb(text: str) -> np.ndarray:
    return np.array(text.split(), np.float64).reshape(-1, 3) / 255


SKIN = _rgb("252 228 212  243 207 180  229 182 148  204 152 114  165 113 80  130 87 63  98 65 48")
HAIR = _rgb("34 28 28  66 44 32  112 72 44  158 84 42  218 178 106  238 216 168  160 158 158  222 220 216")
IRIS = _rgb("70 42 26  104 66 36  132 104 52  92 130 84  78 130 178  120 142 156")
GROUND = _rgb(
    "150 180 196  196 176 158  168 188 160  186 166 190  206 196 172  120 136 156  172 150 142  214 214 210  "
    "96 110 118  222 186 160"
)
CLOTH = _rgb("44 62 92  128 44 44  60 96 72  196 152 60  88 64 112  206 200 190  52 54 60  64 120 128")
HAT = _rgb("150 44 52  46 92 74  44 70 112  196 160 92  70 70 78  112 78 120")
LIPSTICK = np.array([[0.74, 0.10, 0.20], [0.82, 0.22, 0.34], [0.60, 0.08, 0.24]])
FRAME = np.array([[0.09, 0.08, 0.09], [0.36, 0.20, 0.12], [0.80, 0.64, 0.34]])
INK = np.array([0.10, 0.06, 0.05])
FIXED = {
    "ink": INK,
    "mouth": np.array([0.26, 0.07, 0.08]),
    "tongue": np.array([0.76, 0.34, 0.36]),
    "teeth": np.array([0.97, 0.95, 0.91]),
    "eyewhite": np.array([0.95, 0.94, 0.93]),
    "eyeshade": np.array([0.58, 0.53, 0.55]),
    "white": np.array([1.0, 1.0, 1.0]),
    "gold": np.array([0.92, 0.74, 0.34]),
}


def _toward(a: np.ndarray, b: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    return a + (b - a) * share


def _of_skin(f: dict[str, np.ndarray], skin: np.ndarray, tone: np.ndarray, female: np.ndarray) -> dict:
    lip = skin * [0.80, 0.48, 0.47]
    lip = _toward(lip, np.array([0.78, 0.26, 0.30]), 0.28 * f["lipred"][:, None] * female)
    lip = _toward(lip, LIPSTICK[f["lip_colour"]], 0.78 * f["lipstick"][:, None])
    return {
        "skin": skin,
        "shadow": skin * [0.66, 0.54, 0.50] * (1 - 0.12 * tone),
        "line": skin * [0.52, 0.38, 0.34],
        "blush": np.minimum(skin * [1.02, 0.70, 0.66], 1),
        "hi": skin + (1 - skin) * (0.42 - 0.22 * tone),
        "wing": skin * 0.93,
        "nostril": skin * [0.52, 0.38, 0.34] * 0.62,
        "lip": lip,
        "lip_upper": lip * 0.85,
        "lip_line": lip * 0.45,
        "gloss": lip + (1 - lip) * 0.45,
        "make_up": skin * [0.62, 0.44, 0.56],
    }


def _of_hair(hair: np.ndarray) -> dict:
    shade = hair * (0.46 + 0.28 * luminance(hair))
    return {
        "hair": hair,
        "hair_shade": shade,
        "hair_back": 0.9 * shade,
        "hair_shine": hair + (1 - hair) * (0.20 + 0.15 * hair),
        "brow": 0.62 * hair + 0.38 * INK,
        "beard": 0.72 * hair,
        "beard_shade": 0.72 * shade,
    }


def colours(f: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """name -> (N, 3) float64 in [0, 1]."""
    n = len(f["tone"])
    tone, female = f["tone"].astype(np.float64)[:, None], (1 - f["male"].astype(np.float64))[:, None]
    place = np.clip(tone[:, 0], 0, 1) * (len(SKIN) - 1)
    low = np.minimum(place.astype(np.int64), len(SKIN) - 2)
    skin = _toward(SKIN[low], SKIN[low + 1], (place - low)[:, None])
    ground_u = f["ground"].astype(np.float64) * len(GROUND)
    ground = GROUND[ground_u.astype(np.int64)]
    cloth = CLOTH[(f["cloth"].astype(np.float64) * len(CLOTH)).astype(np.int64)]
    iris, hat, frame = IRIS[f["iris"]], HAT[f["hat_colour"]], FRAME[f["frame"]]
    c = _of_skin(f, skin, tone, female) | _of_hair(HAIR[f["haircol"]])
    c |= {
        "ground": ground,
        "ground_dark": ground * (0.62 + 0.3 * (ground_u % 1)[:, None]),
        "ground_light": np.minimum(1.25 * ground + 0.1, 1.1),
        "cloth": cloth,
        "cloth_shade": cloth * 0.55,
        "iris_rim": iris * 0.55,
        "iris": iris,
        "iris_light": np.minimum(iris * 1.22 + 0.06, 1),
        "frame": frame,
        "hat": hat,
        "hat_shade": hat * 0.58,
        "hat_shine": hat + (1 - hat) * 0.30,
    }
    c |= {k: np.broadcast_to(v, (n, 3)) for k, v in FIXED.items()}
    return c
