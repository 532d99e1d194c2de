"""Files that are never half there: write beside, fsync, rename; and locks that tell who holds them."""

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

MADE_HERE = ("meta.json", "export.json")  # of a pack, of an export; a manifest may stand in anybody's folder


def sync_directory(folder: Path) -> None:
    """Make a rename inside `folder` durable, where the file system can (some network ones refuse)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_file(file: BinaryIO) -> None:
    """fsync, where the file system knows it."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def cannot_write(path: Path, error: OSError) -> UserError:
    """The message for a file or folder that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free some space" if full else "check its permissions, or choose another place"
    return UserError(f"{path}: cannot be written ({error.strerror or error}); {remedy}; nothing was lost")


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a binary file that appears under `path` only when the block ends without an exception.

    Raises:
        UserError: the disk is full or the folder is not writable; what stood under `path` is untouched.
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
    """Write `text` as UTF-8 under `path`, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place when the block ends without an exception.

    A folder that this function wrote earlier (it holds one of MADE_HERE) or an empty one is replaced. Temporary folders
    that a killed process left are removed.

    Raises:
        UserError: other files stand under `path` (they are not touched); the disk is full or not writable.
    """
    path = Path(path)
    made_here = any((path / name).is_file() for name in MADE_HERE)
    if path.exists() and not made_here and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"{path}: is not empty, and nothing in it says that this project wrote it; delete it or choose another "
            "folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.tmpdir"):
        shutil.rmtree(left, ignore_errors=True)
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
    """Hold an exclusive `flock` on `path` during the block. The kernel frees it when the process dies.

    The file holds the process id and host of its holder. With `wait=False` a held lock raises
    `UserError("<path> <message> by process 123 on host")`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{path.parent} {message} by {file.read().strip() or 'another process'}") from None
        except OSError as error:  # NFS without a lock server, and others
            print(f"note: {path} cannot be locked ({error.strerror}); start one process at a time", file=sys.stderr)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield


def sha256(path: str | Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
