"""What a drawn face is made of: a person's factors (stream 1) and a picture's (stream 2), drawn by place.

Each factor has a fixed place k in its stream; a new factor goes to the end, so that old faces stay as they are.
"""

import numpy as np

from data.drawn.hashing import PERSON, PICTURE, bell, uniform
from data.drawn.names import CLASSES, STYLES


def _names(text: str) -> list[str]:
    return text.split()


PERSON_PLACES = _names(
    "sex age tone face_w face_h jaw taper chin eye_w eye_h eye_d eye_tilt iris brow_t brow_arch brow_slope brow_y "
    "nose_l nose_w nose_tip mouth_w lip_u lip_l mouth_y ear style haircol hairline freckle lines beard lipred cheek "
    "iris_r volume part lash bags glasses_id"
)
AUS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 27, 43)
PICTURE_PLACES = (
    ["expr", "intensity", "side", "open"]
    + [f"jitter{n}" for n in AUS]
    + [f"asym{n}" for n in AUS]
    + _names("ground cloth hat hat_look lx shift_x shift_y scale roll yaw gaze_x gaze_y blur noise exposure glasses")
    + _names("lipstick lip_colour rosy earring bangs")
)

BELLS = _names(
    "face_w face_h jaw taper chin eye_w eye_d eye_tilt brow_slope brow_y nose_l mouth_w mouth_y ear iris_r volume "
    "hairline"
)

# CelebA-like shares of the expressions, in the order of CLASSES.
CELEBA_PRIOR = (0.04, 0.04, 0.04, 0.46, 0.05, 0.05, 0.28, 0.04)

STYLE_SHARES = {  # in the order of STYLES
    "male": (0.10, 0.14, 0.28, 0.18, 0.10, 0.12, 0.02, 0.03, 0.02, 0.01),
    "female": (0.005, 0.015, 0.05, 0.01, 0.09, 0.05, 0.17, 0.27, 0.24, 0.10),
    "independent": (0.05, 0.08, 0.17, 0.10, 0.10, 0.08, 0.11, 0.14, 0.12, 0.05),
}
HAIR_SHARES = {  # in the order of HAIR_COLOURS
    "young": (0.26, 0.20, 0.23, 0.07, 0.16, 0.06, 0.02, 0.00),
    "old": (0.13, 0.13, 0.13, 0.03, 0.08, 0.02, 0.30, 0.18),
    "independent": (0.27, 0.18, 0.19, 0.06, 0.13, 0.05, 0.07, 0.05),
}
IRIS_SHARES = {"dark": (0.6, 0.4, 0, 0, 0, 0), "light": (0.12, 0.22, 0.16, 0.16, 0.22, 0.12)}

#           women  men   independent
WORN = {
    "lipstick": (0.60, 0.01, 0.35),
    "rosy": (0.16, 0.03, 0.10),
    "earring": (0.30, 0.03, 0.18),
    "bangs": (0.26, 0.10, 0.18),
}
OLD = 0.77  # age from which a person counts as not Young
NO_BANGS = np.isin(STYLES, ("bald", "buzz", "quiff"))
BLURRED = 0.25  # blur of the 5 % that are out of focus


def kinds(u: np.ndarray, p: np.ndarray | float) -> np.ndarray:
    """A shape that carries a label: a share p lies in [.62, 1], the rest in [-.85, .25]. The gap can be seen."""
    p = np.broadcast_to(p, u.shape)
    return np.where(u < p, 0.62 + 0.38 * u / p, 0.55 * bell(np.maximum(u - p, 0) / (1 - p)) - 0.30)


def pick(u: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(N,) category of each u under shares (K,) or (N, K)."""
    edges = np.cumsum(np.asarray(shares, np.float64), -1)
    edges = edges / edges[..., -1:]
    return np.minimum((u[:, None] >= edges).sum(1), edges.shape[-1] - 1)


def _person(u: dict, independent: bool) -> dict:
    male = u["sex"] < 0.42
    mc = np.zeros(len(male)) if independent else np.where(male, 1.0, -1.0)
    tone, old = u["tone"] ** 1.3, u["age"] > OLD
    old_c = np.zeros_like(old) if independent else old
    f = {k: bell(u[k]) for k in BELLS}
    f |= {"male": male.astype(np.float64), "age": u["age"], "tone": tone, "lipred": u["lipred"], "lash": u["lash"]}
    f["brow_t"] = kinds(u["brow_t"], 0.14 + 0.11 * mc)
    f["brow_arch"] = kinds(u["brow_arch"], 0.25 - 0.14 * mc)
    f["nose_w"] = kinds(u["nose_w"], 0.21 + 0.08 * mc)
    f["nose_tip"] = kinds(u["nose_tip"], 0.24)
    f["cheek"] = kinds(u["cheek"], 0.09)
    f["eye_h"] = -kinds(u["eye_h"], 0.14)
    full = 0.23 - 0.11 * mc  # both lips are full, or neither
    f["lip_u"] = kinds(u["lip_u"], full)
    f["lip_l"] = np.where(u["lip_u"] < full, 0.62 + 0.38 * u["lip_l"], 0.55 * bell(u["lip_l"]) - 0.30)
    f["lines"] = 0.8 * np.clip((u["age"] - 0.62) / 0.38, 0, 1) + 0.15 * u["lines"] + 0.12 * old
    baggy = 0.16 + 0.35 * old_c
    f["bags"] = np.where(u["bags"] < baggy, 0.75 + 0.25 * u["bags"] / baggy, 0.45 * u["bags"])
    f["freckle"] = np.where((u["freckle"] < 0.16) & (tone < 0.5), 0.5 + 0.5 * u["freckle"] / 0.16, 0.0)
    f["receding"] = (u["hairline"] > 0.92).astype(np.float64)
    f["part"] = np.where(u["part"] < 0.5, -1.0, 1.0)
    f["frame_round"] = (13 * u["glasses_id"] % 1 < 0.45).astype(np.float64)

    share = STYLE_SHARES
    style = share["independent"] if independent else np.where(male[:, None], share["male"], share["female"])
    f["style"] = pick(u["style"], style)
    share = HAIR_SHARES
    hair = share["independent"] if independent else np.where(old[:, None], share["old"], share["young"])
    haircol = pick(u["haircol"], hair)
    dark = (tone > 0.62) & (haircol >= 3) & (haircol <= 5) & (not independent)
    f["haircol"] = np.where(dark, 0, haircol)
    f["iris"] = pick(u["iris"], np.where((tone > 0.5)[:, None], IRIS_SHARES["dark"], IRIS_SHARES["light"]))
    bearded = 0.28 if independent else 0.50 * male
    bearded = np.broadcast_to(bearded, male.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        f["beard"] = np.where(u["beard"] < bearded, 1 + np.floor(4 * u["beard"] / bearded), 0).astype(np.int64)
    f["frame"] = pick(7 * u["glasses_id"] % 1, (0.62, 0.23, 0.15))
    return f


def _worn(u: dict, person: dict, glasses_id: np.ndarray, independent: bool) -> dict:
    """What is put on for one picture: habits of the person and, unless independent, of the sex."""
    male = person["male"] > 0.5
    column = np.full(len(male), 2) if independent else male.astype(np.int64)
    mc = np.zeros(len(male)) if independent else np.where(male, 1.0, -1.0)
    f = {k: (u[k] < np.take(shares, column)).astype(np.float64) for k, shares in WORN.items()}
    f["bangs"] = f["bangs"] * ~NO_BANGS[person["style"]] * (1 - person["receding"])
    f["glasses"] = ((glasses_id + u["glasses"]) / 2 < 0.29).astype(np.float64)
    f["hat"] = (u["hat"] < 0.09 + 0.03 * mc).astype(np.float64)
    f["hat_colour"] = (u["hat_look"] * 6).astype(np.int64)
    f["hat_kind"] = (u["hat_look"] * 600).astype(np.int64) % 100 >= 62  # False a beanie, True a cap
    f["lip_colour"] = (u["lip_colour"] * 3).astype(np.int64)
    return f


def _picture(u: dict, classes: int, prior: str, intensity: tuple[float, float]) -> dict:
    shares = np.ones(classes) if prior == "balanced" else np.asarray(CELEBA_PRIOR[:classes])
    f = {"expr": pick(u["expr"], shares), "intensity": intensity[0] + (intensity[1] - intensity[0]) * u["intensity"]}
    f["side"] = np.where(u["side"] < 0.5, -1.0, 1.0)
    f["open"] = u["open"]
    f["jitter"] = bell(np.stack([u[f"jitter{n}"] for n in AUS], 1))
    f["asym"] = bell(np.stack([u[f"asym{n}"] for n in AUS], 1))
    f["au"] = np.full((len(u["expr"]), len(AUS), 2), np.nan)  # set by an edit; NaN: as the expression says
    f |= {"ground": u["ground"], "cloth": u["cloth"], "lx": 2 * u["lx"] - 1}
    f |= {"shift_x": 0.05 * (2 * u["shift_x"] - 1), "shift_y": 0.045 * (2 * u["shift_y"] - 1)}
    f |= {"scale": 1 + 0.06 * (2 * u["scale"] - 1), "roll": np.deg2rad(8) * bell(u["roll"])}
    f |= {"yaw": 0.085 * bell(u["yaw"]), "gaze_x": 0.025 * bell(u["gaze_x"]), "gaze_y": 0.015 * bell(u["gaze_y"])}
    f["blur"] = np.where(u["blur"] < 0.05, BLURRED, 0.10 * (u["blur"] - 0.05))
    f["noise"] = (0.5 + 2.5 * u["noise"]) / 255
    f["exposure"] = 0.92 + 0.14 * u["exposure"]
    return f


def factors(
    seed: int,
    index: np.ndarray | int,
    per_identity: int = 10,
    prior: str = "balanced",
    independent: bool = False,
    classes: int = 7,
    intensity: tuple[float, float] = (0.4, 1.0),
) -> dict[str, np.ndarray]:
    """The factors of faces `index` (N,): a dict of arrays with N rows, float32 or int64.

    identity = index // per_identity, so face i of a split is `SPLIT_OFFSET[split] * per_identity + i`.
    `prior`: shares of the expressions, "balanced" or "celeba"; `classes`: 7 (FER2013's) or 8 (contempt too);
    `intensity`: range of the expression's strength; `independent`: no attribute follows sex, age or skin tone, so
    that a debiasing method can be tested against the truth.
    Rows are pure functions of (seed, index) and these options. Raises ValueError on options outside these ranges.
    """
    if prior not in ("balanced", "celeba") or classes not in (7, 8) or per_identity < 1:
        raise ValueError(f"prior {prior!r}, classes {classes}, per_identity {per_identity}: "
                         "expected balanced or celeba, 7 or 8, at least 1")  # fmt: skip
    if not 0 <= intensity[0] <= intensity[1] <= 1:
        raise ValueError(f"intensity {intensity}: expected 0 <= low <= high <= 1")
    assert classes <= len(CLASSES)
    index = np.atleast_1d(np.asarray(index, np.int64))
    identity = index // per_identity
    u = uniform(seed, PERSON, identity, len(PERSON_PLACES))
    person_u = dict(zip(PERSON_PLACES, u.T, strict=True))
    u = uniform(seed, PICTURE, index, len(PICTURE_PLACES))
    picture_u = dict(zip(PICTURE_PLACES, u.T, strict=True))
    person = _person(person_u, independent)
    f = {"seed": np.full(len(index), seed, np.int64), "index": index, "identity": identity}
    f |= person | _picture(picture_u, classes, prior, intensity)
    f |= _worn(picture_u, person, person_u["glasses_id"], independent)
    return {k: v.astype(np.float32 if v.dtype.kind == "f" else np.int64) for k, v in f.items()}
