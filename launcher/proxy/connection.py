"""One connection of a client: HTTP/1.1 with limits, pipelining, and an end that loses no answer."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, cast

import httptools

from launcher.asgi.config import Limits
from launcher.asgi.errors import ApiError
from launcher.core.driven import Driven
from launcher.proxy.head import Head, read_head
from launcher.proxy.relay import Relay
from launcher.proxy.reply import Reply, Watched

KEEP_ALIVE_S = 75.0
"""How long an idle connection stays open, so that a client's pool survives a pause between bursts."""
LINGER_S = 2.0
"""After a refusal, what the client still sends is read for so long: a reset would take the answer from it."""
PIPELINED = 16
"""How many requests may wait behind one another before the connection is no longer read."""
REMEMBERED, REMEMBERED_BYTES = 2048, 4096
"""How many heads are kept, and the largest one."""
IDLE, HEAD, BODY, REFUSED = range(4)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientRequest(NamedTuple):
    """A whole request, and how its answer may be sent."""

    head: Head
    body: bytes
    keep_alive: bool
    chunks: bool


class KnownHead(NamedTuple):
    """A head that has passed, and whether its connection stays."""

    head: Head
    keep_alive: bool


class Refusal(NamedTuple):
    """What to answer in place of a request that must not pass; the connection ends with it."""

    error: ApiError
    head_only: bool


Started = tuple[Relay, bytes, bytes]
"""A relay that has a connection, and the head and the body to send there."""


class Service:
    """What connections share: their limits, who they are, and who answers."""

    def __init__(self, limits: Limits, most: int, own_headers: bytes) -> None:
        self.limits = limits
        self.most = most
        self.own_headers = own_headers
        self.connections: set[ClientConnection] = set()
        self.draining = False
        self.heads: dict[bytes, KnownHead] = {}
        """The heads of requests that passed: most clients send the same few again and again."""
        self.refusal: Callable[[Head], ApiError | None] = lambda head: None
        """Says from its head why a request must not pass."""
        self.relay: Callable[[ClientRequest, Reply, Callable[[bool], None]], Started | None] = lambda *_: None
        """Begins to pass a request on at once, where that is possible; its last argument is called at the end.

        The argument of that call says whether the request has to be answered again.
        """
        self.drives: Callable[[ClientRequest], bool] = lambda request: False
        """Says whether a request that has to be answered otherwise needs no task for that."""
        self.answer: Callable[[ClientRequest, Reply], Coroutine[Any, Any, None]]
        self.refused: Callable[[ApiError, Reply], None]

    def drain(self) -> None:
        """Take no further requests: idle connections end now, the others with their last answer."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()

    def sweep(self, now: float) -> None:
        """End what takes too long."""
        for connection in list(self.connections):
            connection.check_time(now)


class ClientConnection(asyncio.Protocol):
    """A connection. Requests are answered one after the other, in their order."""

    def __init__(self, service: Service) -> None:
        self.own_headers = service.own_headers
        self.waits_for_client: asyncio.Future[None] | None = None
        """There while the client does not take what was written."""
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._state = IDLE
        self._deadline: float | None = None
        """Until when the client must have sent what comes next."""
        self._unread_until: float | None = None
        """Until when it must have taken what was written."""
        self._queue: deque[ClientRequest | Refusal] = deque()
        self._task: asyncio.Task[None] | Driven | None = None
        self._relay: Relay | None = None
        self._watched: list[Watched] = []
        self._replying: Reply | None = None
        self._paused = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._head: Head | None = None
        self._size = 0
        self._messages = 0
        self._keep_alive = False
        """Whether the connection stays after the last request that came."""

    @property
    def draining(self) -> bool:
        return self._service.draining

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._deadline = self._loop.time() + self._service.limits.header_timeout_s
        self._service.connections.add(self)
        if len(self._service.connections) > self._service.most:
            message = f"the proxy has as many connections as it takes ({self._service.most}); retry later"
            self._refuse(ApiError(503, message, code="too_many_connections", headers={"Retry-After": "1"}))

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.connections.discard(self)
        self._state = REFUSED
        self._queue.clear()
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()
        if self._relay is not None:
            self._relay.cancel()
        self._replying = None
        del self._parser  # it refers to this object, which would live on as cyclic garbage

    def pause_writing(self) -> None:
        if self.waits_for_client is None:
            self.waits_for_client = self._loop.create_future()
            self._unread_until = self._loop.time() + self._service.limits.body_timeout_s

    def resume_writing(self) -> None:
        waiter, self.waits_for_client = self.waits_for_client, None
        if waiter is not None:
            waiter.set_result(None)
            self._unread_until = None
            if self._relay is not None:
                self._relay.resume()

    def data_received(self, data: bytes) -> None:
        if self._state == REFUSED:
            return
        at_start, before = self._state == IDLE, self._messages
        if at_start and self._recognized(data):
            return
        self._feed(data)
        if at_start and self._state == IDLE and self._messages == before + 1:
            self._remember(data)
        if self._state == HEAD and before == self._messages:
            self._size += len(data)  # only the parser knows the size of an unfinished header
            if self._size > self._service.limits.header_bytes:
                self._refuse(self._large_head())

    def _recognized(self, data: bytes) -> bool:
        """Take a whole request whose head, byte for byte, has passed before: it needs no parser."""
        end = data.find(b"\r\n\r\n") + 4
        known = self._service.heads.get(data[:end])
        if known is None or len(data) != end + known.head.length:
            return False
        self._deadline = None
        self._enqueue(ClientRequest(known.head, data[end:], known.keep_alive, True))
        return True

    def _remember(self, data: bytes) -> None:
        """Keep the head of a whole request in one piece, without chunks, that has passed."""
        head, end = self._head, data.find(b"\r\n\r\n") + 4
        is_plain = head is not None and len(data) == end + head.length and self._parser.get_http_version() == "1.1"
        if head is None or not is_plain or end > REMEMBERED_BYTES or head.waits_for_continue:
            return
        if data.count(b"\n", 0, end) == data.count(b"\r\n", 0, end) == len(self._headers) + 2:
            heads = self._service.heads
            if len(heads) >= REMEMBERED:
                heads.clear()
            heads[data[:end]] = KnownHead(head, self._keep_alive)

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self._state == REFUSED:
                    return
                data = self._without_offer() + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse(ApiError(400, "malformed HTTP request", code="malformed_request"))
                return

    def _without_offer(self) -> bytes:
        """Return the head of a request without its offer of another protocol, for a new parser.

        A server may ignore the offer (RFC 9110, 7.8), but the parser would then take the body for the other protocol.
        """
        first = b"%b %b HTTP/%b\r\n" % (self._parser.get_method(), self._url, self._parser.get_http_version().encode())
        kept = [header for header in self._headers if header[0].lower() not in (b"connection", b"upgrade")]
        if any(name.lower() == b"connection" and b"close" in value.lower() for name, value in self._headers):
            kept.append((b"Connection", b"close"))
        self._parser = httptools.HttpRequestParser(self)
        return first + b"".join([b"%b: %b\r\n" % header for header in kept]) + b"\r\n"

    # Called by the parser

    def on_message_begin(self) -> None:
        if self._state == REFUSED:
            return
        if self._state != HEAD:
            self._deadline = self._loop.time() + self._service.limits.header_timeout_s
        self._state, self._url, self._headers, self._parts = HEAD, b"", [], []
        self._head, self._size = None, 0
        self._messages += 1

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._state == HEAD:  # later ones are trailers
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._state == REFUSED or (self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT"):
            return  # `_feed` parses the head again, without the offer
        try:
            self._head = head = self._checked_head()
        except ApiError as error:
            self._refuse(error)
            return
        self._state, self._size = BODY, 0
        self._deadline = self._loop.time() + self._service.limits.body_timeout_s
        if head.waits_for_continue and not self._busy:
            self._transport.write(CONTINUE)

    def _checked_head(self) -> Head:
        """Return the head of a request that may pass, as far as its head tells. Raises `ApiError`."""
        limits, method = self._service.limits, self._parser.get_method()
        size = len(self._url) + sum([len(name) + len(value) + 4 for name, value in self._headers])
        if size > limits.header_bytes or len(self._headers) > limits.headers:
            raise self._large_head()
        if method == b"CONNECT":
            raise ApiError(405, "CONNECT: the proxy stands in front of one endpoint only", code="method_not_allowed")
        head = read_head(method, self._url, self._parser.get_http_version(), self._headers)
        if head.length > limits.body_bytes:
            raise self._large_body()
        if (error := self._service.refusal(head)) is not None:
            raise error
        return head

    def on_body(self, body: bytes) -> None:
        if self._state != BODY:
            return
        self._size += len(body)
        self._parts.append(body)
        if self._size > self._service.limits.body_bytes:
            self._refuse(self._large_body())

    def on_message_complete(self) -> None:
        head = self._head
        if self._state != BODY or head is None:
            return
        self._state, self._deadline = IDLE, None
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        modern = self._parser.get_http_version() == "1.1"
        self._keep_alive = modern and self._parser.should_keep_alive()
        self._parts = []
        self._enqueue(ClientRequest(head, body, self._keep_alive, modern))

    # Answers

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    @property
    def _busy(self) -> bool:
        return self._task is not None or self._relay is not None

    def _enqueue(self, item: ClientRequest | Refusal) -> None:
        if self._task is None and self._relay is None:
            self._start(item)
            return
        self._queue.append(item)
        if len(self._queue) >= PIPELINED and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def watch(self, answer: Watched) -> None:
        self._watched.append(answer)

    def _start(self, item: ClientRequest | Refusal) -> None:
        if isinstance(item, ClientRequest):
            reply = self._reply(item)
            if self._relayed(item, reply):
                return
            if self._service.drives(item):
                self._drive(item, reply)
                return
        self._task = self._loop.create_task(self._answered(item))

    def _drive(self, request: ClientRequest, reply: Reply) -> None:
        """Answer a request in the calls that bring what it waits for."""
        reply.collects = True
        self._task = driven = Driven(
            self._service.answer(request, reply), reply.flush, functools.partial(self._finished, reply)
        )
        driven.start()

    def _relayed(self, request: ClientRequest, reply: Reply) -> bool:
        """Pass a request on without a task, if that is possible."""

        def ended(again: bool) -> None:
            self._relay = None
            if again and not self._transport.is_closing():
                self._task = self._loop.create_task(self._answered(request))
            else:
                self._finished(reply)

        started = self._service.relay(request, reply, ended)
        if started is None:
            return False
        self._relay, head, body = started
        self._relay.send(head, body)
        return True

    def _reply(self, request: ClientRequest) -> Reply:
        is_head = request.head.method == "HEAD"
        self._replying = Reply(self, head_only=is_head, keep_alive=request.keep_alive, chunks=request.chunks)
        return self._replying

    async def _answered(self, item: ClientRequest | Refusal) -> None:
        if isinstance(item, Refusal):
            reply = Reply(self, head_only=item.head_only, keep_alive=False, chunks=False)
            self._service.refused(item.error, reply)
            self._linger()
            return
        reply = self._reply(item)
        try:
            await self._service.answer(item, reply)
        finally:
            self._finished(reply)

    def _finished(self, reply: Reply) -> None:
        self._task = None
        if self._watched:
            self._watched = []
        if not reply.complete:
            self._end_in_the_middle(reply)
        elif not reply.keep_alive:
            self._close()
        elif self._queue:
            self._next()
        elif self._state == IDLE:
            self._deadline = self._loop.time() + KEEP_ALIVE_S
            if self.draining:
                self._close()
        else:
            self._await_rest()

    def _end_in_the_middle(self, reply: Reply) -> None:
        """End the connection so that the client does not take a part of an answer for the whole."""
        self._state = REFUSED
        if reply.ends_with_connection:
            self._transport.abort()
        else:
            self._transport.close()

    def _await_rest(self) -> None:
        """Wait for the rest of a request that began while the one before it was answered."""
        limits = self._service.limits
        in_body = self._state == BODY
        self._deadline = self._loop.time() + (limits.body_timeout_s if in_body else limits.header_timeout_s)
        if in_body and self._head is not None and self._head.waits_for_continue and not self._parts:
            self._transport.write(CONTINUE)

    def _next(self) -> None:
        if self._paused and len(self._queue) <= PIPELINED // 2 and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        self._start(self._queue.popleft())

    def _close(self) -> None:
        """End the connection after what was written."""
        if self._state == BODY or self._queue:
            self._linger()
        else:
            self._state = REFUSED
            self._transport.close()

    def _linger(self) -> None:
        """End the connection once the client has stopped sending, or `LINGER_S` seconds later."""
        self._task, self._state = None, REFUSED
        self._queue.clear()
        self._deadline = self._loop.time() + LINGER_S
        if self._transport.is_closing():
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._transport.write_eof()

    def eof_received(self) -> bool:
        return False

    # Limits

    def drain(self) -> None:
        """End the connection if nothing is under way."""
        if not self._busy and self._state == IDLE:
            self._transport.close()

    def cut(self, error: ApiError) -> None:
        """End the connection at once; a stream that has begun gets the error as its last event."""
        reply = self._replying
        if reply is None or not self._busy or not reply.started or reply.complete or reply.is_held:
            self._transport.abort()
        else:
            reply.fail(error)
            self._end_in_the_middle(reply)

    def check_time(self, now: float) -> None:
        """End the connection if the client takes too long."""
        if self._unread_until is not None and now >= self._unread_until:
            self._transport.abort()
        if self.waits_for_client is None:
            for answer in [*self._watched, *([] if self._relay is None else [self._relay])]:
                answer.check_time(now)
        if self._deadline is None or now < self._deadline or self._busy:
            return  # in time, or the client waits for the endpoint
        self._deadline = None
        if self._state in (IDLE, REFUSED):
            self._transport.close()
        else:
            limits = self._service.limits
            part, seconds = (
                ("body", limits.body_timeout_s) if self._state == BODY else ("head", limits.header_timeout_s)
            )
            message = f"the request's {part} did not arrive within {seconds:g} s"
            self._refuse(ApiError(408, message, code="request_timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Answer with an error after the answers that come before it, and end the connection."""
        if self._state == REFUSED:
            return
        self._state, self._deadline, self._parts = REFUSED, None, []
        self._enqueue(Refusal(error, self._parser.get_method() == b"HEAD" if self._url else False))

    def _large_head(self) -> ApiError:
        limits = self._service.limits
        most = f"{limits.header_bytes} bytes and {limits.headers} headers"
        return ApiError(
            431, f"the request's headers are too large; the proxy takes at most {most}", code="headers_too_large"
        )

    def _large_body(self) -> ApiError:
        most = self._service.limits.body_bytes
        return ApiError(
            413, f"the request's body is too large; the proxy takes at most {most} bytes", code="body_too_large"
        )
