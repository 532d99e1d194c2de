"""Regression test of images: edits of every family on runs of 40 steps, saved as tensors and compared later.

    python scripts/golden.py save DIR      # before a change: train the missing runs, write tensors
    python scripts/golden.py compare DIR   # after the change: the same images with the new code

If a change must not alter any image, `compare` must print "equal" for every run.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data import synthetic
from editing.editor import Editor
from editing.paint import paint, paint_photo
from engine import UserError
from engine.errors import exit_on_user_error
from families import open_editor

ROOT = Path(__file__).resolve().parent.parent
STRENGTHS = [-0.5, 0.0, 0.5, 1.0, 1.5]
FACES = [f"test:{i}" for i in (0, 9, 18, 27, 36, 45)]
EYES = "65.4,65.1,90.6,65.1"  # of the face that `draw_photo` draws
TOLERANCE = {"aae_cgan": 2e-6, "aae_cgan_attributes": 2e-6}  # rounding in blended images; the others must be equal
SMALL = [
    *("data.num_train=600", "data.num_val=64", "data.num_test=64", "train.total_steps=40", "train.save_every=40"),
    *("train.sample_every=40", "train.validate_every=40", "train.log_every=10", "train.val_images=64"),
]
RUNS = {  # name: (config, overrides)
    "vae": ("vae/synthetic32", ["model.latent_dim=16"]),
    "aae_cgan": ("aae_cgan/synthetic32", ["model.latent_dim=32"]),
    "aae_cgan_attributes": (
        "aae_cgan/synthetic32",
        *[["model.latent_dim=32", "data.balanced=false", "model.condition=attributes",
           "data.attributes=[Smiling,Eyeglasses,Male]"]],
    ),
    "flow": ("flow/synthetic32", []),
    "flow_unconditional": ("flow/synthetic32", ["model.condition=none"]),
}  # fmt: skip
# For each run: options of the family, and the requests with these options.
CLASSES = ["happy", "happy=0"]
CASES: dict[str, list[tuple[dict, list[str]]]] = {
    "vae": [
        (
            {"kind": kind, "num_neighbors": 20},
            [*CLASSES, "Smiling=flip", "Smiling=0.7", "Smiling=+1.5", "Male=flip;sad"],
        )
        for kind in ("transport", "knn", "ols", "balanced", "mean")
    ],
    "aae_cgan": [({}, [*CLASSES, "happy=0.5 surprise=0.3", "sad=0.7"])],
    "aae_cgan_attributes": [({}, ["Smiling=flip", "Smiling=1 Eyeglasses=flip", "Male=0.3"])],
    "flow": [
        ({"kind": "auto"}, [*CLASSES, "happy=0.5", "Smiling=flip", "Smiling=+0.5"]),
        ({"kind": "label", "gain": "1.0"}, [*CLASSES, "happy=0.5"]),
        ({"kind": "ols", "gain": "auto"}, [*CLASSES, "Smiling=flip"]),
        ({"kind": "mean"}, [*CLASSES, "Smiling=flip"]),
        ({"kind": "ols", "keep": ("Male",), "levels": "2,3"}, ["happy"]),
    ],
    "flow_unconditional": [({"kind": "auto"}, [*CLASSES, "Smiling=flip"]), ({"kind": "mean"}, CLASSES)],
}


def train(name: str, folder: Path) -> Path:
    """The run directory; trains the run if it is missing."""
    config, overrides = RUNS[name]
    run = folder / "runs" / name
    if not any((run / "checkpoints").glob("step_0000040.pt")):
        script, file = f"{config.split('/')[0]}/train.py", f"configs/{config}.yaml"
        command = [sys.executable, script, "--config", file, "--run-dir", str(run), *SMALL, *overrides]
        subprocess.run(command, cwd=ROOT, check=True)
    return run


def pictures(name: str, run: Path, photo: Path) -> dict[str, Tensor]:
    """{name: image} of one run; images in [-1, 1], photos uint8."""
    editor = open_editor(run, device="cpu")
    faces = editor.subjects(FACES)
    before = editor.reconstruct(faces)
    found = {"reconstruct": before}
    for options, requests in CASES[name]:
        editor.options = editor.options_class(**options)
        for text in requests:
            edits = editor.edit(faces, editor.parse(text), STRENGTHS)
            for strength, after in zip(STRENGTHS, edits, strict=True):
                key = f"{list(options.values())} {text} {strength}"
                found[f"{key} decode"] = after
                found[f"{key} blend"] = paint(faces.images, before, after, "blend")
    editor.options = editor.options_class()
    for n in (2, 4):
        found[f"mix of {n}"] = editor.mix(faces.select(range(n)), 3)
    own = editor.subjects([str(photo)], EYES)
    request = editor.targets()[3 if editor.classes else 0]
    pasted = paint_photo(own.photos[0], editor.reconstruct(own), editor.edit(own, request)[0], "blend")
    found["photo"] = torch.from_numpy(np.asarray(pasted).copy())
    found["draw"] = draws(editor)
    return found


def draws(editor: Editor) -> Tensor:
    """Four generated faces, and their edits."""
    faces = editor.draw(range(4))
    return torch.stack([faces.images, editor.edit(faces, editor.targets()[0])[0]])


def draw_photo(path: Path) -> Path:
    """A photo with a drawn face in it."""
    face = synthetic.render(synthetic.factors(0, np.arange(1) + 7), 96)[0].transpose(1, 2, 0)
    picture = np.full((140, 180, 3), 90, np.uint8)
    picture[20:116, 30:126] = face
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def difference(name: str, old: dict[str, Tensor], new: dict[str, Tensor]) -> tuple[int, str]:
    """Number of missing or changed images, and a message."""
    largest, changed = 0.0, []
    for key, value in old.items():
        if key not in new or new[key].shape != value.shape:
            changed.append(key)
            continue
        error = (new[key].float() - value.float()).abs().max().item()
        largest = max(largest, error)
        if error > TOLERANCE.get(name, 0.0):
            changed.append(key)
    what = "equal" if not changed else f"{len(changed)} of {len(old)} differ, the first: {changed[0]}"
    return len(changed), f"{name}: {what} ({len(old)} pictures, largest difference {largest:.2g})"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["save", "compare"])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--only", nargs="*", choices=list(RUNS), default=list(RUNS), help="some of the runs")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        photo, changed = draw_photo(args.folder / "photo.png"), 0
        for name in args.only:
            path, found = args.folder / f"{name}.pt", pictures(name, train(name, args.folder), photo)
            if args.what == "save":
                torch.save(found, path)
                print(f"{name}: {len(found)} pictures in {path}")
            elif not path.is_file():
                raise UserError(f"{path}: is missing; run `python scripts/golden.py save {args.folder}` first")
            else:
                count, sentence = difference(name, torch.load(path, weights_only=True), found)
                changed += count
                print(sentence)
        raise SystemExit(1 if changed else 0)


if __name__ == "__main__":
    main()
