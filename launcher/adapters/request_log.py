"""Writes requests with their responses to a file of the run folder."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from launcher.adapters.base import Adapter, Downstream, closing
from launcher.core.errors import AdapterError, UserError
from launcher.core.files import append
from launcher.core.ranges import CountFromZero
from launcher.core.redaction import redact
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component

log = logging.getLogger(__name__)

SECRET = re.compile(r"auth|key|token|secret|cookie|password|credential", re.IGNORECASE)
"""Names of headers whose values are never written."""


@component("adapters/request_log")
class RequestLog(Adapter):
    """Writes one JSON line per request to ``file`` in the run folder, as it is at this position in the adapters.

    A line holds ``time, sample, path, headers, request, status, response_headers, response, latency_s`` and ``error``;
    ``response`` is the list of events for a stream. Headers that look like secrets are redacted, and so are known
    secrets anywhere; a new file is its owner's only. ``max_count`` bounds the lines of one run (null: all). A thread of
    its own writes them; a resumed run adds to the file.
    """

    changes_answers: ClassVar[bool] = False

    file: str = "requests.jsonl"
    max_count: CountFromZero | None = 1000

    def __post_init__(self) -> None:
        if not self.file or Path(self.file).name != self.file:
            raise UserError(f"adapters.request_log.file is '{self.file}'; a file name without a folder is needed")
        self._writer: _Writer | None = None
        self._count = 0

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if self._writer is None:
            raise AdapterError("request_log: called outside of a run, there is no file to write to")
        if self.max_count is not None and self._count >= self.max_count:
            return await call_next(request)
        self._count += 1
        return await _logged(request, call_next, self._writer.write)

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        self._writer, self._count = _Writer(folder / self.file), 0
        try:
            yield
        finally:
            writer, self._writer = self._writer, None
            await asyncio.to_thread(writer.close)


class _Writer:
    """A thread that appends JSON lines to a file; the first error is logged, and later lines are dropped."""

    def __init__(self, path: Path) -> None:
        self._file = append(path)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="request-log")
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
            log.error("%s: %s; no further requests are logged", self._file.name, error)


async def _logged(request: Request, call_next: Handler, write: Callable[[Mapping[str, Json]], None]) -> Response:
    entry: dict[str, Json] = {
        "time": datetime.now(UTC).isoformat(),
        "sample": request.sample,
        "path": request.path,
        "headers": redacted(request.headers),
        "request": request.body,
    }
    try:
        response = await call_next(request)
    except BaseException as error:
        write(entry | {"error": f"{type(error).__name__}: {error}"})
        raise
    entry |= {
        "status": response.status,
        "response_headers": redacted(response.headers),
        "latency_s": round(response.latency_s, 6),
    }
    if response.events is None:
        write(entry | {"response": response.body})
        return response
    return replace(response, events=_copied(response.events, entry, write))


async def _copied(
    events: AsyncIterator[Json], entry: Mapping[str, Json], write: Callable[[Mapping[str, Json]], None]
) -> AsyncIterator[Json]:
    seen: list[Json] = []
    error: str | None = None
    try:
        async with closing(events):
            async for event in events:
                seen.append(event)
                yield event
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
        raise
    finally:
        write({**entry, "response": seen, **({"error": error} if error else {})})


def redacted(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with the values of secret ones replaced."""
    return {name: "<redacted>" if SECRET.search(name) else value for name, value in headers.items()}
