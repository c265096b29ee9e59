"""One connection of a client: its answers in the order of its requests, and an end that loses none of them."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable

from launcher.asgi.errors import ApiError
from launcher.core.driven import Driven
from launcher.core.write_queue import LateTransport
from launcher.proxy.head import ClientRequest
from launcher.proxy.relay import Relay
from launcher.proxy.reply import Reply, Watched
from launcher.proxy.request_reader import BODY, IDLE, REFUSED, Refusal, RequestReader
from launcher.proxy.service import Service

LINGER_S = 2.0
"""After a refusal, what the client still sends is read for so long: a reset would take the answer from it."""
PIPELINED = 16
"""How many requests may wait behind one another before the connection is no longer read."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientConnection(asyncio.Protocol):
    """A connection. Requests are answered one after the other, in their order."""

    def __init__(self, service: Service) -> None:
        self.own_headers = service.own_headers
        self.draining = service.draining
        """Whether the proxy ends, and takes no further requests."""
        self.waits_for_client: asyncio.Future[None] | None = None
        """There while the client does not take what was written."""
        self._service = service
        self._answering = service.answering
        self._loop = asyncio.get_running_loop()
        self._transport: LateTransport
        self.write: Callable[[bytes], None]
        self._reader = RequestReader(self, service)
        self._unread_until: float | None = None
        """Until when the client must have taken what was written."""
        self._queue: deque[ClientRequest | Refusal] = deque()
        self._task: asyncio.Task[None] | Driven | None = None
        self._relay: Relay | None = None
        self._watched: list[Watched] = []
        self._replying: Reply | None = None
        self._paused = False

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._service.write_queue.late(transport)
        self.write = self._transport.write
        self._service.connections.add(self)
        if len(self._service.connections) > self._service.most:
            message = f"the proxy has as many connections as it takes ({self._service.most}); retry later"
            error = ApiError(503, message, code="too_many_connections", headers={"Retry-After": "1"})
            self._reader.refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.connections.discard(self)
        self._reader.close()
        self._queue.clear()
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()
        if self._relay is not None:
            self._relay.cancel()
        self._relay = self._replying = None

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
        request = self._reader.known(data)
        if request is not None:
            self.take(request)
        else:
            self._reader.feed(data)

    # Answers

    @property
    def _busy(self) -> bool:
        return self._task is not None or self._relay is not None

    def take(self, item: ClientRequest | Refusal) -> None:
        """Answer a request, or what is said in its place, after those before it."""
        if self._task is None and self._relay is None:
            self._start(item)
            return
        self._queue.append(item)
        if len(self._queue) >= PIPELINED and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def expect_body(self) -> None:
        """Have the client send the body that it holds back, unless it has to get an answer before."""
        if not self._busy:
            self._transport.write(CONTINUE)

    def watch(self, answer: Watched) -> None:
        self._watched.append(answer)

    def _start(self, item: ClientRequest | Refusal) -> None:
        if type(item) is ClientRequest:
            head, _, keep_alive, chunks = item
            self._replying = reply = Reply(self, head.method == "HEAD", keep_alive, chunks)
            started = self._answering.relay(item, reply, self._relayed)
            if started is not None:
                self._relay, opening, body = started
                self._relay.send(opening, body)
                return
            if self._answering.drives(item):
                self._drive(item, reply)
                return
        self._task = self._loop.create_task(self._answered(item))

    def _relayed(self, relay: Relay, again: bool) -> None:
        """Go on after a request that was passed on without a task; ``again`` says that it has to be answered still."""
        self._relay = None
        if again and not self._transport.is_closing():
            self._task = self._loop.create_task(self._answered(relay.request))
        else:
            self._finished(relay.reply)

    def _drive(self, request: ClientRequest, reply: Reply) -> None:
        """Answer a request in the calls that bring what it waits for."""
        reply.collects = True
        self._task = driven = Driven(
            self._answering.answer(request, reply), reply.flush, functools.partial(self._finished, reply)
        )
        driven.start()

    def _reply(self, request: ClientRequest) -> Reply:
        head, _, keep_alive, chunks = request
        self._replying = Reply(self, head.method == "HEAD", keep_alive, chunks)
        return self._replying

    async def _answered(self, item: ClientRequest | Refusal) -> None:
        if isinstance(item, Refusal):
            reply = Reply(self, item.head_only, keep_alive=False, chunks=False)
            self._answering.refused(item.error, reply)
            self._linger()
            return
        reply = self._reply(item)
        try:
            await self._answering.answer(item, reply)
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
        else:
            self._reader.answered()
            if self.draining and self._reader.state == IDLE:
                self._close()

    def _end_in_the_middle(self, reply: Reply) -> None:
        """End the connection so that the client does not take a part of an answer for the whole."""
        self._reader.state = REFUSED
        if reply.ends_with_connection:
            self._transport.flush()
            self._transport.abort()
        else:
            self._transport.close()

    def _next(self) -> None:
        if self._paused and len(self._queue) <= PIPELINED // 2 and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        self._start(self._queue.popleft())

    def _close(self) -> None:
        """End the connection after what was written."""
        if self._reader.state == BODY or self._queue:
            self._linger()
        else:
            self._reader.state = REFUSED
            self._transport.close()

    def _linger(self) -> None:
        """End the connection once the client has stopped sending, or `LINGER_S` seconds later."""
        self._task, self._reader.state = None, REFUSED
        self._queue.clear()
        self._reader.deadline = self._loop.time() + LINGER_S
        if self._transport.is_closing():
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._transport.write_eof()

    def eof_received(self) -> bool:
        self._transport.flush()
        return False

    # Limits

    def drain(self) -> None:
        """End the connection if nothing is under way, and otherwise with its last answer."""
        self.draining = True
        if not self._busy and self._reader.state == IDLE:
            self._transport.close()

    def cut(self, error: ApiError) -> None:
        """End the connection at once; a stream that has begun gets the error as its last event."""
        reply = self._replying
        self._transport.flush()
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
        reader = self._reader
        if reader.deadline is None or now < reader.deadline or self._busy:
            return  # in time, or the client waits for the endpoint
        reader.deadline = None
        if reader.state in (IDLE, REFUSED):
            self._transport.close()
        else:
            reader.refuse_late()
