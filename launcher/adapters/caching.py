"""Answers a request that was answered before from a folder."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar
from weakref import WeakValueDictionary

from launcher.adapters.base import Adapter, Downstream, closing, counting
from launcher.adapters.response_store import CacheKey, ResponseStore
from launcher.core.errors import AdapterError, UserError
from launcher.core.responses import check_stream, checked
from launcher.core.run_folder import RunFolder
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component

COUNTED = ("from_folder", "asked")


@component("adapters/caching")
class Caching(Adapter):
    """Keeps every whole answer in ``folder``, and gives it to the same request again, in this run or in a later one.

    Requests are the same if their paths, bodies and headers are, and if the same would answer them: the deployment as
    it is configured, its checkpoint by content, the versions of what runs it, and the adapters behind this one with
    their settings. Where the checkpoint is not known (a server at a URL, a model of a hub), ``serves`` must name what
    is served, for instance ``step-1000``, and is to be changed whenever that changes. Repeats of a sample never share
    an answer; unless the temperature is 0, neither do two samples.

    Requests that are the same and come at the same time are sent once, streams excepted. Errors, answers that
    contradict themselves or what was asked, and streams that ended early, are not kept. A file that is damaged is asked
    for again. Throughput counts no answer from the folder, and ``caching.json`` in the run folder counts both:
    ``from_folder`` and ``asked``; a resumed run adds to it.
    """

    changes_answers: ClassVar[bool] = False

    folder: str = "~/.cache/launcher/answers"
    serves: str | None = None

    def __post_init__(self) -> None:
        if not self.folder:
            raise UserError("adapters.caching.folder is empty; a folder is needed")
        self._answers: ResponseStore | None = None
        self._behind: Json = None
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.counts: Counter[str] = Counter()

    @asynccontextmanager
    async def running(self, folder: Path, behind: Downstream) -> AsyncIterator[None]:
        if behind.deployment is None and not self.serves:
            raise UserError(
                "adapters.caching.serves is not set, and nothing else says which checkpoint answers here; accepted is "
                "a name for it, to be changed whenever it changes"
            )
        self._behind = asdict(behind) | {"serves": self.serves}
        self._answers = ResponseStore(Path(self.folder).expanduser())
        try:
            with counting(RunFolder(folder).counts("caching"), self.counts, COUNTED):
                yield
        finally:
            self._answers = None

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if self._answers is None:
            raise AdapterError("caching: called outside of a run, there is no folder for answers")
        question = CacheKey.of(request, self._behind)
        async with self._turns.setdefault(question.digest, asyncio.Lock()):
            return await self._answered(self._answers, question, request, call_next)

    async def _answered(
        self, answers: ResponseStore, question: CacheKey, request: Request, call_next: Handler
    ) -> Response:
        start = time.perf_counter()
        kept = await asyncio.to_thread(answers.read, question)
        if kept is not None:
            self.counts["from_folder"] += 1
            return replace(kept, latency_s=time.perf_counter() - start)
        response = await call_next(request)
        self.counts["asked"] += 1
        if response.status != 200:
            return response
        if response.events is not None:
            return replace(response, events=_copied(response.events, answers, question))
        response = checked(request, response)
        if response.fault is None:
            await asyncio.to_thread(answers.write, question, response, None)
        return response


async def _copied(events: AsyncIterator[Json], answers: ResponseStore, question: CacheKey) -> AsyncIterator[Json]:
    """Pass a stream on, and keep it if it comes to its end."""
    seen: list[Json] = []
    async with closing(events):
        async for event in events:
            seen.append(event)
            yield event
    if check_stream(seen) is None:
        await asyncio.to_thread(answers.write, question, Response(200), seen)
