"""Reports how many requests were answered, to a file and to a URL."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from launcher.adapters.base import Adapter, Downstream, Part, closing
from launcher.adapters.line_writer import check_file
from launcher.core.errors import StorageError, UserError
from launcher.core.files import replace_json
from launcher.core.ranges import Seconds
from launcher.core.redaction import reveal
from launcher.core.stream_end import error_in_body, error_in_stream, error_of_event
from launcher.core.types import Handler, Json, Request, Response
from launcher.core.unread import Unread
from launcher.settings.component import component

log = logging.getLogger(__name__)

WEBHOOK_TIMEOUT_S = 10.0


@component("adapters/progress")
class Progress(Adapter):
    """Writes ``file`` in the run folder, and posts the same JSON to ``webhook``, every ``interval_s`` and at the end.

    It holds ``requests``, ``in_flight``, ``answered``, and ``errors``, which are other statuses than 2xx and requests
    without an answer. A stream is in flight until it ends; one that breaks off, or ends in an error, is an error. So is
    an error behind a good status.
    ``started`` and ``updated`` are times in UTC; ``finished`` is true at the end.

    ``token_env`` names the variable with a bearer token for the webhook. A background task reports, and no request
    waits for it. What cannot be reported is logged once, and fails nothing.

    Use it if another program shows how far an evaluation is.

    Example: ``python launch.py 'adapters=[progress,retry]' adapters.progress.interval_s=30``
    """

    changes_answers: ClassVar[bool] = False
    observer: ClassVar[bool] = True
    needs_task = False
    reads = Part.none

    file: str = "progress.json"
    interval_s: Seconds = 10.0
    webhook: str = ""
    token_env: str = ""

    def __post_init__(self) -> None:
        check_file(self.file, "adapters.progress.file")
        url = urlsplit(self.webhook)
        if self.webhook and (url.scheme not in ("http", "https") or not url.netloc):
            raise UserError(f"adapters.progress.webhook is {self.webhook!r}; expected a URL such as https://host/path")
        self._counts: Counter[str] = Counter()
        self._failing: set[str] = set()

    def variables(self) -> dict[str, str]:
        return {"adapters.progress.token_env": self.token_env} if self.token_env else {}

    def files(self) -> dict[str, str]:
        return {self.file: "adapters.progress.file"}

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        self._counts["requests"] += 1
        self._counts["in_flight"] += 1
        try:
            response = await call_next(request)
        except BaseException:
            self._ended(is_good=False)
            raise
        if response.events is not None:
            return replace(response, events=self._streamed(response.events))
        self._ended(is_good=response.ok and _error_in(response.body) is None)
        return response

    def _ended(self, *, is_good: bool) -> None:
        self._counts["in_flight"] -= 1
        self._counts["answered" if is_good else "errors"] += 1

    async def _streamed(self, events: AsyncIterator[Json]) -> AsyncIterator[Json]:
        """Pass a stream on, and count it at its end."""
        before: Json = None
        last: Json = None
        is_whole = False
        try:
            async with closing(events):
                async for event in events:
                    before, last = last, event
                    yield event
            is_whole = True
        finally:
            self._ended(is_good=is_whole and _error_at_end(before, last) is None)

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        self._counts.clear()
        started = datetime.now(UTC).isoformat()
        task = asyncio.create_task(self._repeat(folder / self.file, started))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._report(folder / self.file, started, finished=True)

    async def _repeat(self, path: Path, started: str) -> None:
        while True:
            await self._report(path, started, finished=False)
            await asyncio.sleep(self.interval_s)

    async def _report(self, path: Path, started: str, *, finished: bool) -> None:
        names = ("requests", "in_flight", "answered", "errors")
        counts = {name: self._counts[name] for name in names}
        found = {**counts, "started": started, "updated": datetime.now(UTC).isoformat(), "finished": finished}
        try:
            await asyncio.to_thread(replace_json, path, found, indent=1)
        except StorageError as error:
            self._log_once("file", str(error))
        if self.webhook:
            await self._post(found)

    async def _post(self, found: Json) -> None:
        import aiohttp

        token = reveal(self.token_env, "adapters.progress.token_env") if self.token_env else ""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = aiohttp.ClientTimeout(total=WEBHOOK_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
                session.post(self.webhook, json=found, headers=headers, allow_redirects=False) as answer,
            ):
                if answer.status >= 300:
                    self._log_once("webhook", f"HTTP {answer.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._log_once("webhook", f"{type(error).__name__}: {error}")

    def _log_once(self, where: str, reason: str) -> None:
        if where not in self._failing:
            self._failing.add(where)
            log.error("adapters.progress.%s: %s; later failures are not logged", where, reason)


def _error_in(body: Json) -> str | None:
    return error_in_body(body.raw) if isinstance(body, Unread) else error_of_event(body)


def _error_at_end(before: Json, last: Json) -> str | None:
    """Return the error in the last events of a stream, or in its last bytes where nothing reads events."""
    if not isinstance(last, Unread):
        return error_of_event(last)
    return error_in_stream((before.raw if isinstance(before, Unread) else b"") + last.raw)
