"""Orders the samples, with those that are asked again after an outage."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from itertools import count
from typing import Protocol

from launcher.core.types import Sample

MAX_OUTAGES = 3
"""A sample that met this many outages is not asked again: it may be what ends the server."""
OUTAGE_BACKOFF = 8
"""With each outage of a sample, this many times fewer others are in flight beside it, and meet its next one."""
MAX_FUTILE = 20
"""After this many second attempts in a row that changed nothing, the failed samples that are left are not asked again.
Before one has changed something, no more than these are in flight."""


class Source(Protocol):
    """Hands out each sample once, None after the last."""

    async def take(self) -> Sample | None: ...

    def take_at_once(self) -> Sample | None:
        """Return the next sample if it is made; None where only `take` can tell."""

    @property
    def held(self) -> bool:
        """Whether the next sample has to wait, until `SampleQueue.wake` is called."""


class SampleQueue:
    """Hands out samples to workers; each is given back by `done` or `requeue`.

    Fresh samples come first. Samples that met an outage follow, those with the fewest outages first. They run with so
    few others in flight that a sample which ends the server is soon alone with it. Second attempts of failed samples
    come last.
    """

    def __init__(self, source: Source, concurrency: int) -> None:
        self._source = source
        self.concurrency = concurrency
        self._fresh = True
        self._next_ones: deque[Sample] = deque()
        self._last_ones: deque[Sample] = deque()
        self._last_in_flight: set[str] = set()
        self._futile = 0
        self._requeued: list[tuple[int, int, Sample]] = []
        self._order = count()
        self._outages: Counter[str] = Counter()
        self._in_flight = 0
        self._stopping: str | None = None
        self._looked = False
        self._taking = asyncio.Lock()
        self._changed = asyncio.Event()

    async def take(self) -> Sample | None:
        """Return the next sample, None once all are done; wait while a taken sample may be requeued."""
        if (ready := self._ready()) is not None:
            self._in_flight += 1
            return ready
        async with self._taking:
            while True:
                self._changed.clear()
                sample = await self._next()
                if sample is not None:
                    self._in_flight += 1
                    return sample
                if self._stopping is not None or not (self._requeued or self._in_flight or self._held):
                    return None
                await self._changed.wait()

    def _ready(self) -> Sample | None:
        """Return a fresh sample where it surely is the next one, as nearly every time; no one has to wait for it."""
        if self._next_ones or self._stopping is not None or not self._fresh or self._source.held:
            return None
        return None if self._taking.locked() else self._source.take_at_once()

    def wake(self) -> None:
        """Look again whether the next sample may be handed out."""
        self._changed.set()

    @property
    def _held(self) -> bool:
        return self._fresh and self._source.held

    def done(self) -> None:
        """Record that a sample that was taken has ended."""
        self._in_flight -= 1
        self._changed.set()

    def again(self, sample: Sample, *, last: bool) -> None:
        """Give a sample back for a second attempt: after all others if ``last``, else before them."""
        (self._last_ones if last else self._next_ones).append(sample)
        self.done()

    def changed(self, sample: Sample, *, better: bool) -> None:
        """Record how the second attempt of a failed sample ended."""
        self._last_in_flight.discard(sample.key)
        self._futile = 0 if better else self._futile + 1

    def stop(self, why: str | None) -> None:
        """Hand out no more samples for this reason, if there is one; what was begun ends, also by a second attempt."""
        if why is not None and self._stopping is None:
            self._stopping = why
            self._changed.set()

    @property
    def stopped(self) -> str | None:
        """Why samples were left; None if none were."""
        left = self._fresh or self._requeued or self._next_ones or self._last_ones
        return self._stopping if left else None

    def requeue(self, sample: Sample, *, outage: bool = True) -> bool:
        """Give a sample back to be asked again; return False, and keep it taken, if it met too many outages.

        Without ``outage`` it is asked again for another reason, which does not count.
        """
        self._outages[sample.key] += outage
        if self._outages[sample.key] >= MAX_OUTAGES:
            return False
        heapq.heappush(self._requeued, (self._outages[sample.key], next(self._order), sample))
        self.done()
        return True

    def outages(self, sample: Sample) -> int:
        """Return how many outages a sample has met."""
        return self._outages[sample.key] if self._outages else 0

    async def _look_for_more(self) -> None:
        """Find out, once, whether a fresh sample is left."""
        if self._fresh and not self._looked:
            self._looked = True
            self._fresh = await self._source.take() is not None

    async def _next(self) -> Sample | None:
        """Return a fresh sample, or one to be asked again if few enough are in flight."""
        if self._next_ones:  # begun already, so that nothing that was paid for is lost
            return self._next_ones.popleft()
        if self._stopping is not None:
            await self._look_for_more()
            return None
        if self._fresh and not self._source.held:
            sample = await self._source.take()
            self._fresh = sample is not None
            if sample is not None:
                return sample
        if self._requeued and self._in_flight < max(1, self.concurrency // OUTAGE_BACKOFF ** self._requeued[0][0]):
            return heapq.heappop(self._requeued)[2]
        if (
            not self._fresh
            and not self._requeued
            and self._last_ones
            and self._futile + len(self._last_in_flight) < MAX_FUTILE
        ):
            sample = self._last_ones.popleft()
            self._last_in_flight.add(sample.key)
            return sample
        return None
