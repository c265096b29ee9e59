"""One request that goes through the adapters: what none of them reads passes as bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from launcher.core.connections import Incoming
from launcher.core.errors import AdapterError, HttpError
from launcher.core.event_stream import Batches, EventStream, batches_of
from launcher.core.types import Json, Request, Response
from launcher.core.unread import Unread
from launcher.proxy.adapted_bodies import Parts, bytes_of, event_texts, json_object, read_events, response_of
from launcher.proxy.adapted_headers import EVENTS, JSON, Seen, joined_headers, lines, seen_once, split_once
from launcher.proxy.asked import Asked
from launcher.proxy.events import EventSplitter
from launcher.proxy.head import ClientRequest, Headers
from launcher.proxy.reply import Reply
from launcher.proxy.upstream import Prepared, Upstream

LINGER_S = 0.05
"""How long a stream may stay open behind its last event."""


class Exchange:
    """A request on its way through the adapters, and its answer on the way back."""

    def __init__(
        self, upstream: Upstream, parts: Parts, any: Parts, request: ClientRequest, sample: str, reply: Reply
    ) -> None:
        self._upstream = upstream
        self._parts, self._any = parts, any
        """What the adapters read in requests to this path, and in any."""
        self._reply = reply
        self._given = request
        seen, self._unseen = split_once(upstream, request.head)
        self._seen: Seen | None = None
        """The headers of the last answer of the endpoint."""
        self._passes_bytes = False
        """Whether the last answer of the endpoint is a stream whose events no adapter reads."""
        self._parsed: tuple[Json, bytes] | None = None
        """The last body that came from the endpoint, as JSON and as bytes."""
        most = upstream.settings.limits.body_bytes
        body = json_object(request.body, most) if parts.reads_request else Unread(request.body)
        self.request = Request.of(request.head.target.decode("ascii"), body, seen, sample)
        """What the first adapter gets. Making it raises `ApiError` if adapters cannot read it."""

    # Behind the adapters

    async def ask(self, request: Request) -> Response:
        """Ask the endpoint. Raises `HttpError`."""
        start, body = time.perf_counter(), self._body(request)
        incoming = await self._at_once(request, body) or await self._sent(request, body)
        try:
            if request.path != self.request.path:
                self._parts = self._any  # an adapter sends the request elsewhere
            return await self._response(incoming, start)
        except BaseException:
            incoming.close()
            raise

    async def _at_once(self, request: Request, body: bytes) -> Incoming | None:
        """Ask over an idle connection; return None where there is none, or where it turns out to be closed."""
        prepared = self._prepared(request)
        connection = None if prepared is None else self._upstream.connections.take(prepared.origin)
        if prepared is None or connection is None:
            return None
        asked = Asked(connection, "POST", prepared.url, self._upstream.settings.silence_timeout_s)
        self._reply.watch(asked)
        asked.send(prepared.head + b"Content-Length: %d\r\n\r\n" % len(body), body)
        try:
            await asked.head()
        except HttpError as error:
            if not asked.may_repeat(error):
                raise
            return None
        return asked

    async def _sent(self, request: Request, body: bytes) -> Incoming:
        """Ask over a connection that is not there yet, or not free: waiting for it takes a task."""
        sending = self._upstream.send("POST", request.path, self._headers_of(request), body)
        task = asyncio.get_running_loop().create_task(sending)
        try:
            return await task
        except asyncio.CancelledError:
            task.add_done_callback(_drop)  # the answer may have come just now
            raise

    def _prepared(self, request: Request) -> Prepared | None:
        if request.headers is not self.request.headers or request.path != self.request.path:
            return self._upstream.opened(request.path, self._headers_of(request))
        made = self._given.head.made
        if "opened" not in made:
            made["opened"] = self._upstream.opened(request.path, self._headers_of(request))
        prepared: Prepared | None = made["opened"]
        return prepared

    def _headers_of(self, request: Request) -> Headers:
        return joined_headers(request.headers, self._unseen)

    def _body(self, request: Request) -> bytes:
        is_given = request.body is self.request.body and not self._parts.rewrites_request
        return self._given.body if is_given else bytes_of(request.body)

    async def _response(self, incoming: Incoming, start: float) -> Response:
        self._seen = seen = seen_once(incoming)
        if seen.is_stream and incoming.status < 400:
            latency_s = time.perf_counter() - start
            self._passes_bytes = not self._parts.reads_events
            events = self._bytes(incoming) if self._passes_bytes else EventStream(self._events(incoming))
            return Response(incoming.status, None, seen.headers, events, latency_s)
        data = await incoming.read(self._upstream.most_bytes(incoming.status))
        self._reply.check_end(incoming, data)
        read_bytes = self._upstream.max_answer_bytes if self._parts.reads_answer else None
        response = response_of(incoming, seen, data, start, read_bytes)
        if incoming.status < 300:
            self._parsed = response.body, data
        return response

    async def _bytes(self, incoming: Incoming) -> AsyncIterator[Json]:
        """Yield the bytes of a stream whose events no adapter reads."""
        try:
            while chunk := await incoming.more():
                yield Unread(chunk)
            self._reply.check_end(incoming)
        finally:
            incoming.close()

    async def _events(self, incoming: Incoming) -> Batches:
        """Yield the events of a stream, those that come together at once."""
        most, splitter, done = self._upstream.max_answer_bytes, EventSplitter(), False
        try:
            while not done and (chunk := await incoming.more()):
                texts = splitter.feed(chunk)
                done = b"[DONE]" in texts
                if done:
                    del texts[texts.index(b"[DONE]") :]
                for batch in read_events(incoming.url, texts, most):
                    yield batch
                if splitter.held > most or incoming.received > most:
                    raise HttpError(incoming.url, f"the stream has more than {most:,} bytes")
            if not done:
                raise HttpError(incoming.url, "the stream ended without [DONE]")
            await _await_end(incoming)
        finally:
            incoming.close()

    # Before the adapters

    def reply(self, response: Response, reply: Reply) -> None:
        """Write the whole answer that the adapters gave."""
        if response.fault is not None:
            raise AdapterError(response.fault)
        body = response.body
        unchanged = self._parsed is not None and self._parsed[0] is body and not self._parts.rewrites_answer
        data = self._parsed[1] if unchanged and self._parsed is not None else bytes_of(body)
        reply.whole(response.status, lines(response, self._seen, JSON), data)

    async def reply_events(self, response: Response, reply: Reply) -> None:
        """Write the events that the adapters gave, as they come."""
        assert response.events is not None
        reply.begin(response.status, lines(response, self._seen, EVENTS), None)
        raw = self._passes_bytes
        batches = batches_of(response.events)
        try:
            async for batch in batches:
                raw = bool(batch) and type(batch[0]) is Unread
                reply.write(b"".join([event.raw for event in batch]) if raw else event_texts(batch))
                if reply.is_held:
                    await reply.drained()
        finally:
            await batches.aclose()
        reply.end(b"" if raw else b"data: [DONE]\n\n")


def _drop(sent: asyncio.Task[Incoming]) -> None:
    """Close an answer whose client has left."""
    if not sent.cancelled() and sent.exception() is None:
        sent.result().close()


async def _await_end(incoming: Incoming) -> None:
    """Wait a moment for the end behind ``[DONE]``, which lets the connection be kept; some servers leave it open."""
    if incoming.complete:
        return
    late = asyncio.get_running_loop().call_later(LINGER_S, incoming.close)
    try:
        with suppress(HttpError):
            while await incoming.more():
                continue
    finally:
        late.cancel()
