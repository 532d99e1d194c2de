"""The one exception for what a user can cause, and the one exit that turns it into a sentence."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO


class UserError(Exception):
    """A fault that the user can mend. Its text is one sentence: file, key or line; what was expected; the remedy."""


class _Console:
    """A stream that may be closed or full: what cannot be written is lost, and the program goes on."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115 - None: it was closed before we started

    def write(self, text: str) -> int:
        """Write what can be written; characters that the stream's encoding lacks are spelled out."""
        try:
            return self.stream.write(text)
        except UnicodeEncodeError:
            return self.write(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError) as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Flush, if there is still something to flush to."""
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def isatty(self) -> bool:
        """Whether there is a terminal to draw a progress bar on."""
        return not self.stream.closed and self.stream.isatty()

    def _lose(self, error: Exception) -> None:
        lost, self.stream = self.stream, open(os.devnull, "w")  # noqa: SIM115
        with contextlib.suppress(OSError, ValueError):
            os.dup2(self.stream.fileno(), lost.fileno())  # what its buffer still holds is written at exit
        if self is sys.stdout and not isinstance(error, BrokenPipeError):
            print(f"note: the output cannot be written ({error}); the rest of it is lost", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a `UserError` on stderr without a traceback and leave with exit code 2. For the `main` of scripts.

    A file or folder that the system refuses (no permission, name too long, below a file) is the user's to mend, too.
    A console that is closed or full stops nothing.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Console(before[0]), _Console(before[1])
    try:
        yield
    except UserError as error:
        _leave(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _leave(f"{error.filename}: {error.strerror or error}; check the path and its permissions")
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _leave(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report:  # torchrun prints this file below its own 50 lines
        facts = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError), open(report, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": f"error: {text}", "extraInfo": facts}}, file)
    raise SystemExit(2) from None
