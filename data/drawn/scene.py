"""The canvas: coordinates of every pixel, windows in which a layer works, and the blocks of which layers are made.

A layer only ever does `canvas += alpha (colour - canvas)` or `canvas *= field`. Both commute with luminance, so a
grey picture is drawn as one plane of luminances and equals the colour picture's.
A layer's window is its box under every pose that faces may take: the same for all faces of a size, so that a face's
bytes never depend on its neighbours. The layer's own formula must vanish outside the box.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np

from data.drawn.palette import colours, luminance
from data.drawn.shape import SKULL_C, control_points

Box = tuple[float, float, float, float]  # x low, x high, y low, y high in face units, outward x for paired layers
MAX_ROLL, MAX_SCALE, MIN_SCALE, MAX_SHIFT_X, MAX_SHIFT_Y, MAX_YAW = np.deg2rad(8), 1.06, 0.94, 0.05, 0.045, 0.085
EVERYWHERE: Box = (-9.0, 9.0, -9.0, 9.0)


@cache
def window(box: Box, size: int) -> tuple[slice, slice]:
    """Rows and columns of a size x size picture that a box can touch under any pose."""
    corners = np.array([(x, y) for x in (box[0] - MAX_YAW, box[1] + MAX_YAW) for y in box[2:]])
    turns = np.linspace(-MAX_ROLL, MAX_ROLL, 17)
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for scale in (MIN_SCALE, MAX_SCALE):
        x = scale * (np.cos(turns)[:, None] * corners[:, 0] - np.sin(turns)[:, None] * corners[:, 1])
        y = scale * (np.sin(turns)[:, None] * corners[:, 0] + np.cos(turns)[:, None] * corners[:, 1])
        low = np.minimum(low, (x.min() - MAX_SHIFT_X, y.min() - MAX_SHIFT_Y))
        high = np.maximum(high, (x.max() + MAX_SHIFT_X, y.max() + MAX_SHIFT_Y))
    first = np.clip(np.floor((low + 1) / 2 * size - 1), 0, size - 1).astype(int)
    last = np.clip(np.ceil((high + 1) / 2 * size + 1), 1, size).astype(int)
    return slice(int(first[1]), int(last[1])), slice(int(first[0]), int(last[0]))


class Scene:
    """A chunk of faces being drawn. `canvas` is (C, N, S, S) float32; values are factors and control points."""

    def __init__(self, f: dict[str, np.ndarray], size: int, grayscale: bool) -> None:
        n, to_planes = len(f["index"]), luminance if grayscale else np.asarray
        self.f, self.n, self.size = f, n, size
        self.canvas = np.zeros((1 if grayscale else 3, n, size, size), np.float32)
        self.colours = {k: to_planes(v).T.astype(np.float32)[:, :, None, None] for k, v in colours(f).items()}
        self.values = {k: v.astype(np.float32) for k, v in f.items() if v.ndim == 1} | control_points(f)
        self.values["px"] = (2 / (size * f["scale"])).astype(np.float32)
        v = {k: self.values[k].reshape(n, 1, 1) for k in ("roll", "scale", "shift_x", "shift_y", "yaw", "a")}
        p = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
        x, y = p[None, None, :] - v["shift_x"], p[None, :, None] - v["shift_y"]
        cos, sin = np.cos(v["roll"]) / v["scale"], np.sin(v["roll"]) / v["scale"]
        # px, py: the picture's frame; X, y: the head's; x: the head's, slid over the ball by the yaw
        self.fields = {"px_x": np.broadcast_to(p[None, None, :], (n, size, size))}
        self.fields["px_y"] = np.broadcast_to(p[None, :, None], (n, size, size))
        self.fields["X"], self.fields["y"] = x * cos + y * sin, y * cos - x * sin
        X = self.fields["X"]
        self.fields["x"] = X - v["yaw"] * np.maximum(0, 1 - (X / v["a"]) ** 2)

    def on(self, box: Box, who: np.ndarray | None = None, sides: bool = False) -> Iterator["View"]:
        """Yield the view of a layer's window (one per side with `sides`); none if nobody is asked for.

        `who`: boolean (N,), the faces that have this layer; the others are not touched.
        """
        rows = None
        if who is not None and not who.all():
            rows = np.flatnonzero(who)
            if len(rows) == 0:
                return
        for side in (-1, 1) if sides else (0,):
            mirrored = (-box[1], -box[0], *box[2:]) if side < 0 else box
            view = View(self, window(mirrored, self.size), rows, side)
            yield view
            view.close()

    def keep(self, name: str, view: "View", field: np.ndarray) -> None:
        """Remember a view's field under a name, for later layers; zero outside the view."""
        whole = np.zeros((self.n, self.size, self.size), np.float32)
        whole[(slice(None), *view.where)] = field
        self.fields[name] = whole


class View:
    """A window of a scene. Its attributes are the scene's fields and values there, shaped to broadcast.

    On a side, x and X are outward, and values that differ by side are that side's; without, `left(name)`/`right(name)`
    give them and the bare name is their mean.
    """

    def __init__(self, scene: Scene, where: tuple[slice, slice], rows: np.ndarray | None, side: int) -> None:
        self.scene, self.where, self.rows, self.side = scene, where, rows, side
        self.canvas = scene.canvas[(slice(None), slice(None) if rows is None else rows, *where)]

    def close(self) -> None:
        """Write what was drawn on a copy back into the canvas."""
        if self.rows is not None:  # fancy indexing made a copy
            self.scene.canvas[(slice(None), self.rows, *self.where)] = self.canvas

    def __getattr__(self, name: str) -> np.ndarray:
        rows = slice(None) if self.rows is None else self.rows
        if name in self.scene.fields:
            value = self.scene.fields[name][(rows, *self.where)]
            if self.side < 0 and name in ("x", "X"):
                value = -value
        elif name in self.scene.values:
            value = self.scene.values[name][rows]
            if value.ndim == 2:
                value = value.mean(1) if self.side == 0 else value[:, (self.side + 1) // 2]
            value = value.reshape(-1, 1, 1)
        else:
            raise AttributeError(name)
        setattr(self, name, value)
        return value

    def per_side(self, name: str) -> np.ndarray:
        """A sided value as a field: image-left's where x < 0, image-right's elsewhere."""
        value = self.scene.values[name][slice(None) if self.rows is None else self.rows]
        return np.where(self.x < 0, value[:, 0].reshape(-1, 1, 1), value[:, 1].reshape(-1, 1, 1))

    @property
    def light(self) -> np.ndarray:
        """lx of this side: > 0 where the light comes from the side's own direction."""
        return self.lx * self.side if self.side else self.lx

    def colour(self, name: str) -> np.ndarray:
        """(C, n, 1, 1): a colour of the scene's palette for the faces of this view."""
        c = self.scene.colours[name]
        return c if self.rows is None else c[:, self.rows]

    def paint(self, alpha: np.ndarray, colour: str) -> None:
        """canvas += alpha (colour - canvas); alpha in [0, 1], shaped to broadcast over (N, h, w)."""
        step = self.colour(colour) - self.canvas
        step *= alpha
        self.canvas += step

    def cov(self, d: np.ndarray) -> np.ndarray:
        """Share of a pixel inside an edge, from the signed distance d (inside < 0)."""
        return np.clip(0.5 - d / self.px, 0, 1)

    def band(self, low: np.ndarray, high: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
        """Share of a pixel's height between two curves: an exact box filter, so thin parts fade."""
        y, half = self.y if y is None else y, self.px / 2
        return np.maximum(0, np.minimum(y + half, high) - np.maximum(y - half, low)) / self.px

    def line(self, d: np.ndarray, half: np.ndarray | float) -> np.ndarray:
        """A soft line at d = 0."""
        return np.maximum(0, 1 - np.abs(d) / np.maximum(half, 0.5 * self.px))

    def bump(self, cx, cy, rx, ry, x: np.ndarray | None = None) -> np.ndarray:
        """A round bump of height 1: max(0, 1 - q)², zero outside the ellipse q = 1."""
        x = self.x if x is None else x
        return np.maximum(0, 1 - ((x - cx) / rx) ** 2 - ((self.y - cy) / ry) ** 2) ** 2

    def fade(self, frequency: float) -> np.ndarray:
        """Amplitude of sin(frequency x) that the pixels can carry: 1 well below Nyquist, 0 above."""
        return np.clip(np.pi / (frequency * self.px) - 1, 0, 1)


def soft(d: np.ndarray, half: np.ndarray | float) -> np.ndarray:
    """A soft edge of width `half`: 1 inside (d < 0), 0 outside."""
    return np.clip(0.5 - d / half, 0, 1)


def head(x, y, a, bu, bl, c, tp) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed distance (about) to a head's outline, and its coordinates u, v (1 at the outline's extremes).

    f = u² + v² - c min(u², 1) min(v², 1) - 1, u = x / (a (1 - tp clip(v, 0, 1.1)²)), v = y / bu above, y / bl below.
    The minima keep the squircle from turning negative far outside.
    """
    above = y < 0
    b = np.where(above, bu, bl)
    c = np.where(above, np.float32(SKULL_C), c)
    v = y / b
    width = a * (1 - tp * np.clip(v, 0, 1.1) ** 2)
    u = x / width
    u2, v2 = np.minimum(u * u, 1), np.minimum(v * v, 1)
    f = u * u + v * v - c * u2 * v2 - 1
    fx, fy = 2 * u * (1 - c * v2) / a, 2 * v * (1 - c * u2) / b
    return f / np.sqrt(fx * fx + fy * fy + 0.05), u, v
