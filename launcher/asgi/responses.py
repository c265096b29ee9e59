"""Responses: JSON, errors in OpenAI's shape, and server-sent events that stop when the client disconnects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from launcher.asgi.errors import ApiError, from_engine, internal
from launcher.core.types import Json

T = TypeVar("T")


def json_response(content: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, "application/json")


def error_response(error: ApiError) -> Response:
    return json_response(error.body(), error.status, error.headers)


class Disconnected(Exception):
    """The client closed the connection before it had its answer."""


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``; cancel it and raise `Disconnected` when the client disconnects first.

    The request's body must have been read. When this returns or raises, ``work`` has ended.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Disconnected
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def encoded(chunks: AsyncGenerator[Json, None], log: logging.Logger) -> AsyncGenerator[bytes, None]:
    """Yield each chunk as an event, then ``[DONE]``. A failure is sent as an event and ends the stream."""
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield event(chunk)
        except Exception as error:
            known = from_engine(error)
            if known is None:
                log.exception("a stream failed")
            yield event((known or internal(error)).body())
            return
    yield b"data: [DONE]\n\n"


def event(data: Json) -> bytes:
    return b"data: " + to_json(data) + b"\n\n"


class EventStream(Response):
    """Sends events as they are generated. When the client disconnects, the generator is closed."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await until_disconnect(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for data in self._events:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
