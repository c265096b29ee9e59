"""The answer to one request, as the bytes of HTTP/1.1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Protocol

import orjson

from launcher.asgi.errors import ApiError
from launcher.core.connections import Arriving
from launcher.core.errors import Failure, HttpError
from launcher.core.stream_end import error_in_body, error_in_stream, is_end, is_json_end
from launcher.core.types import Json

CHUNKED = b"Transfer-Encoding: chunked\r\n"
CLOSE = b"Connection: close\r\n"
EVENTS, JSON = b"event-stream", b"application/json"
MOST_HELD = 64 << 10
"""An event of which more bytes have come is not looked at."""
WITHOUT_BODY = frozenset({204, 304})


def _line(status: int) -> bytes:
    phrase = HTTPStatus(status).phrase if status in _KNOWN else ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_KNOWN = {each.value for each in HTTPStatus}
LINES: Mapping[int, bytes] = {status: _line(status) for status in range(100, 1000)}


class Watched(Protocol):
    """An answer of the endpoint that ends if it is silent for too long."""

    def check_time(self, now: float) -> None: ...


class Client(Protocol):
    """Where the bytes go."""

    own_headers: bytes
    draining: bool
    waits_for_client: asyncio.Future[None] | None
    write: Callable[[bytes], None]

    def watch(self, answer: Watched) -> None: ...


class Reply:
    """Writes one answer to a client; the first of `whole` and `begin` decides its status.

    Headers are the lines of a head. With ``collects``, what `begin` and `write` are given leaves with `flush` or `end`.
    """

    status = sent = 0
    complete = False
    """Whether the answer has been written to its end."""
    ends_with_connection = False
    """Whether only the end of the connection tells the client that the body is whole."""
    error_said: str | None = None
    """The error that an answer with a good status holds, once it is complete."""
    collects = _chunked = _is_stream = False
    _head_bytes = _before_last = _last = b""

    def __init__(self, client: Client, head_only: bool, keep_alive: bool, chunks: bool) -> None:
        self.keep_alive = keep_alive
        self._client = client
        self._head_only = head_only
        self._may_chunk = chunks
        self._parts: list[bytes] = []

    @property
    def started(self) -> bool:
        return self.status != 0

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Write a whole answer."""
        self.sent, self.complete = len(body), True
        if status == 200:
            self.error_said = error_in_stream(body) if EVENTS in lines else error_in_body(body)
        if status in WITHOUT_BODY:
            self._client.write(self._head(status, lines, b""))
            return
        head = self._head(status, lines, b"Content-Length: %d\r\n" % len(body))
        self._client.write(head if self._head_only else head + body)

    def begin(self, status: int, lines: bytes, length: bytes | None, first: bytes = b"") -> None:
        """Write the head of an answer whose body follows, and its first part; without a ``length``, in chunks."""
        if length is not None:
            framing = b"Content-Length: %b\r\n" % length
        elif status in WITHOUT_BODY or self._head_only:
            framing = b""
        elif self._may_chunk:
            framing, self._chunked = CHUNKED, True
        else:
            framing, self.keep_alive, self.ends_with_connection = b"", False, True
        self._is_stream = EVENTS in lines
        self._head_bytes = self._head(status, lines, framing)
        self._parts.append(first)
        if not self.collects:
            self.flush()

    def write(self, data: bytes) -> None:
        """Write a part of the body."""
        if self.collects or self._parts or self._head_bytes:
            self._parts.append(data)
            if not self.collects:
                self.flush()
        elif framed := self._framed(data):
            self._client.write(framed)

    def flush(self) -> None:
        """Let everything leave that was collected."""
        if self._parts and (data := self._taken()):
            self._client.write(data)

    def end(self, last: bytes = b"") -> None:
        """Write the last part of the body, and its end."""
        self.complete = True
        self._parts.append(last)
        if data := self._taken() + (b"0\r\n\r\n" if self._chunked else b""):
            self._client.write(data)
        if self._is_stream:
            self.error_said = error_in_stream(self._before_last + self._last)
            self._before_last = self._last = b""

    def check_end(self, answer: Arriving, last: bytes = b"") -> None:
        """Raise `HttpError` for a stream, or for JSON, of the endpoint that has no end but that of its connection.

        ``last`` is what is still to be written of it. A server that dies closes its connections, too.
        """
        if not answer.until_close:
            return
        kind, tail = (answer.header(b"content-type") or b"").lower(), self._before_last + self._last + last
        cut = not is_end(tail) if EVENTS in kind else JSON in kind and not is_json_end(tail)
        if cut:
            raise HttpError(answer.url, "the connection ended before the answer did", Failure.connection)

    def _taken(self) -> bytes:
        """Return what was collected, as it goes over the wire."""
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        head, self._head_bytes = self._head_bytes, b""
        self._parts.clear()
        return head + self._framed(data)

    def _framed(self, data: bytes) -> bytes:
        self.sent += len(data)
        if not data or self._head_only:
            return b""
        if self._last.endswith(b"\n") or len(self._last) > MOST_HELD:
            self._before_last, self._last = self._last, data
        else:
            self._last += data  # the rest of an event
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    @property
    def is_held(self) -> bool:
        """Whether the client does not take what was written."""
        return self._client.waits_for_client is not None

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written."""
        if self._client.waits_for_client is not None:
            await self._client.waits_for_client

    def watch(self, answer: Watched) -> None:
        """Have an answer of the endpoint looked at now and then, as long as the client takes what it gets."""
        self._client.watch(answer)

    def fail(self, error: ApiError) -> None:
        """Write an error into a body that has begun, and leave it incomplete.

        In a stream it is the last event; a body of another kind must not grow beyond its length.
        """
        if self._chunked and self._is_stream:
            self.write(b"\n\ndata: " + dumped(error.body()) + b"\n\n")
        self.flush()

    def error(self, error: ApiError, request_id: bytes) -> None:
        """Write an error in OpenAI's shape."""
        headers = [(b"Content-Type", b"application/json"), (b"x-request-id", request_id)]
        headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
        self.whole(error.status, lines_of(headers), dumped(error.body()))

    def _head(self, status: int, lines: bytes, framing: bytes) -> bytes:
        assert not self.status, "an answer has one status"
        self.status = status
        if self._client.draining:
            self.keep_alive = False
        end = b"\r\n" if self.keep_alive else CLOSE + b"\r\n"
        return LINES[status] + lines + self._client.own_headers + framing + end


def lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as the lines of a head."""
    return b"".join([name + b": " + value + b"\r\n" for name, value in headers])


def dumped(value: Json) -> bytes:
    """Return JSON as bytes; halves of surrogate pairs, which JSON may have, stay escaped."""
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError):
        return json.dumps(value).encode()
