"""Makes the samples of all tasks in order, as they are needed."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from launcher.core.errors import TaskError
from launcher.core.key_table import KeySet, KeyTable
from launcher.core.types import Json, Record, Request, Sample
from launcher.core.values import changed
from launcher.evaluate.faults import check_sample
from launcher.settings.evaluate import Evaluate
from launcher.tasks import waiting
from launcher.tasks.base import Task, naming

AT_ONCE = 64
"""With ``concurrency=auto``, a thread makes so many samples at a time."""


class SampleSource:
    """Hands out the samples that are not done yet, to any number of workers.

    ``order`` has the number in ``keys`` of every sample made so far, also of those in ``done``, which are not asked
    again.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        settings: Evaluate,
        model: str,
        done: Container[str],
        keys: KeyTable | None = None,
    ) -> None:
        self.keys = KeyTable() if keys is None else keys
        self.order = array("I")
        self._noted_keys = KeySet(self.keys)
        self._counts: Counter[str] = Counter()
        self._at_once = settings.concurrency if isinstance(settings.concurrency, int) else AT_ONCE
        self._tasks, self._settings, self._model = tasks, settings, model
        self._iterator = (sample for sample in self._all() if sample.key not in done)
        self._ready: deque[Sample] = deque()
        self._taking = asyncio.Lock()
        self._ended = threading.Event()
        self._making = threading.Lock()
        self._all_made = False

    async def take(self) -> Sample | None:
        """Return the next sample to ask, None after the last; a thread makes ``concurrency`` samples at a time."""
        async with self._taking:
            if not self._ready:
                self._ready.extend(await self._made())
            return self._ready.popleft() if self._ready else None

    def take_at_once(self) -> Sample | None:
        """Return the next sample if it is made and no one waits for one."""
        return self._ready.popleft() if self._ready and not self._taking.locked() else None

    @property
    def all_made(self) -> bool:
        """Whether ``order`` has all samples."""
        return self._all_made

    @property
    def held(self) -> bool:
        """Whether the next sample has to wait; the callback of `on_change` tells that this may have ended."""
        return False

    def on_change(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` whenever `held` may have changed."""

    def note(self, record: Record) -> None:
        """Take how a sample has ended."""

    def facts(self) -> dict[str, Json]:
        """Return what the journal keeps of the order, beside the samples."""
        return {}

    def every(self) -> Iterator[Sample]:
        """Yield all samples that are not done, without handing them out."""
        return self._iterator

    async def _made(self) -> list[Sample]:
        """Make samples in a thread, which may wait for a server until this is cancelled."""
        waiting.ended.set(self._ended)
        try:
            return await asyncio.to_thread(self._some)
        except asyncio.CancelledError:
            self._ended.set()
            raise

    def totals(self, *, complete: bool, within_s: float = math.inf) -> dict[str, int | None]:
        """Return the number of samples of each task; None where it is unknown until all were made.

        ``complete`` makes the rest of them, without asking, where there is no other way to know. That takes at most
        ``within_s`` seconds, and waits for no server that is away.
        """
        sizes = {name: self._size(task) for name, task in self._tasks.items()}
        if None in sizes.values() and complete:
            self._make_all(time.monotonic() + within_s)
        made = self._counts if self._all_made else {}
        return {
            name: made.get(name, 0 if self._all_made else None) if size is None else size
            for name, size in sizes.items()
        }

    def _make_all(self, deadline: float) -> None:
        wait_s = min(threading.TIMEOUT_MAX, max(0.0, deadline - time.monotonic()))
        self._ended.set()
        if self._making.acquire(timeout=wait_s):
            try:
                with waiting.until(self._ended), suppress(waiting.NotBack):
                    for _ in self._iterator:
                        if time.monotonic() > deadline:
                            return
            finally:
                self._making.release()

    def _size(self, task: Task) -> int | None:
        size = task.size()
        limited = size if self._settings.limit is None or size is None else min(size, self._settings.limit)
        return None if limited is None else limited * self._settings.repeats

    def _some(self) -> list[Sample]:
        with self._making:
            return list(islice(self._iterator, self._at_once))

    def _all(self) -> Iterator[Sample]:
        for name, task in self._tasks.items():
            with naming(name):
                for sample in islice(task.samples(name, self._model), self._settings.limit):
                    check_sample(sample, name)
                    for repeat in range(self._settings.repeats):
                        yield self._noted(self._repeated(sample, repeat))
        self._all_made = True

    def _noted(self, sample: Sample) -> Sample:
        number = self.keys.add(sample.key)
        if self._noted_keys.has(number):
            raise TaskError(f"two samples have the id '{sample.id}'")
        self._noted_keys.put(number)
        self.order.append(number)
        self._counts[sample.task] += 1
        return sample

    def _repeated(self, sample: Sample, repeat: int) -> Sample:
        key, before = f"{sample.task}/{sample.id}/{repeat}", repeat * len(sample.requests)
        requests = [
            changed(overridden(request, self._settings, before, index), sample=key, index=index)
            for index, request in enumerate(sample.requests)
        ]
        return changed(sample, repeat=repeat, requests=tuple(requests))


def overridden(request: Request, settings: Evaluate, before: int, index: int = 0) -> Request:
    """Return the request with the sampling of the settings; a request with ``echo`` stays unchanged.

    ``before`` counts the requests of earlier repeats of the item, ``index`` those before this one in the sample. Each
    draws with another seed; one that the task gives differs within the sample already.
    """
    if request.body.get("echo"):
        return request
    own = request.body.get("seed")
    if own is settings.seed is settings.temperature is settings.max_tokens is None:
        return request
    given_seed = own + before if isinstance(own, int) else None
    seed = given_seed if settings.seed is None else settings.seed + before + index
    length = "max_completion_tokens" if "max_completion_tokens" in request.body else "max_tokens"
    given = {"temperature": settings.temperature, length: settings.max_tokens, "seed": seed}
    new = {name: value for name, value in given.items() if value is not None}
    return replace(request, body={**request.body, **new}) if new else request
