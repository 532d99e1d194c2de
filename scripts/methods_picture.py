"""Write the picture of all methods: the first test faces under every method and expression.

    python scripts/methods_picture.py [--out docs/figures/methods.png] [--faces 1] [TITLE=RUN ...]

Without runs it shows those of the benchmark's table (seed 0) that are trained, and names the others. The faces are not
chosen: they are the first ones of the first persons of the test set. The class that the judge predicts is below
each face.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from benchmarks.picture import first_faces, methods_grid
from benchmarks.systems import SYSTEMS
from editing.editor import Editor
from engine import UserError, save_grid
from engine.errors import exit_on_user_error
from engine.files import atomic_text
from evaluation.real import data_config
from families import open_editor

ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="TITLE=RUN", help="runs to show; default: the benchmark's")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "methods.png")
    parser.add_argument("--faces", type=int, default=1, help="number of faces")
    parser.add_argument("--judge", type=Path, default=Path("runs/evaluation/synthetic32"), help="a judge's run")
    parser.add_argument("--data", default="configs/evaluation/synthetic32.yaml", help="YAML file of the test faces")
    args = parser.parse_intermixed_args(argv)
    with exit_on_user_error():
        editors = {title: open_editor(run) for title, run in chosen_runs(args.runs).items()}
        faces = first_faces(data_config(ROOT / args.data), args.faces)
        save_grid(methods_grid(editors, faces, args.judge), args.out)
        command = shlex.join(["python", "scripts/methods_picture.py", *(sys.argv[1:] if argv is None else argv)])
        facts = {"command": command, "faces": faces.names, "judge": str(args.judge), "runs": origins(editors)}
        atomic_text(args.out.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
        print(f"wrote {args.out} and {args.out.with_suffix('.json')}")


def chosen_runs(texts: list[str]) -> dict[str, Path]:
    """{title: run directory} of the command line, else of the systems of drawn32 that are trained.

    Raises:
        UserError: a text without a title, or no run is trained.
    """
    if texts:
        pairs = [text.partition("=") for text in texts]
        if bad := next((title for title, _, run in pairs if not run), ""):
            raise UserError(f"{bad}: expected TITLE=RUN, as VAE=runs/vae/synthetic32")
        return {title: Path(run) for title, _, run in pairs}
    found = {}
    for system in (system for system in SYSTEMS if "drawn32" in system.benchmarks):
        run = system.run_dir(Path("runs"))
        if (run / "config.yaml").is_file():
            found[system.title] = run
        else:
            print(f"note: {system.title} is left out, {run} is not trained")
    if not found:
        raise UserError("runs/: no method is trained; run `make benchmark`")
    return found


def origins(editors: dict[str, Editor]) -> dict[str, dict]:
    """Run, step and hash of the weights of each method."""
    return {title: vars(editor.method.origin) for title, editor in editors.items()}


if __name__ == "__main__":
    main()
