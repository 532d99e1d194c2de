"""Train an encoder for the generator of RUN: `train_encoder.py --config FILE --run-dir RUN/encoder generator=RUN`.

The generator's run gives the data and the sizes. The editor of RUN uses the encoder in RUN/encoder.
"""

import logging

from data import build_faces
from engine import fit, load, start
from interface_gan.config import Config, EncoderConfig
from interface_gan.encoder import EncoderMethod, resolve_generator
from interface_gan.train import StyleGAN2

logger = logging.getLogger("faces")


def main(argv: list[str] | None = None) -> None:
    with start(EncoderConfig, resolve=resolve_generator, argv=argv) as run:
        faces = build_faces(run.cfg.data)
        method = EncoderMethod(run.cfg, faces.meta)
        method.use_generator(load(run.cfg.generator, Config, StyleGAN2, device="cpu"))
        logger.info(f"encoder {sum(p.numel() for p in method.encoder.parameters()) / 1e6:.2f} M parameters")
        fit(run, method, faces.train, faces.val)


if __name__ == "__main__":
    main()
