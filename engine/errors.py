"""`UserError`, and the context manager that prints it without a traceback."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO


class UserError(Exception):
    """An error that the user can fix. Its text says what is wrong, where, what was expected and how to fix it."""


class _Console:
    """A text stream that may be closed or full. Text that cannot be written is dropped; the program continues."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115 - None: closed before the start

    def write(self, text: str) -> int:
        """Write `text`. Characters that the stream's encoding lacks are written as backslash escapes."""
        try:
            return self.stream.write(text)
        except UnicodeEncodeError:
            return self.write(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError) as error:
            self._discard_output(error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream, if it is still open."""
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self._discard_output(error)

    def isatty(self) -> bool:
        """Whether the stream is a terminal, which can show a progress bar."""
        return not self.stream.closed and self.stream.isatty()

    def _discard_output(self, error: Exception) -> None:
        """Send all further output to the null device."""
        failed, self.stream = self.stream, open(os.devnull, "w")  # noqa: SIM115
        with contextlib.suppress(OSError, ValueError):
            os.dup2(self.stream.fileno(), failed.fileno())  # Python writes the rest of its buffer at exit
        if self is sys.stdout and not isinstance(error, BrokenPipeError):
            print(f"note: the output cannot be written ({error}). Further output is lost.", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a `UserError` on stderr without a traceback and exit with code 2. For the `main` of scripts.

    An `OSError` with a file name (no permission, name too long, parent is a file) counts as a user error, too.
    A closed or full console does not stop the program.
    """
    original = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Console(original[0]), _Console(original[1])  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    except UserError as error:
        _exit(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _exit(f"{error.filename}: {error.strerror or error}. Check the path and its permissions.")
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = original


def _exit(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report:  # torchrun prints this file after its own output
        extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError), open(report, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": f"error: {text}", "extraInfo": extra}}, file)
    raise SystemExit(2) from None
