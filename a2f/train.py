"""Train one of the four systems: `python a2f/train.py --config FILE [key=value ...]`. The key `system` chooses it.

cgan: noise and attributes -> face. rough, sharp, face: the three stages; sharp and face need the run of the previous
stage (`upstream.run`).
"""

import logging

import torch

from a2f.cgan import CGAN
from a2f.config import CONFIGS
from a2f.monitor import META_KEY, real_diversity
from a2f.requests import ATTRIBUTE_TABLE, AttributeTable
from a2f.rough import RoughSketch
from a2f.stages import SharpSketch, SketchToFace
from a2f.upstream import prepare_chain, resolve_upstream
from data import build_faces
from engine import fit, start

logger = logging.getLogger("faces")
METHODS = {"cgan": CGAN, "rough": RoughSketch, "sharp": SharpSketch, "face": SketchToFace}


def main(argv: list[str] | None = None) -> None:
    with start(CONFIGS, resolve=resolve_upstream, argv=argv) as run:
        faces = build_faces(run.cfg.data)
        method = METHODS[run.cfg.system](run.cfg, faces.meta)
        if run.cfg.system in ("sharp", "face"):
            logger.info(prepare_chain(run, method.chain))
        table = AttributeTable.of(faces.train.labels["attr"], faces.meta["attributes"])
        if run.rank == 0:
            table.save(run.dir / ATTRIBUTE_TABLE)
        with torch.no_grad():
            method.meta = faces.meta | {META_KEY: real_diversity(faces.train, method.columns, method.picture_of)}
        fit(run, method, faces.train, faces.val)


if __name__ == "__main__":
    main()
