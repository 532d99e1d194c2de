"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

import math
from typing import Literal


def lr(
    step: int,
    total: int,
    warmup: int = 0,
    floor: float = 0.0,
    decay: Literal["cosine", "linear", "none"] = "cosine",
    hold: float = 0.0,
) -> float:
    """Factor in (0, 1] by which every optimiser's own rate is multiplied at `step` = 0 .. total - 1.

    Linear from 1/warmup to 1 over `warmup` steps; 1 up to the share `hold` of the run; then down to `floor`.
    """
    if step < warmup:
        return (step + 1) / warmup
    start = max(warmup, hold * total)
    if decay == "none" or step <= start:
        return 1.0
    t = min(1.0, (step - start) / max(1.0, total - 1 - start))
    shape = (1 + math.cos(math.pi * t)) / 2 if decay == "cosine" else 1 - t
    return floor + (1 - floor) * shape
