"""Writes files in one step, and turns what a disk refuses into one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from launcher.core.errors import StorageError, UserError
from launcher.core.redaction import redact_bytes
from launcher.core.types import Json

Identity = tuple[int, int]
"""The inode of a file and its time of modification in nanoseconds: differs once the file is replaced."""

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""Errors of a write that come without the file's name."""


QUOTED = 200
"""Characters of a path that a line quotes."""


def replace(path: Path, content: str | Iterable[bytes], *, durable: bool = True) -> Path:
    """Write a file in one step: a reader, or a crash, sees the old file or the whole new one.

    Secrets that the program knows are redacted. The folder is made if it is missing. What was written of a new file
    that did not fit is removed. Without ``durable`` a crash of the machine may leave an empty file. Raises
    `StorageError`.
    """
    install(path, content, durable=durable)
    return path


def replace_json(path: Path, value: Json, indent: int | None = None) -> Path:
    """Write a JSON value and a line end as `replace` does."""
    return replace(path, json.dumps(value, indent=indent) + "\n")


def install(path: Path, content: str | Iterable[bytes], *, private: bool = False, durable: bool = True) -> Identity:
    """Write a file as `replace` does and return its identity; only the owner reads a ``private`` one."""
    parts = map(redact_bytes, [content.encode()] if isinstance(content, str) else content)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = _write(partial, parts, 0o600 if private else 0o666, durable)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
    return found


def _write(path: Path, parts: Iterable[bytes], mode: int, durable: bool) -> Identity:
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.writelines(parts)
        file.flush()
        if durable:
            os.fsync(file.fileno())
        return _identity(os.fstat(file.fileno()))


PARTIAL = ".partial"
"""The ending of a large file until it is whole and on the disk."""


def write_large(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    """Write a file of numbers in one step, unchanged, and return its SHA-256 in hexadecimal.

    A killed process leaves what it wrote under the name with `PARTIAL`. Raises `StorageError`.
    """
    digest, partial = hashlib.sha256(), path.with_name(path.name + PARTIAL)
    with storing(path):
        with partial.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    return digest.hexdigest()


def identity(path: Path) -> Identity | None:
    """Return the identity of a file; None if there is no such file."""
    try:
        return _identity(path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _identity(found: os.stat_result) -> Identity:
    return found.st_ino, found.st_mtime_ns


def cache_folder() -> Path:
    """Return the folder of what may be deleted at any time, and costs time to make again."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "launcher"
    except RuntimeError:  # no home folder, as in a container with a user of its own
        return Path(tempfile.gettempdir()) / f"launcher-{os.getuid()}"


def conf_folder() -> Path:
    """Return the folder of option files: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parent.parent
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


def is_there(word: str) -> bool:
    """Tell whether a word is the path of something; false, too, for what no path can be, such as a long line."""
    with suppress(OSError, ValueError):
        return Path(word).exists()
    return False


def read_json(path: Path) -> Json:
    """Return the JSON value in a file; None if there is no such file. Raises `UserError` that names the file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None


def append(path: Path) -> FileIO:
    """Open an unbuffered log that may hold what others say; a new one is its owner's only. Raises `StorageError`."""
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600))


def refused(error: OSError) -> str | None:
    """Return the line for what a disk or a path refuses; None for any other error of the operating system."""
    if error.filename is not None:
        return f"{str(error.filename)[:QUOTED]}: {error.strerror or error}{_remedy(error)}"
    return f"a file cannot be written: {error.strerror}{_remedy(error)}" if error.errno in DISK else None


def _remedy(error: OSError) -> str:
    """Return what helps where a disk is full, or a file another user's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "; launcher clean lists what old runs have left"
    return "; ls -ld shows who may use it" if error.errno in (errno.EACCES, errno.EPERM) else ""


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raise `StorageError` that names ``path`` for what the operating system refuses."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}{_remedy(error)}") from error
