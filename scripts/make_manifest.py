"""Write the manifest of images that other software made, so that evaluation/ can measure them.

    python scripts/make_manifest.py DIR [--sources DIR] [--kind edit]

DIR has one folder per target: `happy/0001_x.png`, or `Smiling=1/0001.png`. With --sources, the source of an edit is the
image there whose name (without suffix) is the longest beginning of the name of the edit. It is copied into DIR/sources.
Two sources with that name are an error. The folder of a source (`sources/sad/0001.png`) is its label.
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
    parser.add_argument("folder", type=Path, help="folder with one folder per target")
    parser.add_argument("--sources", type=Path, help="folder of the images that were edited")
    parser.add_argument("--kind", choices=KINDS, default="edit")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        rows = manifest_rows(args.folder, args.sources, args.kind)
        path = args.folder / MANIFEST
        if path.is_file() and path.read_bytes() != manifest_text(path, rows).encode():
            raise UserError(f"{path}: exists with other content; move or delete it")
        write_manifest(args.folder, rows)
        read_manifest(args.folder)
        print(f"wrote {path}: {len(rows)} images, {len({r.target for r in rows})} targets")


def manifest_rows(folder: Path, sources: Path | None, kind: str) -> list[Row]:
    """One row per image in the folders of the targets; copies the sources into `folder`/sources.

    Raises:
        UserError: no images; no source or several sources for an edit; a JPEG file.
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
            raise UserError(f"{path}: is a JPEG file, and its compression would be measured too; expected PNG files")
        source, label = "", ""
        if sources:
            found = source_of(path, known, sources)
            source = copied(found, sources, folder)
            label = found.parent.name if found.parent != sources else ""
        rows.append(Row(path.relative_to(folder).as_posix(), kind, source, source_label=label, target=target))
    if not rows:
        raise UserError(f"{folder}: has no images in folders of targets; expected files such as happy/0001.png")
    return rows


def source_of(path: Path, known: dict[str, list[Path]], sources: Path) -> Path:
    """The source whose name is the longest beginning of the name of the edit.

    Raises:
        UserError: there is none, or there are several with that name.
    """
    stem = max((s for s in known if path.stem == s or path.stem.startswith(f"{s}_")), key=len, default=None)
    if stem is None:
        raise UserError(
            f"{path}: found no source in {sources}; the name of an edit must begin with the name of its source"
        )
    if len(known[stem]) > 1:
        several = ", ".join(str(found) for found in known[stem][:3])
        raise UserError(f"{path}: {len(known[stem])} sources have this name ({several}); give each source its own name")
    return known[stem][0]


def copied(path: Path, sources: Path, folder: Path) -> str:
    """Copy a source as PNG into folder/sources, with its subfolders; its path relative to `folder`.

    Raises:
        UserError: the source cannot be decoded, or another image has this path.
    """
    target = (folder / "sources" / path.relative_to(sources)).with_suffix(".png")
    if target.resolve() == path.resolve():
        return target.relative_to(folder).as_posix()
    try:
        pixels = decode(path, str(path))
        if target.is_file():
            existing = decode(target, str(target))
            if existing.shape != pixels.shape or (existing != pixels).any():
                raise UserError(f"{target}: exists and differs from {path}; move or delete it")
            return target.relative_to(folder).as_posix()
    except BadImage as error:
        raise UserError(str(error)) from None
    with atomic_write(target) as file:
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return target.relative_to(folder).as_posix()


if __name__ == "__main__":
    main()
