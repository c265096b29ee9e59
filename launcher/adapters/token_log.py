"""Writes the token counts of every answer to a file of the run folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from launcher.adapters.base import Adapter, Downstream, Part, closing
from launcher.adapters.line_writer import LineWriter, check_file, writing
from launcher.core.errors import AdapterError
from launcher.core.responses import token_count
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@component("adapters/token_log")
class TokenLog(Adapter):
    """Writes one JSON line per answer to ``file``: ``sample, path, status, cached`` and the token counts of ``usage``.

    The counts are ``prompt_tokens``, ``completion_tokens`` and ``total_tokens``, and ``cached_tokens`` and
    ``reasoning_tokens`` where a server reports them. What it does not report is null. Of a stream the last event with
    ``usage`` counts, which a request gets with ``stream_options.include_usage``.

    Use it to account for tokens by sample.

    Example: ``python launch.py 'adapters=[token_log,retry]'``
    """

    changes_answers: ClassVar[bool] = False
    observer: ClassVar[bool] = True
    needs_task = False
    reads = Part.answer | Part.events

    file: str = "tokens.jsonl"

    def __post_init__(self) -> None:
        check_file(self.file, "adapters.token_log.file")
        self._writer: LineWriter | None = None

    def files(self) -> dict[str, str]:
        return {self.file: "adapters.token_log.file"}

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if self._writer is None:
            raise AdapterError("token_log: called outside of a run, there is no file to write to")
        response = await call_next(request)
        line = {
            "sample": request.sample,
            "path": request.path,
            "status": response.status,
            "cached": response.cached,
        }
        if response.events is not None:
            return replace(response, events=_counted(response.events, line, self._writer))
        self._writer.write(line | _counts(response.body))
        return response

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        async with writing(folder / self.file) as self._writer:
            try:
                yield
            finally:
                self._writer = None


def _counts(body: Json) -> dict[str, int | None]:
    usage = body.get("usage") if isinstance(body, Mapping) else None
    usage = usage if isinstance(usage, Mapping) else {}
    return {
        **{name: token_count(usage, name) for name in COUNTS},
        "cached_tokens": token_count(usage.get("prompt_tokens_details"), "cached_tokens"),
        "reasoning_tokens": token_count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    }


async def _counted(events: AsyncIterator[Json], line: dict[str, Json], writer: LineWriter) -> AsyncIterator[Json]:
    last: Json = None
    try:
        async with closing(events):
            async for event in events:
                last = event if isinstance(event, Mapping) and event.get("usage") else last
                yield event
    finally:
        writer.write(line | _counts(last))
