"""Use a trained run: `python aae_cgan/sample.py MODE --run-dir runs/aae_cgan/NAME ...`.

Every mode writes an image or a folder, and beside it a JSON with command, step, seed and the hash of the weights. A
face is a file (your own photo), `test:12` (a face of the run's data) or `seed:7` (a generated face).

"""

import argparse

from aae_cgan.editor import Editor
from aae_cgan.report import add_report, run_curve, run_latent, run_report
from editing.cli import Mode, sample_main
from editing.subjects import SPLITS


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")


MODES = {
    "latent": Mode(run_latent, "statistics of codes against the prior", _add_split),
    "curve": Mode(run_curve, "loss curves, with the phases shaded"),
    "report": Mode(run_report, "reconstruction, diversity, sharpness; with a judge the confusion of edits", add_report),
}


def main(argv: list[str] | None = None) -> None:
    sample_main(Editor, MODES, __doc__.splitlines()[0], argv)


if __name__ == "__main__":
    main()
