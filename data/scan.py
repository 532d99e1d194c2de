"""Find images in folders. Hidden files are ignored, links are followed, and a note counts everything left out.

`read_tree` reads every folder once. A link to a folder outside the tree is followed once. A link to a folder inside
the tree is not followed, because that folder is read anyway. So links cannot cause an endless loop.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data.raw import IMAGE_SUFFIXES, natural
from engine.errors import UserError

# Files and folders of operating systems and tools. They are never data, so no note counts them.
LITTER = {"__MACOSX", "@eaDir", "lost+found", "System Volume Information", "$RECYCLE.BIN"}
LITTER |= {"Thumbs.db", "thumbs.db", "desktop.ini"}


def is_hidden(name: str) -> bool:
    """Whether files and folders of this name are ignored."""
    return name.startswith(".") or name in LITTER


def is_image_name(name: str) -> bool:
    """Whether a file of this name is an image, by its suffix."""
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


@dataclass
class Tree:
    """One folder: its images and its subfolders, in natural order."""

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list["Tree"] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)  # number of files left out, by reason; one for the whole tree

    def all_images(self) -> Iterator[Path]:
        """The images in this folder and all its subfolders."""
        yield from self.images
        for folder in self.folders:
            yield from folder.all_images()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def filled(self) -> list["Tree"]:
        """The subfolders that have an image at any depth."""
        return [folder for folder in self.folders if next(folder.all_images(), None) is not None]

    def note(self) -> str:
        """One line that counts what was left out; "" if nothing was left out."""
        if not self.left_out:
            return ""
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.left_out.items()))
        return f"left out in {self.path}: {counts}"


def read_tree(root: str | Path) -> Tree:
    """The images of a folder and of all its subfolders.

    Raises:
        UserError: the folder itself cannot be read.
    """
    root = Path(root)
    tree = Tree(root)
    try:
        os.scandir(root).close()
    except OSError as error:
        raise UserError(f"{root}: cannot be read ({error.strerror or error})") from None
    _fill(tree, os.path.realpath(root), {os.path.realpath(root)})
    return tree


def list_images(root: str | Path) -> tuple[list[Path], str]:
    """All images in a folder and its subfolders in natural order, and the note about what was left out."""
    tree = read_tree(root)
    return sorted(tree.all_images(), key=lambda path: natural(path.as_posix())), tree.note()


def _fill(tree: Tree, top: str, seen: set[str]) -> None:
    try:
        with os.scandir(tree.path) as listing:
            entries = sorted(listing, key=lambda entry: natural(entry.name))
    except OSError:
        tree.left_out["unreadable folders"] += 1
        return
    for entry in entries:
        if is_hidden(entry.name):
            continue
        try:
            is_folder, is_file, is_link = entry.is_dir(), entry.is_file(), entry.is_symlink()
        except OSError:
            is_folder, is_file, is_link = False, False, True  # a link in a circle of links
        if is_folder:
            real = os.path.realpath(entry.path)
            if real in seen or (is_link and _scanned_anyway(real, top)):
                tree.left_out["links to folders that are read anyway"] += 1
                continue
            seen.add(real)
            folder = Tree(Path(entry.path), left_out=tree.left_out)
            _fill(folder, top, seen)
            tree.folders.append(folder)
        elif is_file and is_image_name(entry.name):
            tree.images.append(Path(entry.path))
        elif is_file:
            suffix = os.path.splitext(entry.name)[1].lower()
            tree.left_out[f"{suffix} files" if suffix else "files without a suffix"] += 1
        elif is_link:
            tree.left_out["broken links"] += 1


def _scanned_anyway(real: str, top: str) -> bool:
    """Whether a folder is inside the tree and not hidden, so that the scan reads it without the link."""
    inside = os.path.relpath(real, top)
    return not inside.startswith("..") and not any(is_hidden(part) for part in inside.split(os.sep) if part != ".")
