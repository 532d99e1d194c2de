"""Drawn faces: reproducible bytes, correct labels, exact landmarks, edits that change one thing only."""

import hashlib
import subprocess
import sys
import time

import numpy as np
import pytest

from data.drawn import backdrop, draw, lens, scene, skin
from data.drawn.factors import AUS, PICTURE_PLACES
from data.drawn.hashing import uniform
from data.drawn.names import BEARDS, HAIR_COLOURS, STYLES
from data.synthetic import (
    ATTRIBUTES,
    CLASSES,
    EYES,
    MIRROR,
    MIRROR5,
    SPLIT_OFFSET,
    action_units,
    apply,
    attributes,
    factors,
    landmarks,
    landmarks5,
    render,
)
from engine.errors import UserError

# Shares of 20,000 faces under the balanced prior of eight classes, as designed.
PREVALENCE = {
    "Smiling": 0.12, "Mouth_Slightly_Open": 0.45, "Eyeglasses": 0.16, "Male": 0.41, "Young": 0.78, "Bald": 0.04,
    "Bangs": 0.16, "Black_Hair": 0.30, "Brown_Hair": 0.38, "Blond_Hair": 0.13, "Gray_Hair": 0.11,
    "Straight_Hair": 0.36, "Wavy_Hair": 0.25, "Receding_Hairline": 0.08, "Bushy_Eyebrows": 0.12,
    "Arched_Eyebrows": 0.28, "5_o_Clock_Shadow": 0.05, "Goatee": 0.05, "Mustache": 0.10, "Sideburns": 0.05,
    "No_Beard": 0.79, "Big_Nose": 0.20, "Pointy_Nose": 0.24, "Narrow_Eyes": 0.14, "Big_Lips": 0.25,
    "Pale_Skin": 0.08, "Rosy_Cheeks": 0.105, "Chubby": 0.09, "Bags_Under_Eyes": 0.24, "Wearing_Lipstick": 0.36,
    "Wearing_Hat": 0.08, "Wearing_Earrings": 0.19, "Blurry": 0.05,
}  # fmt: skip
# Mean change of a 64 px picture between an attribute's two sides, grey levels.
CHANGE = {
    "5_o_Clock_Shadow": 2.8, "Arched_Eyebrows": 0.7, "Bags_Under_Eyes": 0.11, "Bald": 11, "Bangs": 3.1,
    "Big_Lips": 0.28, "Big_Nose": 0.34, "Black_Hair": 7.4, "Blond_Hair": 20, "Blurry": 3.4, "Brown_Hair": 7.4,
    "Bushy_Eyebrows": 0.4, "Chubby": 4.1, "Eyeglasses": 2.6, "Goatee": 1.6, "Gray_Hair": 19, "Male": 5.9,
    "Mouth_Slightly_Open": 0.9, "Mustache": 0.7, "Narrow_Eyes": 0.7, "No_Beard": 7.2, "Pale_Skin": 13,
    "Pointy_Nose": 0.3, "Receding_Hairline": 2.3, "Rosy_Cheeks": 0.3, "Sideburns": 7.2, "Smiling": 1.9,
    "Straight_Hair": 8.5, "Wavy_Hair": 8.5, "Wearing_Earrings": 0.11, "Wearing_Hat": 9.3, "Wearing_Lipstick": 0.23,
    "Young": 0.64,
}  # fmt: skip
# What an attribute's edit may set.
TOUCHES = {
    "Young": {"age", "lines"}, "Bangs": {"bangs", "style", "receding"}, "Receding_Hairline": {"receding", "bangs"},
    "Smiling": {"au"}, "Mouth_Slightly_Open": {"au"}, "Big_Lips": {"lip_u", "lip_l"}, "Male": {"male"},
    "Wearing_Hat": {"hat"}, "Eyeglasses": {"glasses"}, "Black_Hair": {"haircol"}, "Goatee": {"beard"},
    "Bald": {"style"}, "Blurry": {"blur"}, "Pale_Skin": {"tone"}, "Chubby": {"cheek"}, "Narrow_Eyes": {"eye_h"},
}  # fmt: skip


def take(f: dict, rows) -> dict:
    return {k: v[rows] for k, v in f.items()}


def plain(n: int, **options) -> dict:
    """n faces without anything that hides a feature, noise or blur."""
    f = factors(5, np.arange(0, 4 * n), per_identity=1, classes=8, **options)
    keep = (f["beard"] == 0) & (f["glasses"] == 0) & (f["hat"] == 0) & (f["bangs"] == 0)
    f = take(f, np.flatnonzero(keep)[:n])
    return f | {"blur": np.zeros_like(f["blur"]), "noise": np.zeros_like(f["noise"])}


# ---------------------------------------------------------------- randomness and factors


def test_uniform_equals_splitmix64():
    mask = 2**64 - 1

    def mix(h: int) -> int:
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & mask
        h = (h ^ h >> 27) * 0x94D049BB133111EB & mask
        return h ^ h >> 31

    seed, stream, item, k = 3, 2, 10**7 + 5, 4
    h = mix(item * 0x9E3779B97F4A7C15 + mix(seed * 0xD1B54A32D192ED03 + stream & mask) & mask)
    expected = (mix(h + k * 0x9E3779B97F4A7C15 & mask) >> 11) * 2.0**-53
    assert uniform(seed, stream, np.array([7, item]), 6)[1, k] == expected


def test_the_order_of_factors_is_fixed():
    """A new factor goes last: moving one would change every face."""
    assert PICTURE_PLACES[:5] == ["expr", "intensity", "side", "open", "jitter1"]
    assert (PICTURE_PLACES.index("lx"), PICTURE_PLACES.index("bangs")) == (44, 60)
    f = factors(0, np.arange(3), classes=8)
    assert f["style"][0] == factors(0, 0)["style"][0] and f["lx"][2] == factors(0, [2])["lx"][0]


def test_factors_are_a_pure_function_and_persons_are_constant():
    f = factors(1, np.arange(40), per_identity=10)
    again = factors(1, np.array([33, 7]), per_identity=10)
    for k, v in again.items():
        np.testing.assert_array_equal(v, f[k][[33, 7]], err_msg=k)
    for k in ("style", "tone", "brow_t", "haircol", "beard", "part"):
        assert (f[k].reshape(4, 10) == f[k].reshape(4, 10)[:, :1]).all(), k
    assert len(np.unique(f["lx"])) == 40
    assert not np.array_equal(factors(2, np.arange(40))["tone"], f["tone"])


def test_splits_share_no_person():
    parts = [factors(0, np.arange(5000) + SPLIT_OFFSET[s] * 10)["identity"] for s in ("train", "val", "test")]
    assert not set(parts[0]) & set(parts[1]) and not set(parts[1]) & set(parts[2])


def test_options():
    index = np.arange(6000)
    for classes in (7, 8):
        assert set(factors(0, index, classes=classes)["expr"]) == set(range(classes))
    happy = (factors(0, index, prior="celeba", classes=8)["expr"] == CLASSES.index("happy")).mean()
    assert abs(happy - 0.46) < 0.02
    f = factors(0, index, intensity=(0.0, 0.3))
    assert 0 <= f["intensity"].min() < 0.01 and 0.29 < f["intensity"].max() <= 0.3
    for bad in ({"prior": "flat"}, {"classes": 6}, {"per_identity": 0}, {"intensity": (0.8, 0.2)}):
        with pytest.raises(ValueError):
            factors(0, 0, **bad)


def test_expression_is_independent_of_the_person():
    f = factors(0, np.arange(20000), classes=8)
    share = np.stack([[(f["expr"][f["male"] == m] == k).mean() for k in range(8)] for m in (0, 1)])
    assert np.abs(share[0] - share[1]).max() < 0.02
    assert np.abs(share - 1 / 8).max() < 0.015


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(("size", "grey"), [(32, False), (64, False), (64, True), (128, False)])
def test_bytes_do_not_depend_on_the_batch(size, grey):
    n = {32: 90, 64: 37, 128: 10}[size]
    f = factors(0, np.arange(n) * 3, classes=8)
    whole = render(f, size, grey)
    assert whole.shape == (n, 1 if grey else 3, size, size) and whole.dtype == np.uint8
    for i in (n // 2, n - 1):
        np.testing.assert_array_equal(render(take(f, slice(i, i + 1)), size, grey)[0], whole[i])
    order = np.random.default_rng(0).permutation(n)
    np.testing.assert_array_equal(render(take(f, order), size, grey), whole[order])
    np.testing.assert_array_equal(render(take(f, slice(5, n)), size, grey), whole[5:])


@pytest.mark.slow
def test_bytes_are_the_same_in_another_process():
    code = (
        "import hashlib, numpy as np; from data.synthetic import factors, render;"
        "print(hashlib.sha256(render(factors(4, np.arange(20)), 48).tobytes()).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == hashlib.sha256(render(factors(4, np.arange(20)), 48).tobytes()).hexdigest()


def extremes() -> dict:
    """128 faces: every shape at an end, units resting or at full strength, every corner of the poses' range."""
    n = 128
    f = factors(0, np.arange(n), classes=8)
    bits = np.where(np.arange(n)[None] >> np.arange(7)[:, None] & 1, 1, -1).astype(np.float32)
    shapes = "face_w face_h jaw taper chin eye_w eye_h eye_d eye_tilt brow_t brow_arch brow_slope brow_y nose_l nose_w"
    shapes += " nose_tip mouth_w lip_u lip_l mouth_y ear hairline volume cheek iris_r"
    f |= {k: bits[0] for k in shapes.split()}
    f |= {"roll": np.deg2rad(8).astype(np.float32) * bits[1], "yaw": 0.085 * bits[2], "scale": 1 + 0.06 * bits[3]}
    f |= {"shift_x": 0.05 * bits[4], "shift_y": 0.045 * bits[5], "lx": bits[6]}
    rng = np.random.default_rng(1)
    f["au"] = (1.1 * rng.integers(0, 2, f["au"].shape)).astype(np.float32)
    f["au"][rng.integers(0, 2, n) > 0, :2] = 1.1  # brows as high as they go
    f["au"][::16], f["au"][8::16] = 0, 1.1
    f |= {k: np.ones(n, np.float32) for k in ("lines", "bags", "freckle", "lash")}
    f |= {"style": rng.integers(0, len(STYLES), n), "beard": rng.integers(0, len(BEARDS), n)}
    for name in ("glasses", "earring", "hat", "bangs"):
        f[name] = rng.integers(0, 2, n).astype(np.float32)
    return f


def test_drawing_windows_are_large_enough(monkeypatch):
    f = extremes()
    bare = f | {"style": np.zeros_like(f["style"]), "hat": np.zeros_like(f["hat"])}  # no hair over a raised brow
    faces = [(factors(0, np.arange(64), classes=8), 32), (f, 48), (bare | apply(bare, "surprise=1"), 64)]
    cropped = [render(f, size) for f, size in faces]
    monkeypatch.setattr(scene, "window", lambda box, size: (slice(0, size), slice(0, size)))
    for (f, size), x in zip(faces, cropped):
        np.testing.assert_array_equal(render(f, size), x)


def test_extreme_shapes_are_drawn_without_nan(monkeypatch):
    seen = []
    to_bytes = lens.to_bytes
    monkeypatch.setattr(lens, "to_bytes", lambda s: (seen.append(np.isfinite(s.canvas).all()), to_bytes(s))[1])
    with np.errstate(invalid="raise", divide="raise"):
        render(extremes(), 32)
        render(extremes(), 64, grayscale=True)
        render(take(extremes(), slice(0, None, 5)), 128)
    assert len(seen) > 6 and all(seen)
    assert np.isfinite(landmarks(extremes())).all()


def test_layers_stay_in_the_colour_range():
    """Painting mixes colours: before exposure and noise, nothing leaves the palette's range by more than rounding."""
    f = extremes()
    s = scene.Scene(take(f, slice(0, 64)), 64, False)
    s.values |= draw.hair.cuts(s.f)
    for layer in draw.LAYERS[:-3]:
        layer(s)
        assert s.canvas.min() > -1e-4 and s.canvas.max() < 1.11, layer.__name__


def test_grey_is_the_luminance_of_the_colours():
    f = factors(0, np.arange(60), classes=8)
    colour, grey = render(f, 64).astype(np.float64), render(f, 64, grayscale=True)[:, 0]
    luminance = colour[:, 0] * 0.299 + colour[:, 1] * 0.587 + colour[:, 2] * 0.114
    inside = ((colour > 0) & (colour < 255)).all(1)
    assert inside.mean() > 0.9
    assert np.abs(luminance - grey)[inside].max() <= 1.0


def test_sizes():
    f = factors(0, np.arange(4))
    small = render(f, 64).astype(float)
    large = render(f, 128).astype(float).reshape(4, 3, 64, 2, 64, 2).mean((3, 5))
    assert np.abs(small - large).mean() < 4  # the same picture
    for size in (31, 257):
        with pytest.raises(ValueError):
            render(f, size)


def test_speed():
    f, rates = factors(0, np.arange(160)), []
    for _ in range(3):
        start = time.process_time()
        render(f, 64)
        rates.append(160 / (time.process_time() - start))
    assert max(rates) > 150, rates  # 300 a second on two cores; about 600 on one idle core


# ---------------------------------------------------------------- expressions


def test_prototypes():
    f = factors(0, np.arange(400), classes=8)
    unit = {n: k for k, n in enumerate(AUS)}
    au = {c: action_units(apply(f, c)) for c in CLASSES}
    assert au["happy"][:, unit[12]].mean() > 0.6 and au["happy"][:, unit[15]].mean() < 0.05
    assert au["sad"][:, unit[15]].min() > 0.3 and au["surprise"][:, unit[27]].min() > 0.2
    one, other = au["contempt"][:, unit[12]].max(1), au["contempt"][:, unit[12]].min(1)
    assert (one > 4 * other).all()
    louder = np.argmax(au["contempt"][:, unit[14]], 1) * 2 - 1
    assert (louder == f["side"]).all()
    weak, strong = action_units(apply(f, "happy", 0.4)), action_units(apply(f, "happy", 1.0))
    assert (weak[:, unit[12]] < strong[:, unit[12]]).all()
    assert 0.15 < (au["neutral"][:, unit[25]].max(1) > 0.3).mean() < 0.30  # parted lips at rest


def test_every_expression_changes_the_face():
    """Mean change from neutral over the whole grey picture, in grey levels."""
    f = apply(factors(0, np.arange(0, 600, 10), classes=8), "neutral")
    rest = render(f, 64, grayscale=True).astype(float)
    for name in CLASSES:
        if name != "neutral":
            change = np.abs(render(apply(f, name), 64, grayscale=True) - rest).mean()
            assert change > (0.9 if name == "contempt" else 1.0), (name, change)


def test_a_smile_changes_the_mouth_most():
    f = apply(factors(0, np.arange(0, 600, 10), classes=8), "neutral")
    moved = np.abs(render(apply(f, "happy"), 32, True)[:, 0].astype(float) - render(f, 32, True)[:, 0])
    points = np.concatenate([landmarks(f)[:, 48:], landmarks(apply(f, "happy"))[:, 48:]], 1)
    p = (2 * np.arange(32) + 1) / 32 - 1
    grid = np.stack(np.meshgrid(p, p), -1)[None]
    box = ((grid >= points.min(1)[:, None, None]) & (grid <= points.max(1)[:, None, None])).all(-1)
    assert ((moved * box).sum((1, 2)) / box.sum((1, 2))).mean() >= 8


# ---------------------------------------------------------------- attributes and the oracle


def test_attributes_are_binary_and_named():
    a = attributes(factors(0, np.arange(50)))
    assert a.shape == (50, len(ATTRIBUTES)) == (50, 33) and a.dtype == np.float32 and set(np.unique(a)) == {0, 1}


def test_prevalence():
    shares = attributes(factors(0, np.arange(20000), per_identity=1, classes=8)).mean(0)
    assert set(PREVALENCE) == set(ATTRIBUTES)
    for name, share in zip(ATTRIBUTES, shares):
        assert abs(share - PREVALENCE[name]) < 0.02, (name, share)


def phi(a: np.ndarray) -> np.ndarray:
    return np.corrcoef(a.T)


def test_correlations_and_independence():
    male, at = ATTRIBUTES.index("Male"), ATTRIBUTES.index
    r = phi(attributes(factors(0, np.arange(20000), per_identity=1, classes=8)))
    expected = {"Wearing_Lipstick": -0.61, "No_Beard": -0.60, "Wearing_Earrings": -0.34, "Bushy_Eyebrows": 0.32,
                "Arched_Eyebrows": -0.31, "Big_Lips": -0.26, "Big_Nose": 0.20, "Bald": 0.24}  # fmt: skip
    for name, value in expected.items():
        assert abs(r[male, at(name)] - value) < 0.04, (name, r[male, at(name)])
    assert abs(r[at("Young"), at("Gray_Hair")] + 0.60) < 0.05

    exclusive = (
        {"Black_Hair", "Brown_Hair", "Blond_Hair", "Gray_Hair", "Bald"},
        {"Bald", "Straight_Hair", "Wavy_Hair", "Bangs", "Receding_Hairline"},
        {"No_Beard", "5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns"},
        {"Smiling", "Mouth_Slightly_Open"},
    )
    r = np.abs(phi(attributes(factors(0, np.arange(20000), per_identity=1, classes=8, independent=True))))
    for i, a in enumerate(ATTRIBUTES):
        for j, b in enumerate(ATTRIBUTES[:i]):
            if not any({a, b} <= group for group in exclusive):
                assert r[i, j] < 0.03, (a, b, r[i, j])


def pool() -> dict:
    f = factors(0, np.arange(0, 900, 3), classes=8)
    return take(f, f["style"] != STYLES.index("bald"))


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_edit_sets_its_label(name):
    f = pool()
    before = {k: v.copy() for k, v in f.items()}
    for value in (0, 1):
        g = apply(f, f"{name}={value}")
        assert (attributes(g)[:, ATTRIBUTES.index(name)] == value).all()
        assert {k: v.dtype for k, v in g.items()} == {k: v.dtype for k, v in f.items()}
        changed = {k for k in f if not np.array_equal(f[k], g[k], equal_nan=True)}
        allowed = TOUCHES.get(name)
        assert changed <= allowed if allowed else len(changed) <= 1, changed
    for k, v in f.items():
        np.testing.assert_array_equal(v, before[k], err_msg=k)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_edit_changes_pixels(name):
    f = take(pool(), slice(0, 64))
    change = np.abs(render(apply(f, f"{name}=1"), 64).astype(float) - render(apply(f, f"{name}=0"), 64)).mean()
    assert 0.7 < change / CHANGE[name] < 1.4, (name, change)


def test_fractional_edits_interpolate_factors():
    f = take(pool(), slice(0, 3))
    g = apply(f, "Big_Nose", np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(g["nose_w"], [-0.30, 0.25, 0.80], atol=1e-6)
    np.testing.assert_array_equal(apply(f, "Big_Nose=0.5")["nose_w"], apply(f, "Big_Nose", 0.5)["nose_w"])
    smile = [action_units(apply(f, "Smiling", v))[:, AUS.index(12)].mean() for v in (0, 0.5, 1)]
    np.testing.assert_allclose(smile, [0, 0.375, 0.75], atol=1e-6)


def test_smiling_keeps_the_eyes_upper_half():
    f = apply(take(pool(), slice(0, 50)), "fear")
    before, after = action_units(f), action_units(apply(f, "Smiling=1"))
    for n in (1, 2, 4, 5, 7):
        np.testing.assert_array_equal(before[:, AUS.index(n)], after[:, AUS.index(n)])
    assert (after[:, AUS.index(20)] == 0).all()


def test_an_edit_to_the_own_class_gives_the_same_bytes():
    f = factors(0, np.arange(40), classes=8)
    np.testing.assert_array_equal(render(apply(f, f["expr"]), 64), render(f, 64))
    edited = apply(apply(f, "Smiling=1"), f["expr"])  # an expression clears what Smiling set
    np.testing.assert_array_equal(render(edited, 64), render(f, 64))


def test_an_expression_edit_changes_no_other_attribute():
    f = pool()
    for what in ("surprise", "surprise=0.7"):
        g = apply(f, what)
        changed = {k for k in f if not np.array_equal(f[k], g[k], equal_nan=True)}
        assert changed == ({"expr", "intensity"} if "=" in what else {"expr"})
        np.testing.assert_array_equal(f["identity"], g["identity"])
    assert (apply(f, "surprise=0.7")["intensity"] == np.float32(0.7)).all()


@pytest.mark.parametrize("name", CLASSES)
def test_an_expression_stays_inside_the_head(name):
    """No pixel beside or above the head moves: pose, hair, ground, light and noise are shared."""
    size, f = 64, factors(0, np.arange(0, 400, 10), classes=8)
    moved = (render(f, size) != render(apply(f, name), size)).any(1)
    p = (2 * np.arange(size) + 1) / size - 1
    v = {k: f[k][:, None, None] for k in ("roll", "scale", "shift_x", "shift_y")}
    x, y = p[None, None, :] - v["shift_x"], p[None, :, None] - v["shift_y"]
    X = (x * np.cos(v["roll"]) + y * np.sin(v["roll"])) / v["scale"]
    Y = (y * np.cos(v["roll"]) - x * np.sin(v["roll"])) / v["scale"]
    outside = (np.abs(X) > 0.69) | (Y < -0.78)
    assert outside.mean() > 0.3 and not (moved & outside).any()
    if name != "neutral":
        assert moved.any((1, 2))[f["expr"] != CLASSES.index(name)].all()


def test_invalid_edits_are_errors():
    f = factors(0, np.arange(300))
    bald = apply(f, "Bald=1")
    for bad in ("Smilling=1", "happy=x", "Smiling=1.5", "Attractive=1"):
        with pytest.raises(UserError):
            apply(f, bad)
    with pytest.raises(UserError, match="bald"):
        apply(bald, "Blond_Hair=1")
    with pytest.raises(UserError):
        apply(f, np.full(300, 8))
    assert set(HAIR_COLOURS) and attributes(bald)[:, ATTRIBUTES.index("Black_Hair")].sum() == 0


# ---------------------------------------------------------------- landmarks


def recoloured(monkeypatch, f: dict, names: tuple[str, ...], size: int = 256) -> np.ndarray:
    """(N, S, S) bool: the pixels that take their colour from one of these."""
    plain_colours = scene.colours

    def other(g):
        c = dict(plain_colours(g))
        return c | {k: np.clip(1 - c[k] + np.array([0, 0.3, 0]), 0, 1) for k in names}

    before = render(f, size).astype(int)
    with monkeypatch.context() as m:
        m.setattr(scene, "colours", other)
        return np.abs(render(f, size).astype(int) - before).max(1) > 12


def around(mask: np.ndarray, points: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether any, and whether all pixels within `radius` (face units) of each point are set: two (N, K)."""
    n, size, _ = mask.shape
    r = radius * size / 2
    place = (points + 1) / 2 * size - 0.5
    some, every = np.zeros(points.shape[:2], bool), np.ones(points.shape[:2], bool)
    for dy in range(-int(r) - 1, int(r) + 2):
        for dx in range(-int(r) - 1, int(r) + 2):
            x, y = np.round(place[..., 0]) + dx, np.round(place[..., 1]) + dy
            near = (x - place[..., 0]) ** 2 + (y - place[..., 1]) ** 2 <= r * r
            near &= (x >= 0) & (x < size) & (y >= 0) & (y < size)
            hit = mask[np.arange(n)[:, None], np.clip(y, 0, size - 1).astype(int), np.clip(x, 0, size - 1).astype(int)]
            some |= near & hit
            every &= ~near | hit
    return some, every


WORN = {  # edit: its colour, and the least share of the picture that takes it
    "Wearing_Hat=1": ("hat", 0.08), "Eyeglasses=1": ("frame", 0.01), "Wearing_Earrings=1": ("gold", 0.0005),
    "Goatee=1": ("beard", 0.01), "Mustache=1": ("beard", 0.003), "Sideburns=1": ("beard", 0.04),
    "Bald=0": ("hair", 0.05),
}  # fmt: skip


@pytest.mark.parametrize("edit", WORN)
def test_worn_things_have_their_colour(monkeypatch, edit):
    colour, share = WORN[edit]
    f = apply(plain(24), edit)
    assert set(f["hat_kind"]) == {0, 1}
    assert (recoloured(monkeypatch, f, (colour,), 64).mean((1, 2)) >= share).all()


def test_lip_points_are_on_the_edge_of_the_lips(monkeypatch):
    f = plain(10)
    mask = recoloured(monkeypatch, f, ("lip", "lip_upper", "lip_line", "gloss", "mouth", "tongue", "teeth"))
    some, every = around(mask, landmarks(f)[:, 48:60], 0.016)
    assert some.all() and not every.any()
    opened = apply(f, "surprise")
    mask = recoloured(monkeypatch, opened, ("mouth", "tongue", "teeth"))
    some, every = around(mask, landmarks(opened)[:, [61, 62, 63, 65, 66, 67]], 0.016)
    assert some.all() and not every.any()


def test_lid_points_are_between_eye_and_skin(monkeypatch):
    f = apply(plain(12), "neutral")
    mask = recoloured(monkeypatch, f, ("eyewhite", "eyeshade", "iris", "iris_rim", "iris_light"))
    some, every = around(mask, landmarks(f)[:, [37, 38, 40, 41, 43, 44, 46, 47]], 0.02)
    assert some.all() and not every.any()


def test_brow_points_are_on_the_brows(monkeypatch):
    monkeypatch.setattr(draw, "LAYERS", [layer for layer in draw.LAYERS if layer is not draw.hair.front])
    f = plain(12)
    mask = recoloured(monkeypatch, f, ("brow",))
    assert around(mask, landmarks(f)[:, 17:27], 0.008)[0].all()
    assert not around(mask, landmarks(f)[:, 36:48], 0.008)[0].any()


def test_jaw_points_are_on_the_edge_of_the_head(monkeypatch):
    monkeypatch.setattr(draw, "LAYERS", (backdrop.ground, skin.skull))
    f = plain(40)
    mask = recoloured(monkeypatch, f, ("skin", "shadow", "hi"))
    points = landmarks(f)[:, :17]
    inside = (np.abs(points) < 0.97).all(-1)
    some, every = around(mask, points, 0.02)
    assert inside.mean() > 0.9 and some[inside].all() and not every[inside].any()


def test_nose_points_follow_the_yaw(monkeypatch):
    """The nostrils' dark spots lie just inside points 31 and 35, on the side to which the face turns."""
    f = plain(24)
    mask = recoloured(monkeypatch, f, ("nostril",), 128)
    p = (2 * np.arange(128) + 1) / 128 - 1
    weight = mask / mask.sum((1, 2), keepdims=True)
    centre = np.stack([(weight * p[None, None]).sum((1, 2)), (weight * p[None, :, None]).sum((1, 2))], -1)
    assert np.abs(centre - landmarks(f)[:, [32, 34]].mean(1)).max() < 0.03


def test_landmarks_of_the_mirrored_face():
    f = factors(0, np.arange(50), classes=8)
    g = f | {k: -f[k] for k in ("roll", "yaw", "shift_x", "side", "asym")}
    expected = landmarks(f)[:, MIRROR] * np.array([-1, 1], np.float32)
    np.testing.assert_allclose(landmarks(g), expected, atol=1e-6)
    np.testing.assert_allclose(landmarks5(landmarks(g)), landmarks5(landmarks(f))[:, MIRROR5] * [-1, 1], atol=1e-6)
    assert sorted(MIRROR) == list(range(68))


def test_landmarks_are_in_order():
    """Seen upright: iBUG's numbering, image-left first, brow over lid over lip."""
    f = plain(60) | {k: np.zeros(60, np.float32) for k in ("roll", "shift_x", "shift_y", "yaw")}
    x, y = landmarks(apply(f, "surprise")).transpose(2, 0, 1)
    for row in (
        range(17),
        range(17, 27),
        range(31, 36),
        (36, 37, 38, 39, 42, 43, 44, 45),
        range(48, 55),
        range(60, 65),
    ):
        assert (np.diff(x[:, list(row)], axis=1) > 0).all(), row
    for row in ((45, 46, 47, 42, 39, 40, 41, 36), range(54, 60), range(64, 68)):
        assert (np.diff(x[:, list(row)], axis=1) < 0).all(), row
    for column in ((19, 37, 41), (19, 38, 40), (24, 43, 47), (24, 44, 46), (27, 28, 29, 30, 33, 51, 62, 66, 57, 8)):
        assert (np.diff(y[:, list(column)], axis=1) > 0).all(), column


def test_five_points_and_mean_eyes():
    points = landmarks(factors(0, np.arange(4000), per_identity=1))
    five = landmarks5(points)
    assert points.shape == (4000, 68, 2) and five.shape == (4000, 5, 2) and points.dtype == np.float32
    assert np.abs(five[:, :2].mean(0) - np.array(EYES)).max() < 0.015
    np.testing.assert_array_equal(five[:, 2:], points[:, [30, 48, 54]])
    assert (five[:, 0, 0] < five[:, 1, 0]).all() and (five[:, 3, 0] < five[:, 4, 0]).all()


def test_landmarks_follow_their_factors():
    f = plain(20)
    calm, smile = landmarks(apply(f, "neutral")), landmarks(apply(f, "happy"))
    assert (smile[:, [48, 54], 1].mean(1) < calm[:, [48, 54], 1].mean(1)).all()  # the corners rise
    assert (np.abs(smile[:, 54] - smile[:, 48]) > np.abs(calm[:, 54] - calm[:, 48]))[:, 0].all()  # it widens
    for edit in ("Wearing_Hat=1", "Eyeglasses=1", "Wearing_Lipstick=1", "Goatee=1"):
        np.testing.assert_array_equal(landmarks(apply(f, edit)), landmarks(f))


def test_a_beard_does_not_cover_the_lips():
    f = apply(plain(8), "No_Beard=0")
    assert (f["beard"] == BEARDS.index("full")).all()
    with_lips, without = (render(apply(f, f"Wearing_Lipstick={v}"), 128) for v in (0, 1))
    assert np.abs(with_lips.astype(int) - without).max((1, 2, 3)).min() > 20
