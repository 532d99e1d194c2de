"""Projected faces are kept in the run directory: a face is inverted once for given weights and options."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.files import atomic_write
from interface_gan.codes import Stats
from interface_gan.model import Generator
from interface_gan.project import DEFAULT, Maps, Options, project

logger = logging.getLogger("faces")
AT_ONCE = 32  # faces projected together


def invert(
    generator: Generator, maps: Maps, stats: Stats, x: Tensor, folder: Path, weights: str, options: Options = DEFAULT
) -> Tensor:
    """ws (N, L, Z) of faces x (N, C, H, H), on the CPU: read from `folder`, or found and kept there.

    weights: sha256 of everything that the result depends on, but for the face and the options.
    """
    said = json.dumps([weights, dataclasses.asdict(options)], sort_keys=True).encode()
    paths = [
        Path(folder) / f"{hashlib.sha256(said + face.cpu().contiguous().numpy().tobytes()).hexdigest()[:24]}.npy"
        for face in x.float()
    ]
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    for start in range(0, len(missing), AT_ONCE):
        rows = missing[start : start + AT_ONCE]
        if len(missing) > AT_ONCE:
            logger.info(f"inverting faces {start} .. {start + len(rows)} of {len(missing)}")
        found = project(generator, maps, stats, x[rows], options).ws.cpu()
        for i, ws in zip(rows, found, strict=True):
            with atomic_write(paths[i]) as file:
                np.save(file, ws.numpy())
    return torch.stack([torch.from_numpy(np.load(path)) for path in paths])
