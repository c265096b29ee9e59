"""Appends JSON lines to a file of the run folder, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from launcher.adapters.base import Adapter
from launcher.core.errors import StorageError, UserError
from launcher.core.files import append
from launcher.core.redaction import redact
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json

SECRET = re.compile(r"auth|key|token|secret|cookie|password|credential", re.IGNORECASE)
"""Names of headers whose values are never written."""
OTHER_VALUES = frozenset({"true", "false", "null"})


def check_file(file: str, key: str) -> None:
    """Raise `UserError`, which names the setting, unless ``file`` is the name of a file without a folder."""
    if not file or Path(file).name != file or not is_path(file):
        raise UserError(f"{key} is '{file}'; a file name without a folder is needed")


def is_path(text: str) -> bool:
    """Tell whether a text can be meant as a path, and not as a list, a mapping, or another value in its place."""
    return text.isprintable() and text[:1] not in ("[", "{", "-") and text not in OTHER_VALUES


def check_files(adapters: Iterable[Adapter], prefix: str) -> None:
    """Refuse adapters that write to a file of the run, or two to one file. Raises `UserError`, with full keys."""
    writers: dict[str, str] = {}
    items = [item for adapter in adapters for item in adapter.files().items()]
    for name, key in sorted(items, key=lambda item: item[1].count(".")):  # first those without a key to change
        if name in RunFolder.own_names():
            raise UserError(f"{prefix}{key} is '{name}', which the run writes itself; give it another name")
        if name in writers:
            raise UserError(f"{prefix}{key} is '{name}', which {prefix}{writers[name]} writes; give it another name")
        writers[name] = key


def redacted(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with the values of secret ones replaced."""
    return {name: "<redacted>" if SECRET.search(name) else value for name, value in headers.items()}


@asynccontextmanager
async def writing(path: Path) -> AsyncIterator[LineWriter]:
    """Open a file for lines, and close it when all of them are written."""
    writer = LineWriter(path)
    try:
        yield writer
    finally:
        await asyncio.to_thread(writer.close)


class LineWriter:
    """A thread that appends JSON lines to a file; after the first error no more are written.

    `write` raises it for each later line, and `close` for the line itself, so that every lost line is counted.
    """

    def __init__(self, path: Path) -> None:
        self._file = append(path)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="adapter-log")
        self._error: StorageError | None = None

    def write(self, entry: Mapping[str, Json]) -> None:
        """Have a line written soon. Raises `StorageError` if an earlier one could not be."""
        if self._error is not None:
            raise self._error
        self._pool.submit(self._append, entry)

    def close(self) -> None:
        """Write the last lines. Raises `StorageError` if one could not be written."""
        self._pool.shutdown(wait=True)
        self._file.close()
        if self._error is not None:
            raise self._error

    def _append(self, entry: Mapping[str, Json]) -> None:
        if self._error is not None:
            return
        try:
            line = redact(json.dumps(entry, ensure_ascii=False, default=str)) + "\n"
            self._file.write(line.encode("utf-8", "backslashreplace"))
        except Exception as error:
            self._error = StorageError(f"{self._file.name}: {error}; no further lines are written")
