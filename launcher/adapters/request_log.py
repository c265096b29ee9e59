"""Writes requests with their responses to a file of the run folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from launcher.adapters.base import Adapter, Downstream, Part, closing
from launcher.adapters.line_writer import LineWriter, check_file, redacted, writing
from launcher.core.errors import AdapterError
from launcher.core.ranges import CountFromZero
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component


@component("adapters/request_log")
class RequestLog(Adapter):
    """Writes one JSON line per request to ``file`` in the run folder, as it is at this position in the adapters.

    A line holds ``time, sample, path, headers, request, status, response_headers, response, latency_s`` and ``error``;
    ``response`` is the list of events for a stream. Headers that look like secrets are redacted, and so are known
    secrets anywhere; a new file is its owner's only. ``max_count`` bounds the lines of one run (null: all). A thread of
    its own writes them; a resumed run adds to the file.

    Use it to read later what was asked, and what came back, at one place among the adapters.

    Example: ``python launch.py 'adapters=[request_log,retry]' adapters.request_log.max_count=100``
    """

    changes_answers: ClassVar[bool] = False
    observer: ClassVar[bool] = True
    needs_task = False
    reads = Part.all

    file: str = "requests.jsonl"
    max_count: CountFromZero | None = 1000

    def __post_init__(self) -> None:
        check_file(self.file, "adapters.request_log.file")
        self._writer: LineWriter | None = None
        self._count = 0

    def files(self) -> dict[str, str]:
        return {self.file: "adapters.request_log.file"}

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if self._writer is None:
            raise AdapterError("request_log: called outside of a run, there is no file to write to")
        if self.max_count is not None and self._count >= self.max_count:
            return await call_next(request)
        self._count += 1
        return await _logged(request, call_next, self._writer.write)

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        async with writing(folder / self.file) as writer:
            self._writer, self._count = writer, 0
            try:
                yield
            finally:
                self._writer = None


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
