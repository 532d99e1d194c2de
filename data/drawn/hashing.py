"""Random numbers by place, not by order: u(seed, stream, item, k) is a pure function of its four integers.

A stream says whose number it is (a person's or a picture's), an item which one, and k which factor. The generator is
splitmix64's finaliser (Steele, Lea, Flood 2014) used as a hash.
"""

import numpy as np

PERSON, PICTURE, GRAIN, FRECKLES = 1, 2, 3, 4  # streams

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STRIDE = np.uint64(0xD1B54A32D192ED03)


def mix(h: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, elementwise on uint64."""
    with np.errstate(over="ignore"):
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return h ^ (h >> np.uint64(31))


def key(seed: np.ndarray | int, stream: int, item: np.ndarray) -> np.ndarray:
    """The hash (uint64, shape of `item`) from which an item's numbers are drawn."""
    seed, item = np.asarray(seed).astype(np.uint64), np.asarray(item).astype(np.uint64)
    with np.errstate(over="ignore"):
        return mix(item * _GOLDEN + mix(seed * _STRIDE + np.uint64(stream)))


def uniform(seed: np.ndarray | int, stream: int, item: np.ndarray, count: int) -> np.ndarray:
    """(N, count) float64 in [0, 1): numbers k = 0 .. count-1 of each of N items."""
    k = np.arange(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        h = mix(key(seed, stream, item)[..., None] + k * _GOLDEN)
    return (h >> np.uint64(11)).astype(np.float64) * 2.0**-53


def grain(h: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """uint32 noise of integer places (x, y) under 32-bit keys h (broadcast): a short integer hash, one per pixel."""
    with np.errstate(over="ignore"):
        v = h ^ (x.astype(np.uint32) * np.uint32(0x9E3779B1) + y.astype(np.uint32) * np.uint32(0x85EBCA77))
        v = (v ^ (v >> np.uint32(16))) * np.uint32(0x7FEB352D)
        v = (v ^ (v >> np.uint32(15))) * np.uint32(0x846CA68B)
        return v ^ (v >> np.uint32(16))


def bell(u: np.ndarray) -> np.ndarray:
    """A bounded bell in [-1, 1], standard deviation .48, of a uniform number."""
    v = 2 * u - 1
    return v * (0.55 + 0.45 * v * v)
