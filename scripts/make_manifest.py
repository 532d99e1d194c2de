"""Make a manifest for other people's results, so that the judge can read them.

    python scripts/make_manifest.py DIR [--sources DIR] [--kind edit]

DIR holds a folder for each target: `happy/0001_x.png`, or `Smiling=1/0001.png`. With --sources an edit's source is the
picture there whose name (without suffix) is the beginning of the edit's name; it is copied into DIR/sources. Two
sources that fit equally well are refused: an edit must not be compared with the wrong face.
A source in a folder of its own (`sources/sad/0001.png`) has that folder's name as its label.
"""

import argparse
from pathlib import Path

from PIL import Image

from data.decode import BadImage, decode
from data.scan import list_images
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_write
from evaluation.manifest import KINDS, MANIFEST, Row, manifest_text, read_manifest, write_manifest


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="its folders are the targets")
    parser.add_argument("--sources", type=Path, help="the pictures that were edited")
    parser.add_argument("--kind", choices=KINDS, default="edit")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        rows = manifest_rows(args.folder, args.sources, args.kind)
        there = args.folder / MANIFEST
        if there.is_file() and there.read_bytes() != manifest_text(there, rows).encode():
            raise UserError(f"{there}: is there already and says something else; move it away first")
        write_manifest(args.folder, rows)
        read_manifest(args.folder)
        print(f"wrote {there}: {len(rows)} images, {len({r.target for r in rows})} targets")


def manifest_rows(folder: Path, sources: Path | None, kind: str) -> list[Row]:
    """One row per picture below a target's folder; sources are copied beside them.

    Raises:
        UserError: no pictures, an edit without a source or with several, or a JPEG (whose traces would be measured).
    """
    known: dict[str, list[Path]] = {}
    for path in list_images(sources)[0] if sources else ():
        known.setdefault(path.stem, []).append(path)
    pictures, note = list_images(folder)
    if note:
        print(f"note: {note}")
    rows = []
    for path in pictures:
        target, *below = path.relative_to(folder).parts
        if target == "sources" or len(below) != 1:
            continue
        if path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif"):
            raise UserError(f"{path}: is a JPEG, whose traces would be measured too; expected PNG files")
        source, label = "", ""
        if sources:
            found = source_of(path, known, sources)
            source = copied(found, sources, folder)
            label = found.parent.name if found.parent != sources else ""
        rows.append(Row(path.relative_to(folder).as_posix(), kind, source, source_label=label, target=target))
    if not rows:
        raise UserError(f"{folder}: holds no pictures in folders of targets, as happy/0001.png")
    return rows


def source_of(path: Path, known: dict[str, list[Path]], sources: Path) -> Path:
    """The one source whose name is the longest beginning of the edit's name.

    Raises:
        UserError: there is none, or there are several.
    """
    stem = max((s for s in known if path.stem == s or path.stem.startswith(f"{s}_")), key=len, default=None)
    if stem is None:
        raise UserError(f"{path}: no picture of {sources} has a name that begins this one's")
    if len(known[stem]) > 1:
        several = ", ".join(str(found) for found in known[stem][:3])
        raise UserError(f"{path}: {len(known[stem])} sources fit its name ({several}); give each source its own name")
    return known[stem][0]


def copied(path: Path, sources: Path, folder: Path) -> str:
    """The source as a PNG in folder/sources, in its own subfolders; its name relative to `folder`.

    Raises:
        UserError: it cannot be decoded, or another picture stands there already.
    """
    target = (folder / "sources" / path.relative_to(sources)).with_suffix(".png")
    if target.resolve() == path.resolve():
        return target.relative_to(folder).as_posix()
    try:
        pixels = decode(path, str(path))
        if target.is_file():
            there = decode(target, str(target))
            if there.shape != pixels.shape or (there != pixels).any():
                raise UserError(f"{target}: is another picture than {path}; move it away first")
            return target.relative_to(folder).as_posix()
    except BadImage as error:
        raise UserError(str(error)) from None
    with atomic_write(target) as file:
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return target.relative_to(folder).as_posix()


if __name__ == "__main__":
    main()
