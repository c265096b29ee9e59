"""Lets an adapter look at an exchange without a way to change it, or to fail it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from launcher.adapters.base import Adapter
from launcher.adapters.failures import Failures
from launcher.core.types import Handler, Json, Request, Response


def observing(adapter: Adapter, call_next: Handler, failures: Failures) -> Handler:
    """Return a handler that gives what ``call_next`` gives, which ``adapter`` sees; ``failures`` counts its errors."""

    async def handle(request: Request) -> Response:
        call, seen = _Call(request, call_next), None
        try:
            seen = await adapter(request, call)
        except Exception as error:
            if error is not call.error:
                failures.add(adapter, error)
        response = await call.result()
        watched = None if seen is None else seen.events
        if response.events is None or watched is None or watched is call.source:
            return response
        return replace(response, events=_Events(watched, call.source, adapter, failures))

    return handle


@dataclass
class _Call:
    """The one call of the next handler, with the request as it came; the observer gets a copy of its stream."""

    request: Request
    call_next: Handler
    error: BaseException | None = None
    response: Response | None = None
    source: _Source = field(default_factory=lambda: _Source(_nothing()))

    async def __call__(self, request: Request) -> Response:
        response = await self.result()
        return response if response.events is None else replace(response, events=self.source)

    async def result(self) -> Response:
        """Return the answer, or raise its error, however often it is asked for."""
        if self.error is not None:
            raise self.error
        if self.response is None:
            try:
                self.response = await self.call_next(self.request)
                self.source = _Source(self.response.events or _nothing())
            except BaseException as error:
                self.error = error
                raise
        return self.response


class _Source:
    """A stream, from which an observer takes the events; ``taken`` has those that are not passed on yet.

    It stays open when the observer closes it, since the one who asked may not have left.
    """

    def __init__(self, events: AsyncIterator[Json]) -> None:
        self.events = events
        self.taken: deque[Json] = deque()
        self.error: BaseException | None = None

    def __aiter__(self) -> AsyncIterator[Json]:
        return self

    async def __anext__(self) -> Json:
        try:
            event = await anext(self.events)
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self.error = error
            raise
        self.taken.append(event)
        return event


class _Events:
    """The events of a stream, each after an observer has seen it, and without it once it has failed."""

    def __init__(self, seen: AsyncIterator[Json], source: _Source, adapter: Adapter, failures: Failures) -> None:
        self._seen: AsyncIterator[Json] | None = seen
        self._source, self._adapter, self._failures = source, adapter, failures

    def __aiter__(self) -> AsyncIterator[Json]:
        return self

    async def __anext__(self) -> Json:
        while self._seen is not None and not self._source.taken:
            await self._observed(self._seen)
        if self._source.taken:
            return self._source.taken.popleft()
        if self._source.error is not None:
            raise self._source.error
        return await anext(self._source.events)

    async def _observed(self, seen: AsyncIterator[Json]) -> None:
        """Let the observer take the next event, as long as it can."""
        try:
            await anext(seen)
        except StopAsyncIteration:
            self._seen = None
        except Exception as error:
            self._seen = None
            self._count(error)

    async def aclose(self) -> None:
        """Close the observer's stream and the one that it sees."""
        seen, self._seen = self._seen, None
        try:
            await _close(seen)
        except Exception as error:
            self._count(error)
        finally:
            await _close(self._source.events)

    def _count(self, error: Exception) -> None:
        if error is not self._source.error:
            self._failures.add(self._adapter, error)


async def _close(events: AsyncIterator[Json] | None) -> None:
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()


async def _nothing() -> AsyncIterator[Json]:
    return
    yield
