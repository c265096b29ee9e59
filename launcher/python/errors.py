"""The one exception of the Python interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LauncherError(Exception):
    """What the command line says in one line: the key or the file, the value, and what works instead.

    ``exit_code`` is that of the command line. ``run`` is the `launcher.Run` that ended so, if it left a
    report.
    """

    def __init__(self, message: str, exit_code: int = 1, run: Any = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.run = run


@contextmanager
def one_error() -> Iterator[None]:
    """Raise `LauncherError` for every error of a user, and for files that cannot be read."""
    from launcher.core.errors import UserError

    try:
        yield
    except UserError as error:
        raise LauncherError(str(error), error.exit_code) from None
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        raise LauncherError(f"{named}{error.strerror or error}") from None
