"""Before a run's first step: where its linear path comes from."""

from pathlib import Path
from typing import Any

import torch

from aae_cgan.linear import fit_linear
from engine import UserError, find_checkpoint
from engine.checkpoint import checkpoints, read_checkpoint


def prepare_linear(run: Any, method: Any, train: Any) -> str:
    """Fit the linear path on the training faces, unless a checkpoint or another run's weights bring one.

    Returns what it is, in a few words.
    """
    if method.linear is None:
        return "no linear path"
    latent_dim, dims = method.linear.basis.shape[1], method.linear.basis.shape[0]
    known = f"linear path: {latent_dim} of {dims} directions"
    if checkpoints(run.dir):
        return f"{known}, from the checkpoint"
    if run.cfg.train.init_from:
        agree_on_linear(run.cfg.train.init_from)
        return f"{known}, from {run.cfg.train.init_from[0]}"
    images = (batch["image"] for batch in train.once(1024))
    fitted = fit_linear(images, latent_dim, run.cfg.data.flip != "none")
    method.linear.set(fitted)
    return f"{known}, {fitted.psnr:.1f} dB"


def agree_on_linear(sources: list[str]) -> None:
    """Raise UserError if runs whose weights are to be joined have different linear paths: their codes differ."""
    first = None
    for source in sources:
        path = find_checkpoint(Path(source.partition(":")[0]))
        mine = read_checkpoint(path)["method"].get("linear.basis")
        if first is not None and (mine is None or mine.shape != first.shape or not torch.equal(mine, first)):
            raise UserError(
                f"train.init_from: {path} has another linear path than {sources[0]}; train both on the same data "
                "with the same model.latent_dim"
            )
        first = mine if first is None else first
