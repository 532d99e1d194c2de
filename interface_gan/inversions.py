"""A cache of inverted faces in the run directory. A face is inverted once for given weights and options."""

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
from interface_gan.encoder import EncoderMethod
from interface_gan.model import Generator
from interface_gan.project import AFTER_ENCODER, DEFAULT, Maps, project

logger = logging.getLogger("faces")
BATCH_SIZE = 32  # faces that are projected together


def invert(
    generator: Generator,
    maps: Maps,
    stats: Stats,
    x: Tensor,
    folder: Path,
    weights: str,
    encoder: EncoderMethod | None = None,
) -> Tensor:
    """ws (N, L, Z) of faces x (N, C, H, H), on the CPU. They are read from `folder`, or computed and saved there.

    weights: sha256 of everything else that the result depends on. encoder: gives the codes that a few steps start from.
    """
    options = DEFAULT if encoder is None else AFTER_ENCODER
    parts = [weights, dataclasses.asdict(options)] + ([encoder.origin.sha256] if encoder is not None else [])
    key = json.dumps(parts, sort_keys=True).encode()
    paths = [
        Path(folder) / f"{hashlib.sha256(key + face.cpu().contiguous().numpy().tobytes()).hexdigest()[:24]}.npy"
        for face in x.float()
    ]
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    for start in range(0, len(missing), BATCH_SIZE):
        rows = missing[start : start + BATCH_SIZE]
        if len(missing) > BATCH_SIZE:
            logger.info(f"inverting faces {start} .. {start + len(rows)} of {len(missing)}")
        codes = encoder.encode(x[rows]) if encoder is not None else None
        found = project(generator, maps, stats, x[rows], options, codes).ws.cpu()
        for i, ws in zip(rows, found, strict=True):
            with atomic_write(paths[i]) as file:
                np.save(file, ws.numpy())
    return torch.stack([torch.from_numpy(np.load(path)) for path in paths])
