"""Flip Male and Young on test faces of FairFace, and write results/fairface/<method>.json.

    python scripts/benchmark_fairface.py baselines runs/vae/photos64_fairface
    python scripts/benchmark_fairface.py vae runs/vae/photos64_fairface
    python scripts/benchmark_fairface.py figure runs/aae_cgan/photos64_fairface --n 4 --out fairface.png

RUN is a run on FairFace (docs/photos.md). Its test faces are edited at strength 1 with each --detail. `baselines`
measures no edit and the class-mean difference on the same faces. `figure` draws the first n photos with both flips.
The judge is linear: a logistic regression on 24 x 24 px, trained on the training faces. Its accuracy on real test faces
is also written. A weak overlay of another face is enough to change its prediction. So read target accuracy together
with sharpness, Nyquist energy and SSIM.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record import ROOT, run_facts, write_record
from data.photo import load_face
from editing.editor import Editor
from editing.paint import paint, paint_photo
from editing.subjects import Subjects
from engine import Grid, UserError, save_grid
from engine.errors import exit_on_user_error
from evaluation.pictures import nyquist_energy, sharpness, ssim
from families import open_editor
from losses.quantise import to_bytes

DETAILS = ("warp", "blend", "decode")
ATTRIBUTES = ("Male", "Young")
SIDE = 24  # px of the linear judge
FIGURE_SIDE = 192  # px of a photo of `figure`


class LinearJudge:
    """One logistic regression for each attribute, on pixels of 24 x 24."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        """images (N, C, H, W) uint8; labels (N, A) in {0, 1}."""
        x = self.features(images)
        self.mean, self.scale = x.mean(0), x.std()
        fit = lambda y: LogisticRegression(C=0.01, max_iter=500).fit((x - self.mean) / self.scale, y)  # noqa: E731
        self.models = [fit(labels[:, a].numpy()) for a in range(labels.shape[1])]

    @staticmethod
    def features(images: Tensor) -> np.ndarray:
        small = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        return small.flatten(1).numpy()

    def predict(self, images: Tensor) -> Tensor:
        """(N, A) bool."""
        x = (self.features(images) - self.mean) / self.scale
        return torch.from_numpy(np.stack([model.predict(x) > 0.5 for model in self.models], 1))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", help="name of the method, as vae; baselines; or figure")
    parser.add_argument("run", type=Path, help="run directory on FairFace")
    parser.add_argument("--detail", nargs="+", choices=DETAILS, default=list(DETAILS))
    parser.add_argument("--n", type=int, default=200, help="number of test faces")
    parser.add_argument("--out", type=Path, help="file to write; default: results/fairface/<method>.json")
    args = parser.parse_args(argv)
    with exit_on_user_error(), torch.no_grad():
        if args.method == "figure":
            print(f"wrote {figure(args)}")
            return
        path = args.out or ROOT / "results" / "fairface" / f"{args.method}.json"
        facts, runs = measured(args)
        command = shlex.join(["python", "scripts/benchmark_fairface.py", *(argv or sys.argv[1:])])
        write_record(path, facts | {"command": command}, runs)
        print(f"wrote {path}")


def labelled(editor: Editor, split: str, n: int, names: Sequence[str]) -> tuple[Subjects, Tensor]:
    """n faces of a split (0 = all) whose attributes `names` are known, and those attributes (N, A)."""
    places = [int(name.partition(":")[2]) for name in editor.spread(split, n)]
    faces = editor.take(split, places)
    labels = faces.batch["attr"][:, [editor.meta["attributes"].index(name) for name in names]]
    known = labels.isfinite().all(1).nonzero()[:, 0].tolist()
    return faces.select(known), labels[known]


def figure(args: argparse.Namespace) -> Path:
    """The first n test photos at their own size, and each attribute flipped (--detail warp)."""
    if args.out is None:
        raise UserError("figure: give a file to write with --out FILE.png")
    editor = open_editor(args.run)
    names = [name for name in ATTRIBUTES if name in editor.attributes]
    faces, _ = labelled(editor, "test", args.n, names)
    files = sorted((Path(editor.method.cfg.data.root) / "img_align_celeba").iterdir())
    photos = [load_face(files[i], editor.meta, "whole") for i in faces.batch["index"].tolist()]
    before, rows = editor.reconstruct(faces), [[photo.photo for photo in photos]]
    for name in names:
        after = editor.edit(faces, editor.parse(f"{name}=flip"))[0]
        each = zip(photos, before.split(1), after.split(1), strict=True)
        rows.append([paint_photo(photo, a, b, "warp") for photo, a, b in each])
    tensor = lambda picture: torch.from_numpy(np.array(picture.resize((FIGURE_SIDE,) * 2)))  # noqa: E731
    images = torch.stack([torch.stack([tensor(picture) for picture in row]) for row in rows]).permute(0, 1, 4, 2, 3)
    return save_grid(Grid(images.float() / 127.5 - 1, ["photo", *(f"{name} flipped" for name in names)]), args.out, 1)


def edits(editor: Editor, faces: Subjects, names: Sequence[str], details: Sequence[str]) -> dict[str, list[Tensor]]:
    """{detail: the faces with each attribute flipped, (N, C, H, W) uint8}."""
    before, found = editor.reconstruct(faces), {detail: [] for detail in details}
    for name in names:
        after = editor.edit(faces, editor.parse(f"{name}=flip"))[0]
        for detail in details:
            found[detail].append(to_bytes(paint(faces.images, before, after, detail)))
    return found


def baseline_edits(x: Tensor, y: Tensor, train_x: Tensor, train_y: Tensor) -> dict[str, list[Tensor]]:
    """No edit, and the difference of the class means added; images (N, C, H, W) uint8, labels (N, A) in {0, 1}."""
    flipped = []
    for a in range(y.shape[1]):
        without, with_it = (train_x[train_y[:, a] == side].float().mean(0) for side in (0, 1))
        sign = (1 - 2 * y[:, a])[:, None, None, None]
        flipped.append((x + sign * (with_it - without)).round().clamp(0, 255).byte())
    return {"no-edit": [x] * y.shape[1], "class-mean-difference": flipped}


def measure(images: list[Tensor], x: Tensor, y: Tensor, names: Sequence[str], judge: LinearJudge) -> dict:
    """Metrics of the edits of each attribute; faces that have the target in the judge's eyes already count too."""
    hits = {name: float((judge.predict(e)[:, a] != (y[:, a] > 0.5)).double().mean()) for a, (name, e) in enumerate(
        zip(names, images, strict=True)
    )}  # fmt: skip
    mean = lambda f: sum(float(f(e)) for e in images) / len(images)  # noqa: E731
    return {
        "metrics": {
            "target accuracy": sum(hits.values()) / len(hits),
            "sharpness": mean(lambda e: sharpness(e).mean() / sharpness(x).mean()),
            "Nyquist energy": mean(lambda e: nyquist_energy(e).mean() / nyquist_energy(x).mean()),
            "SSIM to source": mean(lambda e: ssim(e, x).mean()),
        },
        "per_target": hits,
    }


def measured(args: argparse.Namespace) -> tuple[dict, list[dict]]:
    """Protocol and runs of the results file."""
    editor = open_editor(args.run)
    names = [name for name in ATTRIBUTES if name in editor.attributes]
    if not names:
        raise UserError(f"{args.run}: its data have none of {', '.join(ATTRIBUTES)}; expected a run on FairFace")
    (train, train_y), (faces, y) = (labelled(editor, split, n, names) for split, n in (("train", 0), ("test", args.n)))
    train_x, x = to_bytes(train.images), to_bytes(faces.images)
    judge = LinearJudge(train_x, train_y)
    accuracy = (judge.predict(x) == (y > 0.5)).double().mean(0)
    if args.method == "baselines":
        images = baseline_edits(x, y, train_x, train_y)
        facts = {name: {"run": name} for name in images}
    else:
        origin = editor.method.origin
        fact = run_facts(args.run) | {"step": origin.step, "sha256": origin.sha256}
        images = edits(editor, faces, names, args.detail)
        facts = {detail: {"row": f"{args.method}, {detail}"} | fact for detail in args.detail}
    runs = [facts[name] | measure(images[name], x, y, names, judge) for name in facts]
    for run in runs:
        print(run.get("row", run["run"]), {k: round(v, 3) for k, v in run["metrics"].items()}, run["per_target"])
    protocol = {"data": "FairFace (CC BY 4.0), near-frontal adults", "faces": len(x), "targets": list(names)}
    protocol |= {"strength": 1.0, "judge": f"logistic regression on {SIDE} x {SIDE} px"}
    protocol |= {"judge_accuracy": dict(zip(names, accuracy.tolist(), strict=True))}
    return {"benchmark": "fairface", "method": args.method, "protocol": protocol}, runs


if __name__ == "__main__":
    main()
