"""Server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from launcher.api.disconnect import until_disconnect
from launcher.api.errors import from_engine, internal
from launcher.core.types import Json


async def encoded(chunks: AsyncGenerator[Json, None], log: logging.Logger) -> AsyncGenerator[bytes, None]:
    """Yield each chunk as an event, then ``[DONE]``. A failure on the way is an event too, and ends the stream."""
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
    """Sends events as they come. When the client goes away, the generator is closed."""

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
