"""The oracle: the same face with one thing changed and everything else kept, noise included."""

import numpy as np

from data.drawn.expression import PLACE, action_units
from data.drawn.factors import NO_BANGS
from data.drawn.names import ATTRIBUTES, BEARDS, CLASSES, HAIR_COLOURS, STYLES
from engine.errors import UserError

Factors = dict[str, np.ndarray]

# A shape or shade: its factors at Name=0 and at Name=1; fractions lie between.
SCALES: dict[str, dict[str, tuple[float, float]]] = {
    "Arched_Eyebrows": {"brow_arch": (-0.30, 0.80)},
    "Bags_Under_Eyes": {"bags": (0.22, 0.88)},
    "Big_Lips": {"lip_u": (-0.30, 0.80), "lip_l": (-0.30, 0.80)},
    "Big_Nose": {"nose_w": (-0.30, 0.80)},
    "Blurry": {"blur": (0.05, 0.25)},
    "Bushy_Eyebrows": {"brow_t": (-0.30, 0.80)},
    "Chubby": {"cheek": (-0.30, 0.80)},
    "Eyeglasses": {"glasses": (0.0, 1.0)},
    "Male": {"male": (0.0, 1.0)},
    "Narrow_Eyes": {"eye_h": (0.30, -0.80)},
    "Pale_Skin": {"tone": (0.40, 0.01)},
    "Pointy_Nose": {"nose_tip": (-0.30, 0.80)},
    "Rosy_Cheeks": {"rosy": (0.0, 1.0)},
    "Wearing_Earrings": {"earring": (0.0, 1.0)},
    "Wearing_Lipstick": {"lipstick": (0.0, 1.0)},
    "Young": {"age": (0.90, 0.38), "lines": (0.80, 0.05)},
}
# A kind: what stands at Name=0 and at Name=1; from .5 on it is the latter.
SWITCHES: dict[str, tuple[str, tuple[int, int]]] = {
    "5_o_Clock_Shadow": ("beard", (BEARDS.index("none"), BEARDS.index("stubble"))),
    "Bald": ("style", (STYLES.index("part"), STYLES.index("bald"))),
    "Bangs": ("bangs", (0, 1)),
    "Black_Hair": ("haircol", (HAIR_COLOURS.index("brown"), HAIR_COLOURS.index("black"))),
    "Blond_Hair": ("haircol", (HAIR_COLOURS.index("dark brown"), HAIR_COLOURS.index("blond"))),
    "Brown_Hair": ("haircol", (HAIR_COLOURS.index("black"), HAIR_COLOURS.index("brown"))),
    "Goatee": ("beard", (BEARDS.index("none"), BEARDS.index("goatee"))),
    "Gray_Hair": ("haircol", (HAIR_COLOURS.index("dark brown"), HAIR_COLOURS.index("gray"))),
    "Mustache": ("beard", (BEARDS.index("none"), BEARDS.index("moustache"))),
    "No_Beard": ("beard", (BEARDS.index("full"), BEARDS.index("none"))),
    "Receding_Hairline": ("receding", (0, 1)),
    "Sideburns": ("beard", (BEARDS.index("none"), BEARDS.index("full"))),
    "Straight_Hair": ("style", (STYLES.index("wavy"), STYLES.index("long"))),
    "Wavy_Hair": ("style", (STYLES.index("long"), STYLES.index("wavy"))),
    "Wearing_Hat": ("hat", (0, 1)),
}
SMILE_OFF = (12, 6, 14)
SMILE_ON = {12: 0.75, 6: 0.6, 25: 0.6, 26: 0.15, 9: 0, 10: 0, 14: 0, 15: 0, 17: 0, 20: 0, 23: 0, 27: 0}
OPEN_ON = {25: 0.75, 26: 0.2, 27: 0.0}


def apply(f: Factors, what: str | np.ndarray, amount: float | np.ndarray | None = None) -> Factors:
    """The factors with one thing changed; f itself stays.

    `what` is an expression ("happy"; "happy=0.7" sets its intensity too; or an array (N,) of class indices, one a
    face), or an attribute as "Name=v" with v in [0, 1]. `amount`, a number or (N,), stands for the number after "=".
    An attribute without a number is set to 1. UserError on an unknown name, on a number outside [0, 1], and on the
    hair colour of a bald head.
    """
    n = len(f["index"])
    if isinstance(what, str):
        name, _, text = what.partition("=")
        if text and amount is None:
            try:
                amount = float(text)
            except ValueError:
                raise UserError(f"{what}: expected a number from 0 to 1 after '='") from None
    else:
        name = "expression"
        target = np.broadcast_to(np.asarray(what, np.int64), (n,))
    if amount is not None:
        amount = np.broadcast_to(np.asarray(amount, np.float32), (n,))
        if not ((amount >= 0) & (amount <= 1)).all():
            raise UserError(f"{name}: expected an amount from 0 to 1, got {amount.min():g} to {amount.max():g}")
    if name in CLASSES:
        return _express(f, np.full(n, CLASSES.index(name)), amount)
    if name == "expression":
        return _express(f, target, amount)
    if name in ATTRIBUTES:
        return _attribute(f, name, np.ones(n, np.float32) if amount is None else amount)
    raise UserError(f"{name}: neither an expression ({', '.join(CLASSES)}) nor an attribute of drawn faces")


def _express(f: Factors, target: np.ndarray, amount: np.ndarray | None) -> Factors:
    if ((target < 0) | (target >= len(CLASSES))).any():
        raise UserError(f"class index {target.min()} to {target.max()}: expected 0 to {len(CLASSES) - 1}")
    changed = {"expr": target.astype(np.int64), "au": np.full_like(f["au"], np.nan)}
    return f | changed | ({} if amount is None else {"intensity": amount.copy()})


def _attribute(f: Factors, name: str, v: np.ndarray) -> Factors:
    if name in SCALES:
        return f | {k: (lo + (hi - lo) * v).astype(np.float32) for k, (lo, hi) in SCALES[name].items()}
    if name == "Smiling":
        return f | {"au": _units(f, v, SMILE_ON, SMILE_OFF)}
    if name == "Mouth_Slightly_Open":
        return f | {"au": _units(f, v, OPEN_ON, tuple(OPEN_ON))}
    key, values = SWITCHES[name]
    bald = f["style"] == STYLES.index("bald")
    if key == "haircol" and bald.any():
        raise UserError(f"{name}: a bald head has no hair colour ({int(bald.sum())} of {len(bald)} faces are bald)")
    on = v >= 0.5
    changed = {key: np.where(on, values[1], values[0]).astype(f[key].dtype)}
    if name == "Bangs":  # hair to cut them from, and no bare forehead under them
        changed["style"] = np.where(on & NO_BANGS[f["style"]], STYLES.index("mop"), f["style"])
        changed["receding"] = np.where(on, 0, f["receding"]).astype(np.float32)
    if name == "Receding_Hairline":
        changed["bangs"] = np.where(on, 0, f["bangs"]).astype(np.float32)
    return f | changed


def _units(f: Factors, v: np.ndarray, on: dict[int, float], off: tuple[int, ...]) -> np.ndarray:
    """Action units between `off` at 0 (the others as they are) and the strengths `on`; only these are set."""
    now, au, v = action_units(f), f["au"].copy(), v[:, None]
    for n in sorted({*on, *off}):
        start = np.zeros_like(now[:, PLACE[n]]) if n in off else now[:, PLACE[n]]
        value = start + (on.get(n, 0.0) - start) * v
        moved = np.broadcast_to((v > 0) | (n in off), value.shape)
        au[:, PLACE[n]] = np.where(moved, value, au[:, PLACE[n]])
    return au
