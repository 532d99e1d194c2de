"""Before a run's first step: where its linear path comes from."""

from pathlib import Path
from typing import Any

import torch

from aae_cgan.linear import fit_linear
from engine import UserError, find_checkpoint
from engine.checkpoint import checkpoints, intact, read_checkpoint
from engine.ranks import barrier

OF_CODES = ("encoder.", "generator.", "ema_")  # networks that mean nothing beside another linear path


def prepare_linear(run: Any, method: Any, train: Any) -> str:
    """Fit the linear path on the training faces, unless a checkpoint or another run's weights bring one.

    Returns what it is, in a few words.
    """
    resumed = any(intact(path) for path in checkpoints(run.dir))  # of damaged ones nothing will be read
    barrier()  # all ranks have looked before the first of them sets a damaged one aside
    brought = False
    if run.cfg.train.init_from and not resumed:
        brought = agree_on_linear(run.cfg.train.init_from, method.linear is not None)
    if method.linear is None:
        return "no linear path"
    latent_dim, dims = method.linear.basis.shape[1], method.linear.basis.shape[0]
    known = f"linear path: {latent_dim} of {dims} directions"
    if resumed:
        return f"{known}, from the checkpoint"
    if brought:
        return f"{known}, from {run.cfg.train.init_from[0]}"
    images = (batch["image"] for batch in train.once(1024))
    fitted = fit_linear(images, latent_dim, run.cfg.data.flip != "none")
    method.linear.set(fitted)
    return f"{known}, {fitted.psnr:.1f} dB"


def agree_on_linear(sources: list[str], wanted: bool) -> bool:
    """Whether the weights to be joined bring a linear path.

    Raises UserError if the runs they are from have different ones (their codes differ), or if networks that rely on one
    are to go where there is none, or the other way round.
    """
    paths, brought = [], False
    for source in sources:
        run, _, prefixes = source.partition(":")
        path = find_checkpoint(Path(run))
        state = read_checkpoint(path)["method"]
        taken = [key for key in state if key.startswith(tuple(prefixes.split(",")))]
        mine = state.get("linear.basis")
        if (mine is None) == wanted and any(key.startswith(OF_CODES) for key in taken):
            has, kind = ("no", "none") if mine is None else ("a", "pca")
            raise UserError(
                f"train.init_from: {path} was trained with {has} linear path; set model.linear={kind}, or take its "
                "critics alone"
            )
        paths.append(mine)
        if not same(mine, paths[0]):
            raise UserError(
                f"train.init_from: {path} has another linear path than {sources[0]}; train both on the same data "
                "with the same model.latent_dim"
            )
        brought |= wanted and any(key.endswith("linear.basis") for key in taken)
    return brought


def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """Whether two bases are one, or both absent."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.equal(a, b)
