"""uvicorn's HTTP/1 protocol with limits: what a client may send, and how long it may take.

uvicorn itself waits without a timeout for the rest of a request, and keeps headers of any size. The limits hold before
the app is called, and so before the API key is checked. A request in several parts costs a timer; one that arrives
whole costs none.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import httptools
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from launcher.asgi.config import Limits
from launcher.asgi.errors import ApiError
from launcher.asgi.middleware import REQUEST_ID, request_id
from launcher.asgi.responses import error_response

SPARE_FILES = 64
"""Open files that stay free for anything but connections."""
HEAD, BODY, IDLE = "head", "body", "idle"


def most_connections(limits: Limits) -> int:
    """Return the most connections of a process: ``limits.connections``, or what the limit on open files leaves."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limits.connections if soft == resource.RLIM_INFINITY else min(limits.connections, max(1, soft - SPARE_FILES))


class LimitedProtocol(HttpToolsProtocol):
    """One connection. It is closed when a limit is passed, with an error response where one can still be sent."""

    def __init__(self, *args: Any, limits: Limits, most: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._most = most
        self._served_app = self.app
        self._part = IDLE
        self._message = 0
        self._size = 0
        self._unfinished = 0
        self._waits: tuple[str, int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._active: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            message = f"this server has as many connections as it takes ({self._most}); retry later"
            self._refuse(ApiError(503, message, code="too_many_connections", headers={"Retry-After": "1"}))
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        before = self._message
        self._feed(data)
        if self.transport.is_closing():
            return
        if self._part == HEAD:
            # Only the parser knows the size of an unfinished header: all data of the same message counts.
            self._unfinished += len(data) if before == self._message else 0
            if self._unfinished > self._limits.header_bytes:
                self._refuse(self._large_head())
                return
        self._watch()

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_offer() + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse(ApiError(400, "malformed HTTP request", code="malformed_request"))
                return

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part, self._size, self._unfinished = HEAD, 0, 0
        self._message += 1

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._size += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("this server is no proxy")
        if self.parser.should_upgrade():
            return  # `_feed` parses it again, without the offer
        problem = self._problem()
        self.app = self._served_app if problem is None else self._response(problem)
        super().on_headers_complete()
        self._part, self._size = BODY, 0

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self.cycle.response_complete and self._size > self._limits.body_bytes:
            self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._part = IDLE
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        old = cycle.scope["http_version"] != "1.1"
        super()._start_asgi_task(cycle, _Unchunked(app, cycle) if old else app)  # type: ignore[arg-type]

    def _without_offer(self) -> bytes:
        """Return the head of a request without its offer of another protocol, for a new parser.

        A server may ignore the offer (RFC 9110, 7.8), but the parser would then take the body for the other protocol.
        Java's client offers HTTP/2 with its first request.
        """
        first = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = [header for header in self.headers if header[0] not in (b"connection", b"upgrade")]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            kept.append((b"connection", b"close"))
        self.parser = httptools.HttpRequestParser(self)
        return first + b"".join(b"%b: %b\r\n" % header for header in kept) + b"\r\n"

    # Time

    def _watch(self) -> None:
        """Start the timer for the rest of a message; no timer runs while the client waits for the server."""
        waits = self._expected()
        if waits == self._waits:
            return
        self._unwatch()
        self._waits = waits
        if waits is not None:
            seconds = self._limits.body_timeout_s if waits[0] == BODY else self._limits.header_timeout_s
            self._timer = self.loop.call_later(seconds, self._late)

    def _expected(self) -> tuple[str, int] | None:
        if self._part == IDLE:
            return None if self._busy else (HEAD, self._message + 1)
        return self._part, self._message

    def _unwatch(self) -> None:
        self._waits = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._unwatch()
        if self._part == IDLE:
            self.transport.close()
        elif self._part == BODY and self.cycle is not self._active:
            self._watch()  # the server still answers an earlier request
        else:
            seconds = self._limits.body_timeout_s if self._part == BODY else self._limits.header_timeout_s
            message = f"the request's {self._part} did not arrive within {seconds:g} s"
            self._refuse(ApiError(408, message, code="request_timeout"))

    # Error responses

    @property
    def _busy(self) -> bool:
        return self._active is not None and not self._active.response_complete

    def _problem(self) -> ApiError | None:
        """Return why a request with these headers must not reach the app, or None."""
        if self._size > self._limits.header_bytes or len(self.headers) > self._limits.headers:
            return self._large_head()
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            message = "this server speaks HTTP/1.0 and HTTP/1.1"
            return ApiError(505, message, code="http_version", headers={"Connection": "close"})
        return None

    def _large_head(self) -> ApiError:
        most = f"{self._limits.header_bytes} bytes and {self._limits.headers} headers"
        message = f"the request's headers are too large; this server takes at most {most}"
        return ApiError(431, message, code="headers_too_large", headers={"Connection": "close"})

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, msg, code="malformed_request"))

    def _response(self, error: ApiError) -> Response:
        """Log an error, and return its response with the id of the request; an idle connection has none."""
        response, id = error_response(error), request_id(Headers(raw=[] if self._part == IDLE else self.headers))
        response.headers[REQUEST_ID] = id
        client = self.client[0] if self.client else "a client"
        self.logger.warning("%s: %d: %s", client, error.status, error, extra={"request_id": id})
        return response

    def _refuse(self, error: ApiError) -> None:
        """Send the error, and close. A response that has begun is finished first; then nothing else is sent."""
        self._unwatch()
        self._unset_keepalive_if_required()
        if self._busy and self._part != BODY:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        response = self._response(error)
        if self._part != BODY or (self._active is self.cycle and not self.cycle.response_started):
            self.transport.write(_written(error.status, response))
        self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


class _Unchunked:
    """A response to an HTTP/1.0 client, which reads no chunks: the end of the connection ends a stream."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle
        self._open = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def plain(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._open = not any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                self._cycle.chunked_encoding = False if self._open else None
            elif self._open:
                self._cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, plain)


def _written(status: int, answer: Response) -> bytes:
    """Return a whole response as the bytes to send."""
    headers = [*answer.raw_headers, *([] if "connection" in answer.headers else [(b"connection", b"close")])]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return STATUS_LINE[status] + lines + b"\r\n" + bytes(answer.body)
