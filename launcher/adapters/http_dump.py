"""Writes requests and their answers as they look in HTTP, one file each, for people to read."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from http.client import responses
from pathlib import Path
from typing import ClassVar

from launcher.adapters.base import Adapter, Downstream, Part, closing
from launcher.adapters.line_writer import check_file, redacted
from launcher.core.errors import AdapterError
from launcher.core.files import install
from launcher.core.ranges import Count
from launcher.core.redaction import redact
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component


@component("adapters/http_dump")
class HttpDump(Adapter):
    """Writes the first ``max_count`` requests of a run with their answers to ``folder`` in the run folder.

    Each file, such as ``0001.txt``, shows method and path, headers, the JSON body with line breaks, and the same of the
    answer. Of a stream it shows the events. Headers that look like secrets, and known secrets anywhere, are redacted.
    A resumed run goes on with the numbers. It shows them as they are at this position in the adapters.

    Use it to see what goes over the wire while a server or an adapter is set up. The exchanges of samples that fail are
    kept anyway, see ``evaluate.keep_failures``.

    Example: ``python launch.py 'adapters=[retry,http_dump]' adapters.http_dump.max_count=5``
    """

    changes_answers: ClassVar[bool] = False
    observer: ClassVar[bool] = True
    needs_task = False
    reads = Part.all

    folder: str = "http"
    max_count: Count = 20

    def __post_init__(self) -> None:
        check_file(self.folder, "adapters.http_dump.folder")
        self._folder: Path | None = None
        self._count = 0

    def files(self) -> dict[str, str]:
        return {self.folder: "adapters.http_dump.folder"}

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if self._folder is None:
            raise AdapterError("http_dump: called outside of a run, there is no folder to write to")
        if self._count >= self.max_count:
            return await call_next(request)
        self._count += 1
        path = self._folder / f"{self._count:04d}.txt"
        try:
            response = await call_next(request)
        except Exception as error:
            await _write(path, f"{_request_text(request)}\n\n{type(error).__name__}: {error}\n")
            raise
        if response.events is not None:
            return replace(response, events=_copied(response.events, path, request, response))
        await _write(path, _exchange_text(request, response, _pretty(response.body)))
        return response

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        self._folder = folder / self.folder
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        numbers = [int(path.stem) for path in self._folder.glob("*.txt") if re.fullmatch(r"\d{4,}", path.stem)]
        self._count = max(numbers, default=0)
        try:
            yield
        finally:
            self._folder = None


async def _copied(events: AsyncIterator[Json], path: Path, request: Request, response: Response) -> AsyncIterator[Json]:
    seen: list[str] = []
    try:
        async with closing(events):
            async for event in events:
                seen.append(f"data: {json.dumps(event, ensure_ascii=False)}\n\n")
                yield event
    finally:
        await _write(path, _exchange_text(request, response, "".join(seen).rstrip()))


def _exchange_text(request: Request, response: Response, body: str) -> str:
    answer = f"HTTP/1.1 {response.status} {responses.get(response.status, '')}".rstrip()
    return f"{_request_text(request)}\n\n{answer}\n{_header_lines(response.headers)}\n{body}\n"


def _request_text(request: Request) -> str:
    return f"POST {request.path} HTTP/1.1\n{_header_lines(request.headers)}\n{_pretty(request.body)}"


def _header_lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in redacted(headers).items())


def _pretty(body: Json) -> str:
    return body if isinstance(body, str) else json.dumps(body, indent=2, ensure_ascii=False, default=str)


async def _write(path: Path, text: str) -> None:
    """Write a file that only its owner reads. Raises `StorageError`, which the chain counts."""
    content = redact(text).encode("utf-8", "backslashreplace")
    await asyncio.to_thread(install, path, [content], private=True, durable=False)
