"""Atomic writes (temporary file, fsync, rename) and file locks."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engine.errors import UserError

MARKER_FILES = ("meta.json", "export.json")  # a pack has the first, an export the second; nobody else writes them


def sync_directory(folder: Path) -> None:
    """Make a rename inside `folder` durable. Some network file systems do not support this; then nothing happens."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_file(file: BinaryIO) -> None:
    """fsync, if the file system supports it."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a file or folder that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "Free some space" if full else "Check its permissions, or choose another path"
    return UserError(f"{path}: cannot be written ({error.strerror or error}). {remedy}. Existing files are unchanged.")


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a binary file that appears at `path` only when the block ends without an exception.

    Raises:
        UserError: the disk is full or the folder is not writable. An existing file at `path` is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            sync_file(file)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def atomic_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `path` when the block ends without an exception.

    An empty folder at `path` is replaced, and so is one that contains one of MARKER_FILES (this project wrote it).
    Temporary folders of killed processes are removed.

    Raises:
        UserError: `path` holds other files (they are unchanged), or the disk is full or not writable.
    """
    path = Path(path)
    written_by_us = any((path / name).is_file() for name in MARKER_FILES)
    if path.exists() and not written_by_us and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"{path}: is not empty and was not written by this project (no {' or '.join(MARKER_FILES)} in it). "
            "Delete it or choose another folder."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmpdir"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmpdir", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def lock(path: str | Path, wait: bool = True, message: str = "is in use") -> Iterator[None]:
    """Hold an exclusive `flock` on `path` during the block. The kernel releases it when the process dies.

    The file contains the process id and host of its holder. With `wait=False`, a lock that is held elsewhere raises
    `UserError("<folder> <message> by process 123 on host")`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{path.parent} {message} by {file.read().strip() or 'another process'}. Wait for it, or stop it."
            ) from None
        except OSError as error:  # for example NFS without a lock server
            print(f"note: {path} cannot be locked ({error.strerror}). Start one process at a time.", file=sys.stderr)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield


def sha256(path: str | Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
