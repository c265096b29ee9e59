"""Writes the answers to a file of the run folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from launcher.adapters.base import Adapter, Downstream, Part, closing
from launcher.adapters.line_writer import LineWriter, check_file, writing
from launcher.core.errors import AdapterError
from launcher.core.ranges import CountFromZero
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component


@component("adapters/response_log")
class ResponseLog(Adapter):
    """Writes one JSON line per answer to ``file`` in the run folder, as it is at this position in the adapters.

    A line holds ``time, sample, path, status, response, latency_s`` and ``cached``, but not the request, which
    ``request_log`` writes too. ``response`` is the list of events for a stream. ``errors_only`` leaves out answers with
    a 2xx status. ``max_count`` bounds the lines of one run (null: all). Known secrets are redacted; a resumed run adds
    to the file.

    Use it to keep answers without their prompts, or only errors.

    Example: ``python launch.py 'adapters=[response_log,retry]' adapters.response_log.errors_only=true``
    """

    changes_answers: ClassVar[bool] = False
    needs_task = False
    observer: ClassVar[bool] = True

    file: str = "responses.jsonl"
    max_count: CountFromZero | None = 1000
    errors_only: bool = False

    def __post_init__(self) -> None:
        check_file(self.file, "adapters.response_log.file")
        self.reads = Part.none if self.errors_only else Part.answer | Part.events
        self._writer: LineWriter | None = None
        self._count = 0

    def files(self) -> dict[str, str]:
        return {self.file: "adapters.response_log.file"}

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if self._writer is None:
            raise AdapterError("response_log: called outside of a run, there is no file to write to")
        response = await call_next(request)
        full = self.max_count is not None and self._count >= self.max_count
        if full or (self.errors_only and response.ok):
            return response
        self._count += 1
        line = {
            "time": datetime.now(UTC).isoformat(),
            "sample": request.sample,
            "path": request.path,
            "status": response.status,
            "latency_s": round(response.latency_s, 6),
            "cached": response.cached,
        }
        if response.events is not None:
            return replace(response, events=_copied(response.events, line, self._writer))
        self._writer.write({**line, "response": response.body})
        return response

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        async with writing(folder / self.file) as writer:
            self._writer, self._count = writer, 0
            try:
                yield
            finally:
                self._writer = None


async def _copied(events: AsyncIterator[Json], line: dict[str, Json], writer: LineWriter) -> AsyncIterator[Json]:
    """Pass a stream on, and write what has passed, also of a stream that breaks off."""
    seen: list[Json] = []
    try:
        async with closing(events):
            async for event in events:
                seen.append(event)
                yield event
    finally:
        writer.write({**line, "response": seen})
