"""Use a trained run: `python gcgan/sample.py MODE --run-dir runs/gcgan/NAME ...`.

Each mode writes an image or a folder, and a JSON file with its command, step, seed and the hash of the weights. A face
is a file (your own photo) or `test:12` (a face of the run's data).
"""

from editing.cli import Mode, sample_main
from gcgan.editor import Editor
from gcgan.modes import add_cross, add_sheet, run_cross, run_sheet
from gcgan.motion import add_drive, add_transition, run_drive, run_transition
from gcgan.report import add_embed, add_report, run_curve, run_embed, run_report
from gcgan.transfer import add_transfer, run_transfer

MODES = {
    "sheet": Mode(run_sheet, "every expression of each face, with D's score and the class that D reads", add_sheet),
    "transition": Mode(run_transition, "a face through several expressions, and how evenly it goes", add_transition),
    "cross": Mode(run_cross, "rows: persons; columns: faces whose expression they take (GC-GAN)", add_cross),
    "drive": Mode(run_drive, "a face with the expressions of another person's frames (GC-GAN)", add_drive),
    "transfer": Mode(run_transfer, "a folder for evaluation/: each face with other persons' expressions", add_transfer),
    "embed": Mode(run_embed, "what codes of landmarks know of expression and person (GC-GAN)", add_embed),
    "report": Mode(run_report, "cycle, sharpness; with a judge target accuracy, confusion, worst edits", add_report),
    "curve": Mode(run_curve, "losses and D's statistics against steps"),
}


def main(argv: list[str] | None = None) -> None:
    sample_main(Editor, MODES, __doc__.splitlines()[0], argv)


if __name__ == "__main__":
    main()
