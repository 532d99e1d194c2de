"""Training engine: config, run directory, loop, checkpoints, ranks, logging. It imports no loss or data set."""

from engine.checkpoint import find_checkpoint
from engine.config import TrainConfig, load_config
from engine.ema import EMA, ramped_decay
from engine.errors import UserError
from engine.grids import save_animation, save_grid, save_image
from engine.loop import fit
from engine.method import Grid, Method, Origin, adam
from engine.precision import fp32, frozen
from engine.ranks import mean_over_ranks
from engine.run import Run, load, start
from engine.schedule import lr

__all__ = [
    "EMA", "Grid", "Method", "Origin", "Run", "TrainConfig", "UserError", "adam", "find_checkpoint", "fit", "fp32",
    "frozen", "load", "load_config", "lr", "mean_over_ranks", "ramped_decay", "save_animation", "save_grid",
    "save_image", "start",
]  # fmt: skip
