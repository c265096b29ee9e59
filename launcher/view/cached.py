"""Reads files that other processes replace or append to, and only what is new of them."""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from pathlib import Path

import orjson

from launcher.core.console import printable
from launcher.core.reading import Reading, readings
from launcher.core.redaction import redact
from launcher.core.types import Json

LARGEST = 64 * 2**20
"""A larger JSON file is not read: no file of ours is."""
MOST_FILES = 20_000
READINGS = 2_000
HEALTH_BYTES = 4 * 2**20
"""So much of the end of ``health.jsonl`` is read when a page is opened."""
LOG_BYTES, LOG_LINES = 16_384, 60


class JsonFiles:
    """The values of JSON files; a file is read again once it has changed.

    A file is opened to look: a network file system then asks its server, which it does not for every ``stat``.
    """

    def __init__(self) -> None:
        self._read: OrderedDict[Path, tuple[tuple[int, int, int], Json]] = OrderedDict()

    def mapping(self, path: Path) -> dict[str, Json]:
        """Return the object in a file; an empty one where there is none, or where it is damaged."""
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                version = found.st_ino, found.st_size, found.st_mtime_ns
                known = self._read.get(path)
                if known is not None and known[0] == version:
                    return known[1]  # type: ignore[no-any-return]
                value = orjson.loads(file.read()) if found.st_size <= LARGEST else {}
        except (OSError, ValueError):
            return {}
        value = value if isinstance(value, dict) else {}
        self._read[path] = version, value
        if len(self._read) > MOST_FILES:
            self._read.popitem(last=False)
        return value


class HealthFile:
    """The readings of a ``health.jsonl`` that grows; the last ones of a long file."""

    def __init__(self, path: Path) -> None:
        self.readings: deque[Reading] = deque(maxlen=READINGS)
        self._path, self._inode, self._position = path, 0, 0

    def update(self) -> None:
        """Read what is new."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._position:
                    self._inode, self._position = found.st_ino, max(0, found.st_size - HEALTH_BYTES)
                    self.readings.clear()
                file.seek(self._position)
                new = file.read(found.st_size - self._position)
        except OSError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._position += len(whole)
        self.readings.extend(readings(whole.splitlines()))


def end_of_log(path: Path) -> str:
    """Return the last lines of a log, without secrets and without characters that steer a terminal."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - LOG_BYTES))
            text = file.read(LOG_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.splitlines()[1 if size > LOG_BYTES else 0 :]
    return redact(printable("\n".join(lines[-LOG_LINES:])))
