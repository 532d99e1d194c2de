"""Train the system of the key `system`: `python gcgan/train.py --config FILE [key=value ...]`."""

import logging

from data import Faces, build_faces
from engine import Method, UserError, fit, load, start
from gcgan.config import CONFIGS
from gcgan.gc_gan import GCGAN
from gcgan.geometry import LandmarkBank
from gcgan.paper import PaperGCGAN
from gcgan.stargan import StarGAN

logger = logging.getLogger("faces")
METHODS = {"stargan": StarGAN, "gcgan": GCGAN, "gcgan_paper": PaperGCGAN}


def prepare_landmarks(method: GCGAN, faces: Faces) -> str:
    """Give the method its training landmarks and, with loss.geometry_from, landmark networks of another run.

    Returns a line for the log. Raises UserError if persons are needed but unknown.
    """
    w = method.cfg.loss
    bank = LandmarkBank.of(faces.train, method.labels.num)
    if w.geometry_decoder == "swap" and not w.geometry_from and not bank.has_persons:
        raise UserError(
            "loss.geometry_decoder: swap rebuilds another face of the same person, and these data have persons with "
            "one face or none at all; set loss.geometry_decoder=plain, or loss.geometry_from to a run of other data"
        )
    method.use_bank(bank)
    line = f"{len(bank)} training faces with landmarks"
    if not w.geometry_from:
        return line
    teacher = load(w.geometry_from, CONFIGS, METHODS, device="cpu")
    if not isinstance(teacher, GCGAN) or teacher.cfg.model.code_dim != method.cfg.model.code_dim:
        raise UserError(f"loss.geometry_from: {w.geometry_from} is no GC-GAN run with the same model.code_dim")
    if teacher.cfg.loss.geometry_decoder != w.geometry_decoder:
        raise UserError(f"loss.geometry_decoder: {w.geometry_from} was trained with another value; set the same")
    for name in ("encoder", "decoder"):
        getattr(method, name).load_state_dict(getattr(teacher, name).state_dict())
    method.mean_shape.copy_(teacher.mean_shape)
    method.shape_scale.copy_(teacher.shape_scale)
    return f"{line}; landmark networks of {w.geometry_from} (sha256 {teacher.origin.sha256})"


def prepare(method: Method, faces: Faces) -> None:
    """Prepare each system before step 0."""
    cfg = method.cfg
    if isinstance(method, PaperGCGAN):
        logger.info(f"gcgan_paper: {cfg.train.total_steps} batches, {cfg.loss.n_critic} critic updates on each")
        return
    first = 0
    if isinstance(method, GCGAN):
        logger.info(prepare_landmarks(method, faces))
        first = cfg.geometry_steps
        logger.info(f"{first} steps of landmarks alone; pairs: {'paired' if cfg.paired else 'unpaired'}")
    updates = cfg.train.total_steps - first
    logger.info(f"{cfg.system}: {updates} critic updates, {updates // cfg.loss.n_critic} generator updates")


def main(argv: list[str] | None = None) -> None:
    with start(CONFIGS, argv=argv) as run:
        faces = build_faces(run.cfg.data)
        method = METHODS[run.cfg.system](run.cfg, faces.meta)
        prepare(method, faces)
        fit(run, method, faces.train, faces.val)


if __name__ == "__main__":
    main()
