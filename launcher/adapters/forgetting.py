"""Tells adapters that keep answers of those that an adapter in front of them has failed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import replace

from launcher.adapters.base import Adapter, closing
from launcher.core.types import Handler, Json, Request, Response

Kept = list[tuple[Adapter, Request]]

_kept: ContextVar[Kept] = ContextVar("kept")
"""The answers that may be kept of the request that is handled now."""


def keeps(adapter: Adapter) -> bool:
    """Tell whether an adapter keeps answers, which is to say that it can forget them."""
    return type(adapter).forget is not Adapter.forget


def noting(adapter: Adapter, handler: Handler) -> Handler:
    """Return a handler of an adapter that keeps answers, which notes the requests that reach it."""

    async def handle(request: Request) -> Response:
        response = await handler(request)
        _kept.get().append((adapter, request))
        return response

    return handle


def forgetting(handler: Handler) -> Handler:
    """Return a handler that lets adapters forget the answers to a request that fails."""

    async def handle(request: Request) -> Response:
        kept: Kept = []
        token = _kept.set(kept)
        try:
            response = await handler(request)
        except Exception:
            _forget(kept)
            raise
        finally:
            _kept.reset(token)
        if response.events is None:
            return response
        return replace(response, events=_streamed(response.events, kept))

    return handle


async def _streamed(events: AsyncIterator[Json], kept: Kept) -> AsyncIterator[Json]:
    try:
        async with closing(events):
            async for event in events:
                yield event
    except Exception:
        _forget(kept)
        raise


def _forget(kept: Kept) -> None:
    for adapter, request in kept:
        adapter.forget(request)
