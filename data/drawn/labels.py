"""Attributes that follow from the factors: what is asked of each is one line of a table.

Labels stand on factors, not on drawn widths, which expressions move.
"""

from collections.abc import Callable

import numpy as np

from data.drawn.expression import PLACE, action_units
from data.drawn.factors import NO_BANGS, OLD
from data.drawn.names import ATTRIBUTES, BEARDS, HAIR_COLOURS, STYLES
from data.drawn.shape import control_points

Factors = dict[str, np.ndarray]
SMILE = 0.2  # AU12 of both sides
OPEN = 0.03  # gap between the lips, face units


def _style(*names: str) -> Callable[[Factors], np.ndarray]:
    return lambda f: np.isin(f["style"], [STYLES.index(n) for n in names])


def _haired(*names: str) -> Callable[[Factors], np.ndarray]:
    """A hair colour, where there is hair."""
    places = [HAIR_COLOURS.index(n) for n in names]
    return lambda f: np.isin(f["haircol"], places) & (f["style"] != STYLES.index("bald"))


def _beard(*names: str) -> Callable[[Factors], np.ndarray]:
    return lambda f: np.isin(f["beard"], [BEARDS.index(n) for n in names])


def _above(name: str, bound: float) -> Callable[[Factors], np.ndarray]:
    return lambda f: f[name] > bound


RULES: dict[str, Callable[[Factors], np.ndarray]] = {
    "5_o_Clock_Shadow": _beard("stubble"),
    "Arched_Eyebrows": _above("brow_arch", 0.5),
    "Bags_Under_Eyes": _above("bags", 0.6),
    "Bald": _style("bald"),
    "Bangs": lambda f: (f["bangs"] > 0.5) & ~NO_BANGS[f["style"]],
    "Big_Lips": lambda f: f["lip_u"] + f["lip_l"] > 0.8,
    "Big_Nose": _above("nose_w", 0.5),
    "Black_Hair": _haired("black"),
    "Blond_Hair": _haired("blond", "platinum"),
    "Blurry": _above("blur", 0.2),
    "Brown_Hair": _haired("dark brown", "brown"),
    "Bushy_Eyebrows": _above("brow_t", 0.5),
    "Chubby": _above("cheek", 0.5),
    "Eyeglasses": _above("glasses", 0.5),
    "Goatee": _beard("goatee"),
    "Gray_Hair": _haired("gray", "white"),
    "Male": _above("male", 0.5),
    "Mouth_Slightly_Open": lambda f: control_points(f)["gap"] >= OPEN,
    "Mustache": _beard("moustache", "full"),
    "Narrow_Eyes": lambda f: f["eye_h"] < -0.5,
    "No_Beard": _beard("none"),
    "Pale_Skin": lambda f: f["tone"] < 0.035,
    "Pointy_Nose": _above("nose_tip", 0.5),
    "Receding_Hairline": _above("receding", 0.5),
    "Rosy_Cheeks": _above("rosy", 0.5),
    "Sideburns": _beard("full"),
    "Smiling": lambda f: action_units(f)[:, PLACE[12]].min(1) >= SMILE,
    "Straight_Hair": _style("long", "bob", "mop"),
    "Wavy_Hair": _style("wavy", "curly"),
    "Wearing_Earrings": _above("earring", 0.5),
    "Wearing_Hat": _above("hat", 0.5),
    "Wearing_Lipstick": _above("lipstick", 0.5),
    "Young": lambda f: f["age"] <= np.float32(OLD),
}
assert tuple(RULES) == ATTRIBUTES


def attributes(f: Factors) -> np.ndarray:
    """The 33 attributes of faces f, in the order of ATTRIBUTES: (N, 33) float32 of 0 and 1."""
    return np.stack([RULES[name](f) for name in ATTRIBUTES], 1).astype(np.float32)
