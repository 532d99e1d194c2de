"""Measure smiles on real photos with a known ground truth, and write results/london/<method>.json.

    python scripts/benchmark_london.py baselines
    python scripts/benchmark_london.py vae runs/vae/photos64 [more runs, one for each seed]
    python scripts/benchmark_london.py figure runs/vae/photos64 --out docs/figures/london.png

The Face Research Lab London Set shows each person neutral and smiling, registered to each other. A run edits the
neutral photo of the test persons at strength 1 with each --detail. The same is done for the validation persons, in
separate entries. The edited photo, at full size, is compared with the photo of the true smile: PSNR in the boxes of
mouth and eyes. Sharpness and Nyquist energy are ratios to the neutral photo, in the part that the model sees. A judge
of FER2013 classifies the face (target accuracy: share classified as happy; target gain: mean increase of the
probability). SSIM to the neutral photo replaces an identity metric, because there is no identity network of real
persons.
`figure` draws the first persons of the test part, in order.
"""

import argparse
import contextlib
import io
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.record import ROOT, last_launch, write_record
from data.celeba import read_table
from data.decode import decode
from data.photo import load_face, paste
from editing.editor import Editor, partway
from editing.paint import paint_photo
from editing.subjects import Subjects, join
from engine import Grid, UserError, save_grid
from engine.errors import exit_on_user_error
from engine.grids import to_uint8
from evaluation import classifier
from evaluation.counterfactual import masked_psnr
from evaluation.pictures import nyquist_energy, sharpness, ssim
from families import open_editor

DETAILS = ("warp", "blend", "decode")
PARTS = {"train": 0, "val": 1, "test": 2}
MARGIN = 0.35  # of the boxes of mouth and eyes on every side, in distances between the eyes
CROP = (37, 79, 142, 184)  # px; the part that configs/vae/photos64_cpu.yaml cuts out: sharpness is measured there
CREDIT = "Face Research Lab London Set (DeBruine and Jones, 2017), CC BY 4.0"


@dataclass(frozen=True)
class Persons:
    """N persons. neutral, smiling: photos (N, 3, H, W) uint8; points (N, 5, 2): landmarks of the neutral ones, px."""

    files: list[Path]
    neutral: Tensor
    smiling: Tensor
    points: np.ndarray

    def eyes(self, i: int) -> list[float]:
        """The eyes of one person as `load_face` takes them."""
        return (self.points[i, :2] + 0.5).ravel().tolist()

    def boxes(self, columns: Sequence[int]) -> Tensor:
        """Mask (N, H, W) bool: a box around these landmarks of each person."""
        margin = MARGIN * np.linalg.norm(self.points[:, 1] - self.points[:, 0], axis=1)[:, None]
        chosen = self.points[:, list(columns)]
        low, high = chosen.min(1) - margin, chosen.max(1) + margin
        y, x = np.mgrid[: self.neutral.shape[2], : self.neutral.shape[3]]
        inside = [(x >= a[0]) & (x <= b[0]) & (y >= a[1]) & (y <= b[1]) for a, b in zip(low, high, strict=True)]
        return torch.from_numpy(np.stack(inside))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", help="name of the method, as vae; or baselines; or figure")
    parser.add_argument(
        "runs", nargs="*", type=Path, help="run directories of the method, one for each seed; of a figure one or more"
    )
    parser.add_argument("--data", type=Path, default=Path("datasets/london"), help="the set in CelebA's layout")
    parser.add_argument("--judge", type=Path, default=Path("runs/evaluation/fer2013_cpu"), help="judge of FER2013")
    parser.add_argument("--detail", nargs="+", choices=DETAILS, default=list(DETAILS))
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--n", type=int, default=4, help="number of persons in the figure")
    parser.add_argument("--out", type=Path, help="file to write; default: results/london/<method>.json")
    args = parser.parse_args(argv)
    with exit_on_user_error(), torch.no_grad():
        if args.method == "figure":
            path = figure(args)
        else:
            if (args.method == "baselines") == bool(args.runs):
                raise UserError(f"{args.method}: expected the run directories of a method, or `baselines` without any")
            path = args.out or ROOT / "results" / "london" / f"{args.method}.json"
            facts, runs = measured(args)
            command = shlex.join(["python", "scripts/benchmark_london.py", *(argv or sys.argv[1:])])
            write_record(path, facts | {"command": command}, runs)
        print(f"wrote {path}")


def read_persons(folder: Path, part: str) -> Persons:
    """The persons of a part, in the order of their numbers; image 2k - 1 is neutral, 2k smiling.

    Raises:
        UserError: a file is missing, or a person has not both photos.
    """
    tables = {}
    for name in ("list_eval_partition", "list_attr_celeba", "list_landmarks_align_celeba", "identity_CelebA"):
        if not (folder / f"{name}.txt").is_file():
            raise UserError(f"{folder}: has no {name}.txt; expected the London set in CelebA's layout (docs/photos.md)")
        tables[name] = read_table(folder / f"{name}.txt")
    split, attr = tables["list_eval_partition"], tables["list_attr_celeba"]
    smiles = attr.values[:, attr.header.index("Smiling")] == 1
    by_person: dict[int, dict[bool, int]] = {}
    for i, person in enumerate(tables["identity_CelebA"].values[:, 0].tolist()):
        if split.values[i, 0] == PARTS[part]:
            by_person.setdefault(person, {})[bool(smiles[i])] = i
    pairs = [(both[False], both[True]) for _, both in sorted(by_person.items()) if len(both) == 2]
    if len(pairs) < len(by_person) or not pairs:
        raise UserError(f"{folder}: expected a neutral and a smiling photo of each person of the {part} part")
    files = [[folder / "img_align_celeba" / split.names[i] for i in pair] for pair in pairs]
    pictures = [[torch.from_numpy(decode(f, f.name).transpose(2, 0, 1).copy()) for f in pair] for pair in files]
    neutral, smiling = (torch.stack(column) for column in zip(*pictures, strict=True))
    points = tables["list_landmarks_align_celeba"].values.reshape(-1, 5, 2)[[a for a, _ in pairs]].astype(float)
    return Persons([neutral_file for neutral_file, _ in files], neutral, smiling, points)


def smile(editor: Editor, persons: Persons, details: Sequence[str], strength: float) -> dict[str, Tensor]:
    """{detail: edited photos (N, 3, H, W) uint8}. `decode` is pasted into the photo, so that all have one frame."""
    parts: list[Subjects] = []
    with contextlib.redirect_stderr(io.StringIO()):  # one line a photo about its eyes
        for i, file in enumerate(persons.files):
            parts.append(editor.subjects([str(file)], persons.eyes(i), "Smiling=0"))
    faces = join(parts)
    code, target = editor.codes(faces), editor.target(faces, editor.parse("Smiling=1"))
    before, after = editor.images(code), editor.images(partway(code, target, strength))
    found = {}
    for detail in details:
        pictures = []
        for i, photo in enumerate(faces.photos):
            assert photo is not None
            pair = before[i : i + 1], after[i : i + 1]
            picture = paste(photo, pair[1]) if detail == "decode" else paint_photo(photo, *pair, detail)
            pictures.append(torch.from_numpy(np.array(picture).transpose(2, 0, 1)))
        found[detail] = torch.stack(pictures)
    return found


def happy(judge: classifier.Classifier, images: Tensor, persons: Persons) -> tuple[Tensor, Tensor]:
    """(N,) bool: the judge classifies the face as happy, and (N,) its probability; cut as the faces of the judge."""
    with contextlib.redirect_stderr(io.StringIO()):
        faces = [
            load_face(Image.fromarray(x.permute(1, 2, 0).numpy()), judge.meta, persons.eyes(i)).image
            for i, x in enumerate(images)
        ]
    logits = judge.logits(torch.from_numpy(to_uint8(torch.cat(faces))))
    column, k = judge.classes.index("happy"), len(judge.classes)
    return logits[:, :k].argmax(1) == column, judge.probabilities(logits)[:, column]


def measure(images: Tensor, persons: Persons, judge: classifier.Classifier) -> dict[str, float]:
    """The metrics of edited photos (N, 3, H, W) uint8; means over persons."""
    left, top, right, bottom = CROP
    crop = lambda x: x[:, :, top:bottom, left:right]  # noqa: E731
    ratio = lambda f: float(f(crop(images)).mean() / f(crop(persons.neutral)).mean())  # noqa: E731
    within = partial(masked_psnr, images, persons.smiling)
    hit, p = happy(judge, images, persons)
    return {
        "target accuracy": float(hit.double().mean()),
        "target gain": float((p - happy(judge, persons.neutral, persons)[1]).double().mean()),
        "PSNR mouth": float(within(persons.boxes((3, 4))).mean()),
        "PSNR eyes": float(within(persons.boxes((0, 1))).mean()),
        "sharpness": ratio(sharpness),
        "Nyquist energy": ratio(nyquist_energy),
        "SSIM to source": float(ssim(crop(images), crop(persons.neutral)).mean()),
    }


def baselines(persons: Persons, train: Persons) -> dict[str, Tensor]:
    """No edit, the mean difference of the training persons added, and the true smiles."""
    difference = (train.smiling.float() - train.neutral.float()).mean(0)
    return {
        "no-edit": persons.neutral,
        "class-mean-difference": (persons.neutral + difference).round().clamp(0, 255).byte(),
        "ground-truth": persons.smiling,
    }


def measured(args: argparse.Namespace) -> tuple[dict, list[dict]]:
    """Protocol and runs of the results file; `metrics` are those of the test persons."""
    judge = classifier.load(args.judge, role="judge")
    parts = {part: read_persons(args.data, part) for part in ("val", "test")}
    found = []
    if args.method == "baselines":
        train = read_persons(args.data, "train")
        images = {part: baselines(persons, train) for part, persons in parts.items()}
        found += [({"run": name}, {part: images[part][name] for part in parts}) for name in images["test"]]
    for run in args.runs:
        editor = open_editor(run)
        images = {part: smile(editor, persons, args.detail, args.strength) for part, persons in parts.items()}
        for detail in args.detail:
            found.append((origin_of(editor, run, args.method, detail), {part: images[part][detail] for part in parts}))
    runs = []
    for facts, edits in found:
        metrics = {part: measure(edits[part], persons, judge) for part, persons in parts.items()}
        runs.append(facts | {"metrics": metrics["test"], "metrics_val": metrics["val"]})
        name = facts.get("row", facts["run"])
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in metrics["test"].items()))
    protocol = {
        "data": CREDIT,
        "persons": {part: len(persons.files) for part, persons in parts.items()},
        "request": "Smiling=1 of the neutral photo",
        "strength": args.strength,
        "judge": {"run": str(args.judge), "step": judge.origin.step, "sha256": judge.origin.sha256},
    }
    return {"benchmark": "london", "method": args.method, "protocol": protocol}, runs


def origin_of(editor: Editor, run: Path, method: str, detail: str) -> dict:
    """Row, weights and cost of a run."""
    origin = editor.method.origin
    facts = {"row": f"{method}, {detail}", "run": str(run), "step": origin.step, "sha256": origin.sha256}
    return facts | {"seed": last_launch(run).get("seed")}


def figure(args: argparse.Namespace) -> Path:
    """Photo, the smile of each run (--detail warp unless given), true smile, of the first test persons."""
    if not args.runs or args.out is None:
        raise UserError("figure: expected one or more run directories, and --out FILE.png")
    persons = read_persons(args.data, "test")
    first = Persons(persons.files[: args.n], *(x[: args.n] for x in (persons.neutral, persons.smiling, persons.points)))
    details = args.detail if len(args.detail) < len(DETAILS) else ["warp"]
    rows, names = [first.neutral], ["photo"]
    for run in args.runs:
        editor = open_editor(run)
        system = getattr(editor.method.cfg, "system", run.resolve().parent.name)
        for detail, images in smile(editor, first, details, args.strength).items():
            rows.append(images)
            names.append(system + (f"\n{detail}" if len(details) > 1 else ""))
    pictures = torch.stack([*rows, first.smiling]).float() / 127.5 - 1
    return save_grid(Grid(pictures, [*names, "true smile"]), args.out, 1)


if __name__ == "__main__":
    main()
