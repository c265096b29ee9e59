"""Answers a request from a folder of earlier answers."""

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

from launcher.adapters.base import Adapter, Downstream, Part, closing, counting
from launcher.adapters.response_store import CacheKey, ResponseStore
from launcher.core.errors import AdapterError, UserError
from launcher.core.responses import check_stream, checked
from launcher.core.run_folder import RunFolder
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component

COUNTED = ("from_folder", "asked")


@component("adapters/caching")
class Caching(Adapter):
    """Stores every whole answer in ``folder``, and returns it for the same request, in this run or in a later one.

    Two requests are the same if their paths, bodies and headers are equal, and the same upstream would answer them. The
    upstream is the deployment with its settings, versions and the content of its checkpoint, and the adapters behind
    this one. The checkpoint of a server at a URL, or of a model of a hub, is not known. There ``upstream_id`` must name
    it, for instance ``step-1000``, and must change with the checkpoint. Repeats of a sample never share an answer;
    unless the temperature is 0, neither do two samples.

    Equal requests at the same time are sent once, except streams. Errors, answers that contradict themselves or their
    request, and streams that ended early are not stored. A damaged file is replaced by a new answer. Throughput counts
    no answer from the folder. ``caching.json`` in the run folder counts ``from_folder`` and ``asked``; a resumed run
    adds to it.
    """

    changes_answers: ClassVar[bool] = False
    reads = Part.all
    rewrites = Part.none

    folder: str = "~/.cache/launcher/answers"
    upstream_id: str | None = None

    def __post_init__(self) -> None:
        if not self.folder:
            raise UserError("adapters.caching.folder is empty; a folder is needed")
        self._store: ResponseStore | None = None
        self._downstream: Json = None
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.counts: Counter[str] = Counter()

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        if downstream.deployment is None and not self.upstream_id:
            raise UserError(
                "adapters.caching.upstream_id is not set, and the checkpoint behind this endpoint is not known; "
                "give it a name, for instance upstream_id=step-1000, and change the name with the checkpoint"
            )
        self._downstream = asdict(downstream) | {"upstream_id": self.upstream_id}
        self._store = ResponseStore(Path(self.folder).expanduser())
        try:
            with counting(RunFolder(folder).counts("caching"), self.counts, COUNTED):
                yield
        finally:
            self._store = None

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if self._store is None:
            raise AdapterError("caching: called outside of a run, there is no folder for answers")
        key = CacheKey.of(request, self._downstream)
        async with self._locks.setdefault(key.digest, asyncio.Lock()):
            return await self._respond(self._store, key, request, call_next)

    async def _respond(self, store: ResponseStore, key: CacheKey, request: Request, call_next: Handler) -> Response:
        start = time.perf_counter()
        kept = await asyncio.to_thread(store.read, key)
        if kept is not None:
            self.counts["from_folder"] += 1
            return replace(kept, latency_s=time.perf_counter() - start)
        response = await call_next(request)
        self.counts["asked"] += 1
        if response.status != 200:
            return response
        if response.events is not None:
            return replace(response, events=_copied(response.events, store, key))
        response = checked(request, response)
        if response.fault is None:
            await asyncio.to_thread(store.write, key, response, None)
        return response


async def _copied(events: AsyncIterator[Json], store: ResponseStore, key: CacheKey) -> AsyncIterator[Json]:
    """Pass a stream on, and store it once it is complete."""
    seen: list[Json] = []
    async with closing(events):
        async for event in events:
            seen.append(event)
            yield event
    if check_stream(seen) is None:
        await asyncio.to_thread(store.write, key, Response(200), seen)
