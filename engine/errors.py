"""The one exception for what a user can cause, and the one exit that turns it into a sentence."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """A fault that the user can mend. Its text is one sentence: file, key or line; what was expected; the remedy."""


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a `UserError` on stderr without a traceback and leave with exit code 2. For the `main` of scripts."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
