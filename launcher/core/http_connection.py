"""One HTTP/1.1 connection to a server: it sends a request and reads the answer, one after the other."""

from __future__ import annotations

import asyncio
import math
import os
import select
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import httptools

from launcher.core.driven import Turn, waiter
from launcher.core.errors import Failure, HttpError
from launcher.core.timers import Timer, Timers
from launcher.core.write_queue import LateTransport, WriteQueue

HIGH_BYTES = 256 << 10
"""Of a body that its reader has not taken yet, so many bytes are held; then the socket is no longer read."""
LOW_BYTES = 64 << 10
JOINED_BYTES = 64 << 10
"""A body up to this size leaves in one piece with its headers."""
KNOWN, KNOWN_BYTES = 256, 4096
"""How many heads of answers are kept, and the largest one."""
UNKNOWN = 4096
"""So many answers are not kept once `KNOWN` of them were all different."""
FRAMING = (b"content-length", b"transfer-encoding")


@dataclass(frozen=True)
class Limits:
    """What a server may send beside the body of an answer."""

    headers: int = 256
    header_bytes: int = 64 << 10
    """The most bytes of headers, and the most bytes in a row that are no part of a body."""


@dataclass(frozen=True)
class AnswerHead:
    """The head of a whole answer that was read before: it means the same, byte for byte, when it comes again."""

    status: int
    headers: list[tuple[bytes, bytes]]
    length: int
    keep_alive_s: float
    made: dict[str, Any] = field(default_factory=dict)
    """What a reader made of this head alone, for the next answer with an equal one."""


class KnownHeads:
    """The heads of answers to one client; most servers send the same few again, at least within a second.

    Nothing is kept for a while where every head is another one, for instance by an id of the request.
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, AnswerHead] = {}
        self._hits = 0
        self._left_out = 0

    def get(self, head: bytes) -> AnswerHead | None:
        """Return what the bytes of a head say, if they came before."""
        found = self._heads.get(head)
        self._hits += found is not None
        return found

    def keep(self, head: bytes, read: AnswerHead) -> None:
        """Keep a head, unless that was of no use of late."""
        if self._left_out:
            self._left_out -= 1
            return
        if len(self._heads) >= KNOWN:
            self._left_out = 0 if self._hits else UNKNOWN
            self._heads.clear()
            self._hits = 0
        self._heads[head] = read


class Deadline:
    """The end of the time of a whole exchange, which begins now."""

    __slots__ = ("at", "timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.at = asyncio.get_running_loop().time() + timeout_s


class Arriving(ABC):
    """An answer of any status as its connection brings it: its status, its headers as received, parts of its body.

    The body is free of its transfer encoding; a content encoding stays as it is.
    """

    status = 0
    touched = False
    """Whether a byte of the answer has arrived."""
    received = 0
    """Bytes of the body so far."""
    until_close = False
    """Whether only the end of the connection says that the answer is whole."""
    _complete = False

    def __init__(self, connection: Connection, method: str, url: str) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.url = url
        self.method = method
        self.made: dict[str, Any] = {}
        """What was made of the head; answers with equal heads may share it."""
        self._connection: Connection | None = connection

    @property
    def complete(self) -> bool:
        """Whether the whole answer has arrived."""
        return self._complete

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header; ``name`` is in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    # Called by the connection

    @abstractmethod
    def arrived(self, part: bytes) -> int:
        """Take a part of the body; return how much is held."""

    @abstractmethod
    def wake(self) -> None:
        """Take note that all of a read has arrived."""

    @abstractmethod
    def end(self) -> None:
        """Mark the answer as whole, unless it has failed."""

    @abstractmethod
    def fail(self, reason: str, failure: Failure) -> None:
        """End the answer with an error, and its connection."""


class Incoming(Arriving):
    """An answer that a coroutine reads as it arrives. It has to be read to its end or closed."""

    _timer: Timer | None = None
    _total_timeout_s = math.inf
    _held = 0
    _error: HttpError | None = None
    _waiter: Turn | asyncio.Future[None] | None = None

    def __init__(
        self, connection: Connection, method: str, url: str, silence_timeout_s: float, deadline: Deadline | None = None
    ) -> None:
        super().__init__(connection, method, url)
        self._silence_timeout_s = silence_timeout_s
        self._timers = connection.timers
        self._parts: deque[bytes] = deque()
        if deadline is not None:
            self._timer = self._timers.call_at(deadline.at, self._late)
            self._total_timeout_s = deadline.timeout_s

    async def read(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises `HttpError`, also if it has more than ``max_bytes``."""
        parts: list[bytes] = []
        try:
            while True:
                while self._parts:
                    parts.append(self._take())
                if self.received > max_bytes:
                    raise HttpError(self.url, f"the answer has more than {max_bytes:,} bytes")
                if self._error is not None:
                    raise self._error
                if self._complete:
                    return b"".join(parts)
                await self._wait()
        finally:
            self.close()

    async def more(self) -> bytes:
        """Return all of the body that has arrived since the last call, at least a byte; none at its end.

        Raises `HttpError`. A reader that leaves early has to close the answer.
        """
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._complete:
                return b""
            await self._wait()
        return self._taken()

    def _taken(self) -> bytes:
        """Return all of the body that is held."""
        if len(self._parts) == 1:
            return self._take()
        whole = b"".join(self._parts)
        self._parts.clear()
        self._parts.append(whole)
        return self._take()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises `HttpError`. A reader that leaves early drops the connection."""
        try:
            while True:
                while self._parts:
                    yield self._take()
                if self._error is not None:
                    raise self._error
                if self._complete:
                    return
                await self._wait()
        finally:
            self.close()

    def close(self) -> None:
        """Drop the connection, unless the whole answer has arrived; the server sees that its client left."""
        if not self._complete:
            self.fail("the answer was closed before its end", Failure.connection)
        self._parts.clear()

    async def head(self) -> None:
        """Wait for the status and the headers. Raises `HttpError`."""
        try:
            while not self.status:
                if self._error is not None:
                    raise self._error
                await self._wait()
        except BaseException:
            self.close()
            raise

    async def _wait(self) -> None:
        self._waiter = waiter()
        bound = self._silence_timeout_s
        now = asyncio.get_running_loop().time
        timer = None if bound == math.inf else self._timers.call_at(now() + bound, self._silent)
        try:
            await self._waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._waiter = None

    def _silent(self) -> None:
        self.fail(silence(self, self._silence_timeout_s), Failure.timeout)

    def _late(self) -> None:
        self.fail(f"no answer within {self._total_timeout_s:g} s", Failure.timeout)

    def _untimed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take(self) -> bytes:
        part = self._parts.popleft()
        self._held -= len(part)
        if self._held <= LOW_BYTES and self._connection is not None:
            self._connection.resume()
        return part

    # Called by the connection

    def arrived(self, part: bytes) -> int:
        self._parts.append(part)
        self.received += len(part)
        self._held += len(part)
        return self._held

    def end(self) -> None:
        if self._error is not None:
            return
        self._complete = True
        self._connection = None
        self._untimed()
        self.wake()

    def fail(self, reason: str, failure: Failure) -> None:
        if self._complete or self._error is not None:
            return
        self._error = HttpError(self.url, reason, failure)
        self._untimed()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def silence(answer: Arriving, seconds: float) -> str:
    """Return the reason of an answer that fails since its server was silent for so long."""
    said = "no answer" if not answer.status else "no more of the answer"
    return f"{said} within {seconds:g} s"


class Connection(asyncio.Protocol):
    """One connection; ``on_idle`` is called when it can take another request, ``on_lost`` once when it is gone."""

    def __init__(
        self,
        limits: Limits,
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
        known: KnownHeads | None = None,
        timers: Timers | None = None,
        write_queue: WriteQueue | None = None,
    ) -> None:
        self.timers = timers or Timers()
        self.used = False
        """Whether the connection has answered before."""
        self.unsent = False
        """Whether a large part of the request has not left this process."""
        self.idle_since = 0.0
        self.keep_alive_s = float("inf")
        """How long the server keeps the connection, as far as it said so."""
        self._limits = limits
        self._known = KnownHeads() if known is None else known
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._write_queue = write_queue
        self._late: LateTransport | None = None
        self._transport: asyncio.Transport | LateTransport | None = None
        self._poll: select.poll | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: Arriving | None = None
        self._interim = self._until_close = self._ended = self._reusable = self._paused = False
        self._head_bytes = self._overhead = 0
        self._body: list[bytes] = []
        """Parts of the body that the parser has found since the last call of `_pass_body`."""
        self.on_body = self._body.append

    @property
    def closed(self) -> bool:
        """Whether the connection can take no request."""
        return self._transport is None or self._transport.is_closing()

    def is_fresh(self) -> bool:
        """Return whether the server left an idle connection alone: neither closed it, nor said something unasked."""
        return not self.closed and (self._poll is None or not self._poll.poll(0))

    def ask(self, answer: Arriving, head: bytes, body: bytes) -> None:
        """Send a request; its answer arrives in ``answer``."""
        if self._transport is None:
            self.unsent = True
            answer.fail("the connection is closed", Failure.connection)
            return
        if self._parser is None:
            self._parser = _parser(self)
        self._answer, self._head_bytes, self._overhead = answer, 0, 0
        self._interim = self._until_close = self._ended = self._reusable = False
        if len(body) <= JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
        """Read from the socket again."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._write_queue is not None:
            self._transport = self._late = self._write_queue.late(transport)
        else:
            self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def pause_writing(self) -> None:
        self.unsent = True

    def resume_writing(self) -> None:
        self.unsent = False

    def connection_lost(self, exc: Exception | None) -> None:
        answer, self._answer = self._answer, None
        self.unsent = self.unsent or isinstance(exc, BrokenPipeError)  # the rest was not even taken by the system
        self.unsent = self.unsent or (self._late is not None and bool(self._late.held))
        self._transport = self._late = self._parser = self._poll = None
        if answer is not None:
            if self._until_close and exc is None:
                answer.until_close = True
                answer.end()
            else:
                answer.fail(_lost(answer, exc), Failure.connection)
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or self._parser is None or (self._late is not None and self._late.held):
            self.abort()  # no request was sent: what follows would be taken for the answer to the next request
            return
        at_start, before = not answer.touched, answer.received
        if at_start and self._recognized(answer, data):
            return
        answer.touched = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._body:
                self._pass_body(answer)
            self._malformed(answer, f"the answer is malformed HTTP: {error.__context__ or error}")
        if self._body:
            self._pass_body(answer)
        if self._ended:
            if at_start and self._reusable:
                self._remember(answer, data)
            self._end(answer)
        else:
            answer.wake()
            self._bound(answer, 0 if answer.received > before else len(data))

    def _recognized(self, answer: Arriving, data: bytes) -> bool:
        """Take a whole answer whose head, byte for byte, came before: it needs no parser."""
        end = data.find(b"\r\n\r\n") + 4
        known = self._known.get(data[:end])
        if known is None or len(data) != end + known.length or answer.method == "HEAD":
            return False
        answer.touched, answer.status = True, known.status
        answer.headers, answer.made = known.headers, known.made
        self.keep_alive_s = known.keep_alive_s
        if known.length:
            answer.arrived(data[end:])
        self._reusable = self._ended = True
        self._end(answer)
        return True

    def _remember(self, answer: Arriving, data: bytes) -> None:
        """Keep the head of a whole answer in one piece that says its length, and after which the connection stays."""
        end = data.find(b"\r\n\r\n") + 4
        length, lines = len(data) - end, len(answer.headers) + 2
        if end > KNOWN_BYTES or answer.method == "HEAD" or answer.status in (204, 304) or answer.received != length:
            return
        said = [value for name, value in answer.headers if name.lower() in FRAMING]
        is_plain = data.count(b"\n", 0, end) == data.count(b"\r\n", 0, end) == lines
        if is_plain and data.startswith(b"HTTP/1.1 ") and said == [b"%d" % length]:
            read = AnswerHead(answer.status, answer.headers, length, self.keep_alive_s, answer.made)
            self._known.keep(data[:end], read)

    def _malformed(self, answer: Arriving, reason: str) -> None:
        self._reusable = False
        if not self._ended:
            answer.fail(reason, Failure.connection if answer.status else Failure.answer)

    def _bound(self, answer: Arriving, overhead: int) -> None:
        self._overhead = self._overhead + overhead if overhead else 0
        if self._overhead > self._limits.header_bytes:
            answer.fail(f"the answer has more than {self._limits.header_bytes:,} bytes of headers", Failure.answer)

    def _end(self, answer: Arriving) -> None:
        self._answer, self.used = None, True
        transport = self._transport
        reusable = self._reusable and transport is not None and not transport.is_closing()
        if transport is not None and transport.get_write_buffer_size():
            reusable = False  # the server answered before the request was sent
        if not reusable and transport is not None:
            transport.abort()
        elif self._paused:
            self.resume()
        answer.end()
        if reusable:
            self._on_idle(self)

    # Called by the parser

    def on_message_begin(self) -> None:
        if self._ended:
            self._reusable = False  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        answer = self._answer
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.header_bytes:
            raise ValueError(f"more than {self._limits.header_bytes:,} bytes of headers")
        if answer is None or answer.status or self._ended:
            return  # a trailer
        if len(answer.headers) >= self._limits.headers:
            raise ValueError(f"more than {self._limits.headers} headers")
        if b"\0" in value:
            raise ValueError("a header with a null character")
        answer.headers.append((name, value))

    def on_headers_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if answer is None or parser is None or self._ended:
            return
        status = parser.get_status_code()
        if status == 101:
            raise ValueError("the server changes to another protocol")
        if status < 100:
            raise ValueError(f"the status {status:03}")
        self._interim = 100 <= status < 200
        if self._interim:
            answer.headers = []
            return
        framed = self._framed(answer)
        answer.status = status
        if answer.method == "HEAD":
            self.on_message_complete()
            self._parser = None  # it waits for a body that never comes
        else:
            self._until_close = not framed

    def _framed(self, answer: Arriving) -> bool:
        framed = False
        for name, value in answer.headers:
            lower = name.lower()
            if lower == b"content-length":
                framed = True
            elif lower == b"transfer-encoding":
                if value.lower().replace(b"identity", b"").strip(b" ,\t") not in (b"chunked", b""):
                    raise ValueError(f"the transfer encoding {value[:40]!r}")
                framed = b"chunked" in value.lower()
            elif lower == b"keep-alive":
                self.keep_alive_s = _keep_alive_s(value)
        return framed

    def _pass_body(self, answer: Arriving) -> None:
        """Give the answer what the parser has found of its body; behind its end there must be nothing."""
        part = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        if self._ended:
            self._reusable = False
        elif answer.arrived(part) > HIGH_BYTES and not self._paused and not self.closed:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif self._parser is not None:
            if self._body and self._answer is not None:
                self._pass_body(self._answer)
            self._reusable = self._parser.should_keep_alive() and not self._ended
            self._ended = True


def _parser(connection: Connection) -> httptools.HttpResponseParser:
    """Return a parser that reads what other clients read: LF alone, folded headers, spaces after a chunk's size."""
    parser = httptools.HttpResponseParser(connection)
    parser.set_dangerous_leniencies(
        lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser


def _keep_alive_s(value: bytes) -> float:
    """Return how long a connection is used that the server says to keep for a number of seconds."""
    for part in value.split(b","):
        name, _, number = part.strip().partition(b"=")
        if name.lower() == b"timeout" and number.isdigit() and len(number) < 9:
            return max(float(number) - 1, float(number) / 2)
    return float("inf")


def _lost(answer: Arriving, error: Exception | None) -> str:
    if error is not None:
        return explained(error)
    return "the server closed the connection " + (
        "in the middle of the answer" if answer.touched else "without an answer"
    )


def explained(error: Exception) -> str:
    """Return the error of a connection in a few words: the system's own message where there is one."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the server is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno) if error.errno > 0 else str(error)
    return f"{type(error).__name__}: {error}"[:300]
