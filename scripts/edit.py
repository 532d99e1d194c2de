"""Edit photos with several trained runs and compare the results.

    python scripts/edit.py me.jpg holiday/ --run runs/vae/celeba64 runs/aae_cgan/celeba64 --attr Smiling=1 [--out edits]

OUT/<run>_<photo> is the edited photo at its own size. OUT/sheet.png shows the faces of these photos, with one row per
photo and one column per run.
A photo that cannot be used is reported and skipped. So is a run that does not support the request.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from data.photo import crop_of
from editing.changes import describe_changes, format_changes
from editing.editor import partway
from editing.modes import take_images
from editing.paint import DETAIL_HELP, DETAILS, detail_of, paint_photo, photo_suffix, save_photo
from editing.record import check_outputs, unique_paths
from editing.sheets import same_size
from editing.subjects import expand_folders
from engine import Grid, UserError, save_grid
from engine.errors import exit_on_user_error
from engine.files import atomic_text
from families import open_editor

SIDE = 192  # px of a face on the sheet


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", help="photos or folders of photos")
    parser.add_argument("--run", nargs="+", type=Path, required=True, help="run directories, of any family")
    parser.add_argument("--attr", nargs="+", required=True, help="happy, happy=0.7, Smiling=1, Male=flip")
    parser.add_argument("--from", dest="source", help="current labels of the faces, as happy or Smiling=0")
    parser.add_argument("--strength", type=float, default=1.0, help="1 = the full edit")
    parser.add_argument("--detail", choices=DETAILS, help=DETAIL_HELP.format("blend"))
    parser.add_argument("--eyes", help="eyes of one photo, x1,y1,x2,y2 in px; or whole; default: detect the face")
    parser.add_argument("--out", type=Path, default=Path("edits"), help="folder to write")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    args = parser.parse_args(argv)
    take_images(args.attr, args.photos)
    with exit_on_user_error():
        if not args.photos:
            raise UserError("no photo given; give photos or a folder of photos, as me.jpg")
        photos, columns = expand_folders(args.photos), {}
        names = run_names(args.run)
        for name, run in zip(names, args.run, strict=True):
            try:
                columns[name] = edit_with(run, name, photos, args)
            except UserError as error:
                print(f"skipped: {error}", file=sys.stderr)
        if not columns:
            raise UserError("no run could edit these photos; see the messages above")
        write_sheet(columns, photos, args)


def run_names(runs: list[Path]) -> list[str]:
    """<family>_<run> for each run; equal names get a number."""
    names: list[str] = []
    for run in runs:
        name = f"{run.resolve().parent.name}_{run.resolve().name}"
        names.append(name if name not in names else f"{name}_{len(names) + 1}")
    return names


def edit_with(run: Path, name: str, photos: list[str], args: argparse.Namespace) -> dict[str, tuple[Tensor, Tensor]]:
    """{photo: (face, edited face)}, each (3, SIDE, SIDE) in [-1, 1], of one run. Writes the edited photos."""
    print(f"opening {run}", flush=True)
    editor = open_editor(run, device=args.device)
    request = editor.parse(args.attr)
    faces = editor.subjects(photos, args.eyes, args.source)
    if bad := [face for face, photo in zip(faces.names, faces.photos, strict=True) if photo is None]:
        raise UserError(
            f"{bad[0]}: this is not a photo; `python FAMILY/sample.py edit {bad[0]} --run-dir {run}` edits it"
        )
    details = [detail_of(args.detail, photo, "blend") for photo in faces.photos]
    suffixes = [photo_suffix(photo, detail) for photo, detail in zip(faces.photos, details, strict=True)]
    paths = unique_paths(args.out, name, list(zip(faces.names, suffixes, strict=True)))
    check_outputs(paths, photos)
    code, target = editor.codes(faces), editor.target(faces, request)
    for line in format_changes(editor, request, describe_changes(editor, faces, request, target)):
        print(f"{name}: {line}")
    before, after = editor.images(code), editor.images(partway(code, target, args.strength))
    column = {}
    for i, (photo, path) in enumerate(zip(faces.photos, paths, strict=True)):
        assert photo is not None
        picture = paint_photo(photo, before[i : i + 1], after[i : i + 1], details[i])
        save_photo(picture, photo, path)
        print(f"wrote {path}")
        decoded = picture.size != photo.photo.size  # --detail decode
        edited = same_size(after[i], SIDE) if decoded else crop_of(picture, photo, SIDE)
        column[faces.names[i]] = crop_of(photo.photo, photo, SIDE), edited
    return column


def write_sheet(
    columns: dict[str, dict[str, tuple[Tensor, Tensor]]], photos: list[str], args: argparse.Namespace
) -> None:
    """Write OUT/sheet.png: the face, then the edit of each run; white if a run could not use the photo."""
    used = [photo for photo in photos if any(photo in column for column in columns.values())]
    rows = []
    for photo in used:
        face = next(column[photo][0] for column in columns.values() if photo in column)
        cells = [column[photo][1] if photo in column else torch.ones_like(face) for column in columns.values()]
        rows.append(torch.stack([face, *cells]))
    grid = Grid(
        torch.stack(rows),
        [Path(photo).name for photo in used],
        ["photo", *(name.replace("_", " ") for name in columns)],
    )
    path = save_grid(grid, args.out / "sheet.png", 1)
    facts = {"attr": args.attr, "strength": args.strength, "detail": args.detail, "photos": used}
    record = {"command": ["python", "scripts/edit.py", *sys.argv[1:]], "runs": [str(run) for run in args.run]} | facts
    atomic_text(path.with_suffix(".json"), json.dumps(record, indent=1))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
