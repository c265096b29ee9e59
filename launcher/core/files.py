"""Writes files in one step, and turns what a disk refuses into one line."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from launcher.core.errors import StorageError
from launcher.core.redaction import redact_bytes

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""Errors of a write that come without the file's name."""


QUOTED = 200
"""Characters of a path that a line quotes."""


def replace(path: Path, content: str | Iterable[bytes]) -> Path:
    """Write a file in one step: a reader, or a crash, sees the old file or the whole new one.

    Secrets that the program knows are redacted. The folder is made if it is missing. What was written of a new file
    that did not fit is removed. Raises `StorageError`.
    """
    parts = map(redact_bytes, [content.encode()] if isinstance(content, str) else content)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(partial, parts)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
    return path


def _write(path: Path, parts: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def append(path: Path) -> FileIO:
    """Open an unbuffered log that may hold what others say; a new one is its owner's only. Raises `StorageError`."""
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600))


def refused(error: OSError) -> str | None:
    """Return the line for what a disk or a path refuses; None for any other error of the operating system."""
    if error.filename is not None:
        return f"{str(error.filename)[:QUOTED]}: {error.strerror or error}"
    return f"a file cannot be written: {error.strerror}" if error.errno in DISK else None


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raise `StorageError` that names ``path`` for what the operating system refuses."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
