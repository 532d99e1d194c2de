"""Make a manifest for other people's results, so that the judge can read them.

    python scripts/make_manifest.py DIR [--sources DIR] [--kind edit]

DIR holds a folder for each target: `happy/0001_x.png`, or `Smiling=1/0001.png`. With --sources an edit's source is the
picture there whose name (without suffix) is the beginning of the edit's name; it is copied into DIR/sources.
A source in a folder of its own (`sources/sad/0001.png`) has that folder's name as its label.
"""

import argparse
import shutil
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from engine.errors import UserError, exit_on_user_error
from evaluation.manifest import KINDS, Row, read_manifest, write_manifest

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="its folders are the targets")
    parser.add_argument("--sources", type=Path, help="the pictures that were edited")
    parser.add_argument("--kind", choices=KINDS, default="edit")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        rows = manifest_rows(args.folder, args.sources, args.kind)
        write_manifest(args.folder, rows)
        read_manifest(args.folder)
        print(f"wrote {args.folder / 'manifest.csv'}: {len(rows)} images, {len({r.target for r in rows})} targets")


def manifest_rows(folder: Path, sources: Path | None, kind: str) -> list[Row]:
    """One row per picture below a target's folder; sources are copied beside them.

    Raises:
        UserError: no pictures, an edit without a source, or a JPEG (whose traces would be measured).
    """
    known = {p.stem: p for p in sorted(sources.rglob("*")) if p.suffix.lower() in SUFFIXES} if sources else {}
    rows = []
    for path in sorted(p for p in folder.glob("*/*") if p.suffix.lower() in SUFFIXES and p.parent.name != "sources"):
        if path.suffix.lower() in (".jpg", ".jpeg"):
            raise UserError(f"{path}: is a JPEG, whose traces would be measured too; expected PNG files")
        source, label = "", ""
        if known:
            stem = max((s for s in known if path.stem == s or path.stem.startswith(f"{s}_")), key=len, default=None)
            if stem is None:
                raise UserError(f"{path}: no picture of {sources} has a name that begins this one's")
            source, label = (
                copied(known[stem], folder),
                known[stem].parent.name if known[stem].parent != sources else "",
            )
        rows.append(Row(path.relative_to(folder).as_posix(), kind, source, source_label=label, target=path.parent.name))
    if not rows:
        raise UserError(f"{folder}: holds no pictures in folders of targets, as happy/0001.png")
    return rows


def copied(path: Path, folder: Path) -> str:
    """The source as a PNG in folder/sources; its relative name."""
    target = folder / "sources" / f"{path.stem}.png"
    if not target.is_file():
        target.parent.mkdir(exist_ok=True)
        if path.suffix.lower() == ".png":
            shutil.copyfile(path, target)
        else:
            try:
                with Image.open(path) as picture:
                    picture.convert("L" if picture.mode == "L" else "RGB").save(target)
            except (OSError, UnidentifiedImageError) as error:
                raise UserError(f"{path}: cannot be decoded ({error})") from None
    return target.relative_to(folder).as_posix()


if __name__ == "__main__":
    main()
