"""Write a trained run as one small file, with a model card.

    python scripts/release.py runs/aae_cgan/synthetic32              # pretrained/aae_cgan.safetensors and .md
    python scripts/release.py runs/evaluation/synthetic32 --name judge

`open_editor("pretrained/aae_cgan")`, `sample.py --run-dir pretrained/aae_cgan` and `scripts/edit.py --run
pretrained/aae_cgan` then work as with the run, and need no data set. A judge can be released too.
"""

import argparse
import json
import shlex
from importlib import import_module
from pathlib import Path

import torch
import yaml

from benchmarks.record import last_launch
from data.labels import label_names
from editing.editor import TYPICAL_LIMIT, Editor
from editing.release import LIMIT, SUFFIX, Packed, pack, read_about, unpacked
from editing.subjects import Subjects
from engine import UserError
from engine.config import read_system
from engine.errors import exit_on_user_error
from engine.files import atomic_text, sha256
from evaluation.classifier import TEST_METRICS
from families import family_of, open_editor
from losses.image_metrics import psnr

ROOT = Path(__file__).resolve().parent.parent
JUDGE_TRAINING_ONLY = ("net.", "persons")
SYSTEMS = {"gcgan": "", "a2f": "a2f_"}  # families with several systems: prefix of a system's name
LICENCE = "The code and the weights have the MIT licence of this repository."
DRAWN = "This repository draws the faces itself (`data/drawn/`), so they are nobody's and need no licence."
NUM_CHECKED = 16  # faces whose edits are compared before and after rounding


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory of any family, or of evaluation.train_classifier")
    parser.add_argument("--out", type=Path, default=Path("pretrained"), help="folder to write")
    parser.add_argument("--name", help="name of the release; default: the family or the system")
    parser.add_argument(
        "--credit", default="", help="source and licence of the training data; for drawn faces not needed"
    )
    parser.add_argument("--max-mb", type=float, default=LIMIT / 2**20, help="largest size of the file in MiB")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        family = "evaluation" if is_classifier(args.run) else family_of(args.run)
        launch = last_launch(args.run) | {"family": family}
        if (
            json.loads((args.run / "meta.json").read_text(encoding="utf-8"))["dataset"] != "synthetic"
            and not args.credit
        ):
            raise UserError(
                f"{args.run}: was not trained on drawn faces; state source and licence of its data: --credit"
            )
        path = args.out / f"{args.name or default_name(args.run, launch)}{SUFFIX}"
        limit = int(args.max_mb * 2**20)
        if launch["family"] == "evaluation":
            packed = pack(args.run, path, JUDGE_TRAINING_ONLY, [args.run / TEST_METRICS], limit)
            rounding, names = "", label_names(json.loads((args.run / "meta.json").read_text(encoding="utf-8")))
        else:
            editor = open_editor(args.run, device="cpu")
            files, names = fitted_files(editor), [*editor.classes, *editor.attributes]
            packed = pack(editor.run_dir, path, editor.training_only, files, limit)
            rounding = compare(editor, open_editor(unpacked(path), device="cpu"))
        card = model_card(packed, args.run, launch, names, rounding, args.credit)
        atomic_text(path.with_suffix(".md"), card)
        print(f"wrote {path} ({packed.size / 2**20:.2f} MiB, {' and '.join(forms(packed))}) and its card\n{rounding}")


def is_classifier(run: Path) -> bool:
    """True for a run of evaluation.train_classifier: its model has a role."""
    return "role" in yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["model"]


def default_name(run: Path, launch: dict) -> str:
    """The family, or the system of a family with several."""
    family = launch["family"]
    if family in SYSTEMS:
        return SYSTEMS[family] + read_system(run / "config.yaml", (), import_module(f"{family}.config").CONFIGS)
    return run.resolve().name if family == "evaluation" else family


def fitted_files(editor: Editor) -> list[Path]:
    """The files that edits need, and the limit that photos are compared with; both are made if missing.

    Raises:
        UserError: the run labels faces by a guide of another run, which a release cannot hold.
    """
    guide = getattr(editor.method, "guide", None)
    if getattr(guide, "run", ""):
        raise UserError(f"{editor.run_dir}: needs the guide {guide.run} to label photos; train with loss.guide=own")
    files = editor.fitted()
    if "read" not in editor.unsupported:
        path = editor.run_dir / TYPICAL_LIMIT
        held = {"sha256": editor.method.origin.sha256, "typical_limit": editor.typical_limit}
        atomic_text(path, json.dumps(held))
        files = [*files, path]
    return files


@torch.no_grad()
def compare(run: Editor, release: Editor) -> str:
    """PSNR of the images of a release against those of its run: a sentence.

    Raises:
        UserError: the release gives images that are not finite.
    """
    if "read" in run.unsupported:
        names = [f"seed:{i}" for i in range(NUM_CHECKED)]
        faces = [run.subjects(names), release.subjects(names)]
    else:
        names = run.spread("test", NUM_CHECKED)
        test = run.subjects(names)
        faces = [test, Subjects(test.batch, names)]  # with labels and landmarks, without the code of the run
    before, after = (
        [editor.reconstruct(given), *(editor.edit(given, request)[0] for request in run.targets())]
        for editor, given in zip((run, release), faces, strict=True)
    )
    recon, *edits = [float(psnr(a, b).mean()) for a, b in zip(before, after, strict=True)]
    if not all(value > 0 for value in (recon, *edits)):  # NaN is not
        raise UserError(f"{release.run_dir}: its images are not those of {run.run_dir}; a needed weight is left out")
    kind = "generated" if "read" in run.unsupported else "test"
    return (
        f"Rounding: images of the release against those of the run, {NUM_CHECKED} {kind} faces: PSNR {recon:.1f} dB "
        f"(reconstructions), {min(edits):.1f} to {max(edits):.1f} dB ({len(edits)} edits)."
    )


def forms(packed: Packed) -> list[str]:
    """How weights and tables are stored."""
    names = ["float16" if bits == 16 else f"{bits}-bit integers with a scale per row" for bits in packed.bits]
    return [f"weights: {names[0]}", f"large fitted tables: {names[1]}"]


def model_card(packed: Packed, run: Path, launch: dict, names: list[str], rounding: str, credit: str) -> str:
    """The card in Markdown. names: the labels that can be edited or, of a judge, predicted."""
    about = read_about(packed.path)
    meta = about["meta"]
    drawn = meta["dataset"] == "synthetic"
    name, family = packed.path.stem, launch["family"]
    counts = ", ".join(f"{meta[f'num_{split}']:,} {split}" for split in ("train", "val", "test"))
    cost = f", {launch['cpu_seconds'] / 60:.0f} CPU-minutes" if launch.get("cpu_seconds") else ""
    if family == "evaluation":
        kind = "identity" if name == "identity" else "judge"
        what, use = "a judge", f"python scripts/serve.py --{kind} pretrained/{name}"
    else:
        faces = "test:0 test:9" if family == "gcgan" else "seed:0 seed:1"
        what, use = "all that its editor needs", f"python {family}/sample.py strip --run-dir pretrained/{name} {faces}"
        if not drawn:
            use = f"python {family}/sample.py edit me.jpg --run-dir pretrained/{name} --attr {names[-1]}"
    labels = f"{len(meta['classes'])} expressions and {len(meta['attributes'])} attributes"
    return f"""# {name}

A run of `{family}/`: {what}. How it works and what it cannot do: [{family}/README.md](../{family}/README.md).

```
{use}
```

| | |
| --- | --- |
| data | {"drawn faces" if drawn else meta["dataset"]}: {counts}; {meta["image_size"]} x {meta["image_size"]} px, {meta["channels"]} channels; {labels} |
| labels | {", ".join(names) or "none"} |
| command | `{shlex.join(["python", *_relative(launch["command"])])}` |
| commit | `{launch["commit"]}`{" (with changes)" if launch.get("dirty") else ""} |
| seed | {launch["seed"]} |
| step | {about["step"]:,}{cost} |
| checkpoint | sha256 `{about["sha256"]}` |
| file | {packed.size / 1e6:.2f} MB, sha256 `{sha256(packed.path)}` |
| stored as | {"; ".join(forms(packed))}; vectors: exact; small matrices: float16 |

{rounding or "Rounding was not measured."}

## Figures

{figures(about["sha256"], run) or "None is measured for this checkpoint in `results/`."}

## Licence

{LICENCE} {DRAWN if drawn else f"Training data: {credit}."} Read [docs/ethics.md](../docs/ethics.md) before you edit the face of another person.
"""  # noqa: E501


def _relative(command: list[str]) -> list[str]:
    """A command without the folders of the machine that it ran on."""
    return [f"{Path(word).parent.name}/{Path(word).name}" if word.startswith("/") else word for word in command]


def figures(digest: str, run: Path) -> str:
    """Tables of the results of this checkpoint (with the unrounded weights); for a judge its test metrics."""
    parts = []
    for path in sorted((ROOT / "results").glob("*/*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for found in record["runs"]:
            if found.get("sha256") == digest:
                known = {key: value for key, value in found["metrics"].items() if value is not None}
                rows = [f"| {key} | {value:.3f} |" for key, value in known.items()]
                place = f"results/{path.parent.name}/{path.name}" + (f", row {found['row']}" if "row" in found else "")
                parts.append(
                    f"`{record['command']}` ({place}), the weights before rounding, "
                    f"{measured_on(record['protocol'])}:\n\n| | |\n| --- | ---: |\n" + "\n".join(rows)
                )
    metrics = run / TEST_METRICS
    if metrics.is_file():
        test = json.loads(metrics.read_text(encoding="utf-8")).get("test", {})
        rows = [
            f"| {head}: {key} | {value:.4g} |"
            for head, each in test.items()
            for key, value in each.items()
            if isinstance(value, (int, float))
        ]
        parts.append("Test split, with the weights before rounding:\n\n| | |\n| --- | ---: |\n" + "\n".join(rows))
    return "\n\n".join(parts)


def measured_on(protocol: dict) -> str:
    """The images of a benchmark in words."""
    if "samples" in protocol:
        return f"{protocol['samples']:,} generated faces"
    if "persons" in protocol:
        return f"{protocol['persons']['test']} test persons"
    return f"{protocol['faces']} test faces, {len(protocol['targets'])} targets"


if __name__ == "__main__":
    main()
