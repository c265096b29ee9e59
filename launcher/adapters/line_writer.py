"""Appends JSON lines to a file of the run folder, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from launcher.core.errors import UserError
from launcher.core.files import append
from launcher.core.redaction import redact
from launcher.core.types import Json

log = logging.getLogger(__name__)

SECRET = re.compile(r"auth|key|token|secret|cookie|password|credential", re.IGNORECASE)
"""Names of headers whose values are never written."""


def check_file(file: str, key: str) -> None:
    """Raise `UserError`, which names the setting, unless ``file`` is the name of a file without a folder."""
    if not file or Path(file).name != file:
        raise UserError(f"{key} is '{file}'; a file name without a folder is needed")


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
    """A thread that appends JSON lines to a file; the first error is logged, and later lines are dropped."""

    def __init__(self, path: Path) -> None:
        self._file = append(path)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="adapter-log")
        self._broken = False

    def write(self, entry: Mapping[str, Json]) -> None:
        self._pool.submit(self._append, entry).add_done_callback(self._check)

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        self._file.close()

    def _append(self, entry: Mapping[str, Json]) -> None:
        if not self._broken:
            line = redact(json.dumps(entry, ensure_ascii=False, default=str)) + "\n"
            self._file.write(line.encode("utf-8", "backslashreplace"))

    def _check(self, done: Future[None]) -> None:
        error = done.exception()
        if error is not None and not self._broken:
            self._broken = True
            log.error("%s: %s; no further lines are written", self._file.name, error)
