"""Lets an adapter that keeps answers learn that an adapter in front of it has failed one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import replace

from launcher.adapters.base import closing
from launcher.core.types import Handler, Json, Request, Response

Callbacks = list[Callable[[], None]]

_callbacks: ContextVar[Callbacks | None] = ContextVar("callbacks", default=None)
"""What is called if the request that is handled now fails."""


def on_failure(callback: Callable[[], None]) -> None:
    """Have ``callback`` called if the request that is handled now fails, or the stream that answers it."""
    callbacks = _callbacks.get()
    if callbacks is not None:
        callbacks.append(callback)


def forgetting(handler: Handler) -> Handler:
    """Return a handler that calls what `on_failure` was given during a request that fails."""

    async def handle(request: Request) -> Response:
        callbacks: Callbacks = []
        token = _callbacks.set(callbacks)
        try:
            response = await handler(request)
        except Exception:
            _call(callbacks)
            raise
        finally:
            _callbacks.reset(token)
        if response.events is None or not callbacks:
            return response
        return replace(response, events=_streamed(response.events, callbacks))

    return handle


async def _streamed(events: AsyncIterator[Json], callbacks: Callbacks) -> AsyncIterator[Json]:
    try:
        async with closing(events):
            async for event in events:
                yield event
    except Exception:
        _call(callbacks)
        raise


def _call(callbacks: Callbacks) -> None:
    for callback in callbacks:
        callback()
