"""Layers in order: factors -> pictures."""

import numpy as np

from data.drawn import backdrop, eyes, hair, lens, mouth, nose, skin, worn
from data.drawn.scene import Scene

LAYERS = (
    backdrop.ground,
    hair.back,
    backdrop.cloth_and_neck,
    backdrop.ears,
    skin.skull,
    skin.cheeks,
    skin.folds,
    skin.chin,
    skin.freckles,
    skin.forehead,
    skin.frown,
    skin.sockets,
    nose.nose,
    mouth.beard,
    mouth.mouth,
    eyes.eyes,
    eyes.brows,
    hair.front,
    worn.glasses,
    worn.earrings,
    worn.hat,
    lens.expose,
    lens.blur,
    lens.noise,
)


def chunk_size(size: int) -> int:
    """Faces drawn together: about what a core's cache holds."""
    return int(np.clip(16 * 64**2 // size**2, 1, 64))


def render(f: dict[str, np.ndarray], size: int, grayscale: bool = False) -> np.ndarray:
    """Draw faces f at size x size pixels (32 to 256): uint8 (N, 3, S, S), or (N, 1, S, S) of luminances.

    A face's bytes are a function of its factors and the size alone: the same alone, in a batch, in another process.
    """
    if not 32 <= size <= 256:
        raise ValueError(f"size {size}: faces are drawn at 32 to 256 pixels")
    n, step = len(f["index"]), chunk_size(size)
    pictures = np.empty((n, 1 if grayscale else 3, size, size), np.uint8)
    for start in range(0, n, step):
        part = slice(start, start + step)
        scene = Scene({k: v[part] for k, v in f.items()}, size, grayscale)
        scene.values |= hair.cuts(scene.f)
        for layer in LAYERS:
            layer(scene)
        pictures[part] = lens.to_bytes(scene)
    return pictures
