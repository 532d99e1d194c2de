"""The learning rate as a function of the step. It has no state, so checkpoints need not save it."""

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
    """Factor in [0, 1] for the learning rate of every optimizer at `step` = 0 .. total - 1.

    The factor rises linearly from 1 / warmup to 1 over `warmup` steps. It stays at 1 until step hold * total.
    Then it falls to `floor` at the last step, along a cosine or a line; with decay "none" it stays at 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    start = max(warmup, hold * total)
    if decay == "none" or step <= start:
        return 1.0
    t = min(1.0, (step - start) / max(1.0, total - 1 - start))
    shape = (1 + math.cos(math.pi * t)) / 2 if decay == "cosine" else 1 - t
    return floor + (1 - floor) * shape
