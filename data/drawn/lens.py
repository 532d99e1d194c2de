"""The camera: exposure, blur, noise, rounding to bytes."""

import numpy as np

from data.drawn.hashing import GRAIN, grain, key
from data.drawn.scene import EVERYWHERE, Scene

TRIANGLE_SD = 6**-0.5  # standard deviation of u1 + u2 - 1


def expose(s: Scene) -> None:
    """Multiply the picture by its exposure, as a camera would."""
    for v in s.on(EVERYWHERE):
        v.canvas *= v.exposure * (1 + 0.06 * v.lx * v.X - 0.03 * v.y)


def blur(s: Scene) -> None:
    """The kernel (b, 1 - 2b, b) along both axes, twice from 96 px; the border repeats."""
    b = s.values["blur"].reshape(-1, 1, 1) * min(1.0, s.size / 64)
    b = np.maximum(b, 0).astype(np.float32)
    for _ in range(2 if s.size >= 96 else 1):
        for axis in (2, 3):
            c = s.canvas
            near = np.concatenate([c.take([0], axis), c, c.take([-1], axis)], axis)
            n = c.shape[axis]
            before, after = (near[:, :, :n], near[:, :, 2:]) if axis == 2 else (near[..., :n], near[..., 2:])
            s.canvas = c + b * (before + after - 2 * c)


def noise(s: Scene) -> None:
    """Triangular noise of (seed, index, pixel), equal in all channels: both halves of an oracle pair share it."""
    h = (key(s.f["seed"], GRAIN, s.f["index"]) & np.uint64(0xFFFFFFFF)).astype(np.uint32).reshape(-1, 1, 1)
    p = np.arange(s.size, dtype=np.uint32)
    bits = grain(h, p[None, None, :], p[None, :, None])
    low, high = (bits & np.uint32(0xFFFF)).astype(np.float32), (bits >> np.uint32(16)).astype(np.float32)
    strength = s.values["noise"].reshape(-1, 1, 1) * (min(1.0, (64 / s.size) ** 0.5) / TRIANGLE_SD)
    s.canvas += ((low + high) / 65535 - 1) * strength.astype(np.float32)


def to_bytes(s: Scene) -> np.ndarray:
    """(N, C, S, S) uint8."""
    return np.ascontiguousarray((np.clip(s.canvas, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 0, 2, 3))
