"""Setup of a run's linear path, before the first step: fitted, or loaded from a checkpoint or another run."""

from pathlib import Path
from typing import Any

import torch

from aae_cgan.linear import fit_linear
from engine import UserError, find_checkpoint
from engine.checkpoint import checkpoints, intact, read_checkpoint
from engine.ranks import barrier

CODE_NETWORKS = ("encoder.", "generator.", "ema_")  # networks that depend on the linear path


def prepare_linear(run: Any, method: Any, train: Any) -> str:
    """Fit the linear path on the training faces, unless a checkpoint or `train.init_from` provides one.

    Returns a short description for the log.
    """
    resumed = any(intact(path) for path in checkpoints(run.dir))  # damaged checkpoints are not read
    barrier()  # all ranks check before rank 0 renames a damaged checkpoint
    loaded = False
    if run.cfg.train.init_from and not resumed:
        loaded = agree_on_linear(run.cfg.train.init_from, method.linear is not None)
    if method.linear is None:
        return "no linear path"
    latent_dim, dims = method.linear.basis.shape[1], method.linear.basis.shape[0]
    known = f"linear path: {latent_dim} of {dims} directions"
    if resumed:
        return f"{known}, from the checkpoint"
    if loaded:
        return f"{known}, from {run.cfg.train.init_from[0]}"
    images = (batch["image"] for batch in train.once(1024))
    fitted = fit_linear(images, latent_dim, run.cfg.data.flip != "none")
    method.linear.set(fitted)
    return f"{known}, {fitted.psnr:.1f} dB"


def agree_on_linear(sources: list[str], has_linear: bool) -> bool:
    """Whether the weights of `train.init_from` include a linear path.

    Raises UserError if the source runs have different linear paths, because their codes differ; or if only one of a
    source and this run has a linear path.
    """
    paths, loaded = [], False
    for source in sources:
        run, _, prefixes = source.partition(":")
        path = find_checkpoint(Path(run))
        state = read_checkpoint(path)["method"]
        taken = [key for key in state if key.startswith(tuple(prefixes.split(",")))]
        basis = state.get("linear.basis")
        if (basis is None) == has_linear and any(key.startswith(CODE_NETWORKS) for key in taken):
            has, kind = ("no", "none") if basis is None else ("a", "pca")
            raise UserError(
                f"train.init_from: {path} was trained with {has} linear path; set model.linear={kind}, or load its "
                "critics only"
            )
        paths.append(basis)
        if not same_basis(basis, paths[0]):
            raise UserError(
                f"train.init_from: {path} has another linear path than {sources[0]}; train both on the same data "
                "with the same model.latent_dim"
            )
        loaded |= has_linear and any(key.endswith("linear.basis") for key in taken)
    return loaded


def same_basis(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """Whether two bases are equal, or both missing."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.equal(a, b)
