"""Answers a request from a file of earlier answers."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar
from weakref import WeakValueDictionary

from launcher.adapters.base import Adapter, Downstream, Part, closing, counting
from launcher.adapters.forgetting import on_failure
from launcher.adapters.line_writer import is_path
from launcher.adapters.response_store import ResponseStore, digest_of
from launcher.core.console import to_stderr
from launcher.core.errors import AdapterError, UserError
from launcher.core.files import append
from launcher.core.ranges import Positive
from launcher.core.responses import check_stream, checked, expected
from launcher.core.run_folder import RunFolder
from launcher.core.types import PROXIED, Handler, Json, Request, Response, expanded
from launcher.core.units import GIB
from launcher.settings.component import component

WORKER = re.compile(r"worker-\d+")
"""The folder of one of several processes of a proxy, which do not know of each other's requests."""
COUNTED = ("from_folder", "asked")
SESSIONS = "caching.sessions"
"""Has a byte for each process that has begun to tell requests apart."""


@component("adapters/caching")
class Caching(Adapter):
    """Stores every whole answer in ``folder``, and returns it for the same request, in this run or in a later one.

    ``max_gib`` bounds the folder, in GiB: the answers that were not used for the longest time go first. Runs may share
    the folder, also at the same time, and on several hosts if their shared disk supports locks. Delete the folder to
    clear the cache. To use it for one run only, name a folder in that run.

    Two requests are the same if their paths, bodies and headers are equal, and the same upstream would answer them. The
    upstream is the deployment with its settings, versions and the content of its checkpoint, and the adapters behind
    this one. The checkpoint of a server at a URL, or of a model of a hub, is not known. There ``upstream_id`` must name
    the checkpoint, for instance ``step-1000``, and must change with the checkpoint. Repeats of a sample never share an
    answer; unless the temperature is 0, neither do two samples. Through a proxy, equal requests are told apart by their
    order where the temperature is not 0. The second gets another answer than the first, and a later run gets both
    again.

    Equal requests at the same time are sent once, except streams. These are never stored: errors, answers that
    contradict themselves or their request, streams without an end, and answers that another adapter failed. A damaged
    file is put aside, and a new one begins. Throughput counts no answer from the folder. ``caching.json`` in the run
    folder counts ``from_folder`` and ``asked``; a resumed run adds to it.

    Use it for sweeps and repeated runs, which ask much that was asked before, and for tasks that are still changed.

    Example: ``python launch.py 'adapters=[retry,caching]' adapters.caching.folder=answers adapters.caching.max_gib=2``
    """

    changes_answers: ClassVar[bool] = False
    needs_task = False
    reads = Part.all
    rewrites = Part.none
    keeps_answers: ClassVar[bool] = True

    folder: str = "~/.cache/launcher/answers"
    upstream_id: str | None = None
    max_gib: Positive = 10.0

    def __post_init__(self) -> None:
        if not self.folder or not is_path(self.folder):
            raise UserError(f"adapters.caching.folder is '{self.folder}'; a folder is needed")
        self._store: ResponseStore | None = None
        self._downstream: Json = None
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._drawn: Counter[bytes] = Counter()
        self._place = ""
        self._folder = Path()
        self.counts: Counter[str] = Counter()

    def files(self) -> dict[str, str]:
        return dict.fromkeys((RunFolder.counted("caching"), SESSIONS), "adapters.caching")

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        if downstream.deployment is None and not self.upstream_id:
            raise UserError(
                "adapters.caching.upstream_id is not set, and the checkpoint behind this endpoint is not known; "
                "give it a name, for instance upstream_id=step-1000, and change the name with the checkpoint"
            )
        self._downstream = asdict(downstream) | {"upstream_id": self.upstream_id}
        self._store = ResponseStore(expanded(self.folder), int(self.max_gib * GIB))
        self._folder, self._place = folder, ""
        self._drawn.clear()
        to_stderr(self._told(self._store))
        try:
            async with counting(RunFolder(folder).counts("caching"), self.counts, COUNTED):
                yield
        finally:
            await asyncio.to_thread(self._store.close)
            self._store = None

    def _told(self, store: ResponseStore) -> str:
        used = store.used_bytes() / GIB
        return f"caching: {used:.3f} of {self.max_gib:g} GiB in {store.path}; delete {store.path.parent} to clear it"

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        store = self._store
        if store is None:
            raise AdapterError("caching: called outside of a run, there is no folder for answers")
        digest = self._digest(request)
        on_failure(lambda: store.forget(digest))
        async with self._locks.setdefault(digest, asyncio.Lock()):
            return await self._respond(store, digest, request, call_next)

    def _digest(self, request: Request) -> bytes:
        """Return the key of a request; equal ones without a sample differ by their order where answers are drawn."""
        if request.sample is not None and not request.sample.startswith(PROXIED):
            return digest_of(request, self._downstream)
        digest = digest_of(replace(request, sample=None), self._downstream)
        if request.body.get("temperature") == 0:
            return digest
        self._place = self._place or _new_place(self._folder)
        self._drawn[digest] += 1
        return hashlib.sha256(digest + f"{self._place}#{self._drawn[digest]}".encode()).digest()

    async def _respond(self, store: ResponseStore, digest: bytes, request: Request, call_next: Handler) -> Response:
        start = time.perf_counter()
        kept = await store.read(digest)
        if kept is not None:
            self.counts["from_folder"] += 1
            return replace(kept, latency_s=time.perf_counter() - start)
        response = await call_next(request)
        self.counts["asked"] += 1
        if response.status != 200:
            return response
        if response.events is not None:
            return replace(response, events=_copied(response.events, store, digest, expected(request)))
        response = checked(request, response)
        if response.fault is None:
            store.write(digest, response, None)
        return response


def _new_place(folder: Path) -> str:
    """Return what tells the requests of a process from those of other workers, and of earlier ones that have died."""
    worker = folder.name if WORKER.fullmatch(folder.name) else ""
    with append(folder / SESSIONS) as file:
        file.write(b".")
        return f"{worker}/{file.tell()}"


async def _copied(events: AsyncIterator[Json], store: ResponseStore, digest: bytes, number: int) -> AsyncIterator[Json]:
    """Pass a stream on, and store it once it is complete."""
    seen: list[Json] = []
    async with closing(events):
        async for event in events:
            seen.append(event)
            yield event
    if check_stream(seen) is None and _is_complete(seen, number):
        store.write(digest, Response(200), seen)


def _is_complete(events: Sequence[Mapping[str, Json]], number: int) -> bool:
    """Tell whether a stream has as many choices as its request asks for, and no other, and each has ended."""
    choices = [choice for event in events for choice in event["choices"]]
    ended = {choice["index"] for choice in choices if choice.get("finish_reason") is not None}
    return ended == {choice["index"] for choice in choices} == set(range(number))
