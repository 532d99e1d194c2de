"""Make a data set from your own photos: find the faces, align their eyes, and write the layout of CelebA.

    python scripts/align.py photos datasets/mine --labels labels.csv
    python scripts/align.py photos datasets/mine --labels labels.csv --like runs/vae/photos64
    python scripts/align.py faces datasets/faces --labels labels.csv --eyes whole --attr Male=gender:Male

Train on it with `data.dataset=celeba data.root=OUT data.crop=full`. OUT has img_align_celeba/, the text files of
CelebA, source.csv (the photo of each face, and how it was found) and rejected.csv (unused photos, and why).

--labels: a CSV file with a header and one row for each photo. The column `file` is the path below IN, or the name. A
column of 0 and 1 (or -1 and 1, no and yes, false and true) is an attribute. `person` is the name of the person. `split`
is train, val or test. `x1`, `y1`, `x2`, `y2` are the eyes in px, for photos in which they are not found. Other columns
are not used; --attr makes attributes of them. Photos without a row have no labels.
--like: the eyes get the positions of this run's faces, so that its weights fit (train.init_from). Without it, they get
CelebA's positions in a crop of 148 px.
"""

import argparse
import contextlib
import csv
import io
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from data.photo import AlignedFace, load_face
from data.scan import list_images
from data.tables import Table, read_csv
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_dir
from engine.grids import to_pil

CELEBA_EYES = [[-0.266, 0.03], [0.254, 0.028]]  # means of the official landmarks in the 148 px crop, in [-1, 1]
SIZE = 128  # px; side of the pictures without --like
VALUES = {"1": 1, "yes": 1, "true": 1, "0": -1, "-1": -1, "no": -1, "false": -1}
SPLITS = {"train": 0, "val": 1, "valid": 1, "test": 2}
EYES = ("x1", "y1", "x2", "y2")
SPECIAL = ("file", "person", "split", *EYES)


@dataclass
class Labels:
    """The labels of photos, each by its row of the CSV file."""

    rows: dict[str, dict[str, str]] = field(default_factory=dict)  # path below IN: cells
    attributes: dict[str, dict[str, int]] = field(default_factory=dict)  # name: {path: -1 or 1}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, metavar="IN", help="folder of photos, with subfolders")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; new or empty")
    parser.add_argument("--labels", type=Path, help="CSV file with one row for each photo")
    parser.add_argument("--attr", nargs="+", default=[], help="NAME=COLUMN:VALUE or NAME=COLUMN:VALUE|VALUE")
    parser.add_argument("--like", type=Path, help="run directory whose framing is used")
    parser.add_argument("--eyes", choices=["whole"], help="whole: the photos are cut to faces; only resize them")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        if args.eyes and args.like:
            raise UserError("--eyes whole: the framing of a run (--like) needs the eyes; give one of the two")
        files, note = list_images(args.photos)
        if note:
            print(note, file=sys.stderr)
        if not files:
            raise UserError(f"{args.photos}: has no images; expected photos such as me.jpg")
        names = [path.relative_to(args.photos).as_posix() for path in files]
        labels = read_labels(args.labels, names, args.attr)
        eyes, size = framing(args.like)
        with atomic_dir(args.out) as folder:
            kept = align_all(args.photos, names, folder, labels, eyes, size, args.eyes)
            write_texts(folder, kept, labels, None if args.eyes else eyes, size)
        print(f"wrote {len(kept)} faces of {len(names)} photos into {args.out}, {size} px")
        print(f"train with data.dataset=celeba data.root={args.out} data.crop=full")


def framing(like: Path | None) -> tuple[list[list[float]], int]:
    """Eye positions in [-1, 1], and the side of the images in px."""
    if like is None:
        return CELEBA_EYES, SIZE
    path = like / "meta.json"
    if not path.is_file():
        raise UserError(f"--like {like}: is not a run directory (meta.json is missing); train.py makes one")
    meta = json.loads(path.read_text(encoding="utf-8"))
    if not meta.get("eyes"):
        raise UserError(f"--like {like}: its data do not say where the eyes are; train it with data.eyes=[x,y,x,y]")
    return meta["eyes"], max(SIZE, 2 * meta["image_size"])


def align_all(
    root: Path, names: list[str], folder: Path, labels: Labels, eyes: list, size: int, whole: str | None
) -> list[str]:
    """Write the aligned faces, source.csv and rejected.csv; the photos of the faces, in order."""
    kept, sources, rejected, start = [], [], [], time.monotonic()
    images = folder / "img_align_celeba"
    images.mkdir()
    meta = {"image_size": size, "channels": 3, "eyes": eyes}
    for done, name in enumerate(names):
        if done and done % 200 == 0:
            rate = done / (time.monotonic() - start)
            print(f"{done} of {len(names)} photos, {rate:.1f} photos/s, {(len(names) - done) / rate:.0f} s left")
        try:
            face = find(root / name, meta, whole or given_eyes(labels, name))
        except UserError as error:
            reason = str(error).replace("--eyes x1,y1,x2,y2", "x1,y1,x2,y2 in --labels")
            print(f"left out: {reason}", file=sys.stderr)
            rejected.append((name, reason))
            continue
        kept.append(name)
        file = f"{len(kept):06d}.jpg"
        to_pil(face.image[0]).save(images / file, quality=95, subsampling=0)
        sources.append((file, name, face.note))
    if not kept:
        raise UserError(
            f"{root}: no photo can be used; the messages above say why. To give the eyes of a photo, write them "
            "into the columns x1,y1,x2,y2 of the --labels file"
        )
    write_csv(folder / "source.csv", ("image", "file", "note"), sources)
    write_csv(folder / "rejected.csv", ("file", "reason"), rejected)
    return kept


def find(path: Path, meta: dict, eyes: str | None) -> AlignedFace:
    """The face of a photo. The output of `load_face` is not printed; it goes to source.csv."""
    with contextlib.redirect_stderr(io.StringIO()):
        return load_face(path, meta, eyes)


def given_eyes(labels: Labels, name: str) -> str | None:
    """The eyes of a photo from the CSV file, as `load_face` takes them."""
    row = labels.rows.get(name, {})
    cells = [row.get(column, "") for column in EYES]
    return ",".join(cells) if any(cells) else None


def read_labels(path: Path | None, names: list[str], choices: list[str]) -> Labels:
    """The labels of the photos `names` (paths below IN).

    Raises:
        UserError: a row without a photo's name, two rows of one photo, a label that is no yes or no, a wrong --attr.
    """
    if path is None:
        if choices:
            raise UserError(f"--attr {choices[0]}: needs --labels, the CSV file with the column")
        return Labels()
    table = read_csv(path, ["file"])
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(Path(name).name, []).append(name)
    known, rows, line_of, absent = set(names), {}, {}, []
    for row, line in zip(table.rows, table.lines, strict=True):
        file = row["file"].replace("\\", "/").removeprefix("./")
        found = [file] if file in known else by_name.get(file, [])
        if len(found) > 1:
            raise UserError(f"{path}, line {line}: {len(found)} photos are called {file}; give their paths below IN")
        if not found:
            absent.append(f"line {line}: {file}")
        elif found[0] in rows:
            raise UserError(f"{path}, line {line}: {file} is also on line {line_of[found[0]]}; keep one of the two")
        else:
            rows[found[0]], line_of[found[0]] = row, line
    if absent:
        print(f"note: {path}: {len(absent)} rows have no photo, as {absent[0]}", file=sys.stderr)
    if not rows:
        raise UserError(f"{path}: has none of the photos; expected the column 'file' with names such as {names[0]}")
    return Labels(rows, attributes_of(table, rows, line_of, [parse_choice(text, table) for text in choices]))


def parse_choice(text: str, table: Table) -> tuple[str, str, set[str]]:
    """`Young=age:20-29|30-39` as (name, column, values)."""
    name, _, rest = text.partition("=")
    column, _, values = rest.partition(":")
    if not (name and column and values):
        raise UserError(f"--attr {text}: expected NAME=COLUMN:VALUE, as Male=gender:Male")
    if column not in table.columns:
        raise UserError(f"--attr {text}: {table.path} has no column '{column}'; it has {', '.join(table.columns)}")
    return name, column, {value.strip() for value in values.split("|")}


def attributes_of(
    table: Table, rows: dict[str, dict[str, str]], line_of: dict[str, int], choices: list[tuple[str, str, set[str]]]
) -> dict[str, dict[str, int]]:
    """{attribute: {photo: -1 or 1}}: columns of yes and no, and the choices of --attr."""
    used = {column for _, column, _ in choices}
    found, left_out = {}, []
    for column in table.columns:
        cells = {name: row[column].lower() for name, row in rows.items()}
        if column in SPECIAL or column in used:
            continue
        known = [cell in VALUES for cell in cells.values()]
        if all(known):
            found[column] = {name: VALUES[cell] for name, cell in cells.items()}
        elif sum(known) > len(known) / 2:
            name = next(name for name, cell in cells.items() if cell not in VALUES)
            raise UserError(
                f"{table.path}, line {line_of[name]}: {column} is '{rows[name][column]}'; expected 0 or 1. Take the "
                "row out if its labels are unknown"
            )
        else:
            left_out.append(column)
    for name, column, values in choices:
        if not any(row[column] in values for row in rows.values()):
            raise UserError(f"--attr {name}={column}: no photo has one of these values: {', '.join(sorted(values))}")
        found[name] = {photo: 1 if row[column] in values else -1 for photo, row in rows.items()}
    if left_out:
        print(f"note: {table.path}: columns that are no yes or no are left out: {', '.join(left_out)}", file=sys.stderr)
    return found


def write_texts(folder: Path, kept: list[str], labels: Labels, eyes: list | None, size: int) -> None:
    """Write CelebA's text files: attributes, eyes, persons, split."""
    files = {name: f"{i:06d}.jpg" for i, name in enumerate(kept, 1)}
    labelled = [name for name in kept if name in labels.rows]
    if labels.attributes and labelled:
        columns = labels.attributes.values()
        lines = [f"{files[n]} " + " ".join(f"{column[n]:2d}" for column in columns) for n in labelled]
        write_lines(folder / "list_attr_celeba.txt", [str(len(lines)), " ".join(labels.attributes), *lines])
    if eyes is not None:  # in px of the picture, where the middle of the first pixel is 0
        place = " ".join(f"{(v + 1) / 2 * size - 0.5:.2f}" for eye in eyes for v in eye)
        header = [str(len(kept)), "lefteye_x lefteye_y righteye_x righteye_y"]
        write_lines(folder / "list_landmarks_align_celeba.txt", header + [f"{files[name]} {place}" for name in kept])
    persons = sorted({labels.rows[n].get("person", "") for n in labelled} - {""})
    if persons:
        known = [n for n in labelled if labels.rows[n]["person"]]
        lines = [f"{files[n]} {persons.index(labels.rows[n]['person']) + 1}" for n in known]
        write_lines(folder / "identity_CelebA.txt", lines)
    split = {n: labels.rows[n].get("split", "").lower() for n in labelled}
    if any(split.values()):
        wrong = next((text for text in split.values() if text not in SPLITS), None)
        if wrong is not None:
            raise UserError(f"--labels: split is '{wrong}'; expected train, val or test for each photo")
        write_lines(folder / "list_eval_partition.txt", [f"{files[n]} {SPLITS[split[n]]}" for n in labelled])


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    main()
