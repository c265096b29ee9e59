"""The events of a stream, which may be taken as they come together."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable

from launcher.core.types import Json

Batches = AsyncGenerator[list[Json], None]


class EventStream(AsyncIterator[Json]):
    """Events that come in batches: those of a batch are there at the same time.

    An iteration gives one event after the other; `batches` costs less.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._left: deque[Json] = deque()

    def batches(self) -> Batches:
        """Return the batches, for a caller that takes nothing else from the stream, and closes them."""
        return _after(list(self._left), self._batches) if self._left else self._batches

    def __aiter__(self) -> AsyncIterator[Json]:
        return self

    async def __anext__(self) -> Json:
        while not self._left:
            self._left.extend(await anext(self._batches))
        return self._left.popleft()

    async def aclose(self) -> None:
        """Close the source of the events; there are no more."""
        self._left.clear()
        await self._batches.aclose()


async def _after(first: list[Json], batches: Batches) -> Batches:
    try:
        yield first
        async for batch in batches:
            yield batch
    finally:
        await batches.aclose()


def mapped(
    events: AsyncIterator[Json], change: Callable[[Json], Json], end: Callable[[], Iterable[Json]] = tuple
) -> EventStream:
    """Return a stream of what ``change`` makes of each event, and of what ``end`` adds once all have come.

    What comes together stays together. An error of ``change`` ends the stream behind the events before it.
    """
    return EventStream(_changed(batches_of(events), change, end))


async def _changed(batches: Batches, change: Callable[[Json], Json], end: Callable[[], Iterable[Json]]) -> Batches:
    try:
        async for batch in batches:
            made: list[Json] = []
            try:
                for event in batch:
                    made.append(change(event))
            except Exception:
                yield made
                raise
            yield made
        yield list(end())
    finally:
        await batches.aclose()


def batches_of(events: AsyncIterator[Json]) -> Batches:
    """Return the events of any stream in batches."""
    return events.batches() if isinstance(events, EventStream) else _single(events)


async def _single(events: AsyncIterator[Json]) -> Batches:
    try:
        async for event in events:
            yield [event]
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
