"""Read and quote the small files of a checkpoint within size limits."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from launcher.core.errors import CheckpointError
from launcher.core.types import Json
from launcher.settings.model import Bounds

MB = 10**6
QUOTED = 200
"""Characters that a message quotes of a checkpoint at most."""

LONGEST_NAME = 255
"""Characters of a file's name; file systems take no longer ones."""

DEEPEST = 64
"""Levels of JSON or YAML within each other; configurations have ten."""


def holds(test: Callable[[], bool]) -> bool:
    """Return ``path.is_file()``, ``is_dir()`` or ``exists()``; False for a path that the file system refuses."""
    try:
        return test()
    except (OSError, ValueError):  # its name is too long, or its folder is closed
        return False


def read_bytes(file: Path, bounds: Bounds) -> bytes:
    """Return a file's content; `CheckpointError` if it is missing, no file, or longer than the bound on metadata."""
    most = bounds.metadata_mb * MB
    try:
        if not file.is_file():
            raise CheckpointError(f"{file}: {'not a regular file' if file.exists() else 'missing'} (expected a file)")
        with file.open("rb") as stream:
            content = stream.read(most + 1)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > most:
        raise CheckpointError(f"{file}: {too_long(file.stat().st_size, bounds)}")
    return content


def check_length(file: Path, bounds: Bounds | None = None) -> None:
    """Raise `CheckpointError` for a file, read whole by a library, that is not a regular one or exceeds the bound."""
    allowed = bounds or Bounds()
    if not file.is_file():
        raise CheckpointError(f"{file}: {'not a regular file' if file.exists() else 'missing'} (expected a file)")
    if file.stat().st_size > allowed.metadata_mb * MB:
        raise CheckpointError(f"{file}: {too_long(file.stat().st_size, allowed)}")


def too_long(size: int, bounds: Bounds) -> str:
    """Say that metadata of ``size`` bytes passes the bound, and which setting it is."""
    return f"{size} bytes of metadata (expected at most {bounds.metadata_mb} MB, model.bounds.metadata_mb)"


def read_json(file: Path, bounds: Bounds | None = None) -> Any:
    """Return the value in a JSON file; `CheckpointError` if it is no JSON, too long, or nested too deeply."""
    return parse_json(read_bytes(file, bounds or Bounds()), file)


_TOO_DEEP = object()


def read_json_object(file: Path, bounds: Bounds | None = None) -> Mapping[str, Json]:
    """Return the object in a JSON file; empty if the file holds another JSON value.

    Raises `CheckpointError` for a file that is not JSON, and for half of a surrogate pair, which is not Unicode text.
    """
    content = read_json(file, bounds)
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.start + 1]
        raise CheckpointError(f"{file}: holds {half!a}, half of a surrogate pair (expected Unicode text)") from None
    return content if isinstance(content, dict) else {}


def parse_json(content: bytes, file: Path) -> Json:
    """Return the value of JSON text that is in memory; ``file`` is named in complaints."""
    try:
        found = json.loads(content.decode("utf-8"))
    except RecursionError:
        found = _TOO_DEEP
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON: {str(error)[:QUOTED]}") from error
    if found is _TOO_DEEP or _is_deep(found):
        raise CheckpointError(f"{file}: nested more than {DEEPEST} levels deep (expected the JSON of a checkpoint)")
    return found


def _is_deep(value: Json) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(value: Json) -> Iterable[Json]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


class _Quote(reprlib.Repr):
    """Looks at few items of few levels, so that a small value that refers to itself often costs no more than others."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 100, 100, 100


def shown(value: object) -> str:
    """Return a value of a checkpoint as a message quotes it: on one line, at most 200 characters."""
    try:
        text = ascii(value[:QUOTED]) if isinstance(value, str) else _Quote().repr(value)
    except ValueError:  # a number of thousands of digits
        text = f"a very long {type(value).__name__}"
    text = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= QUOTED else text[: QUOTED - 3] + "..."
