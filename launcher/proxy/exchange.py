"""One request that goes through the adapters: what none of them reads passes as bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple, Self

import orjson

from launcher.adapters.base import Adapter, Part, reads_of, rewrites_of
from launcher.asgi.errors import ApiError
from launcher.core import http
from launcher.core.connections import Incoming
from launcher.core.errors import AdapterError, HttpError
from launcher.core.event_stream import Batches, EventStream, batches_of
from launcher.core.types import Json, Request, Response
from launcher.core.unread import Unread
from launcher.proxy.asked import Asked
from launcher.proxy.connection import ClientRequest
from launcher.proxy.events import EventSplitter
from launcher.proxy.head import REQUEST_ID, Head, Headers, passed_on, without
from launcher.proxy.reply import Reply, dumped, lines_of
from launcher.proxy.upstream import Prepared, Upstream, error_body

UNSEEN = frozenset(
    {
        *(b"accept", b"accept-language", b"user-agent", b"cookie", b"date", b"forwarded", b"from", b"origin"),
        *(b"referer", b"via", REQUEST_ID, b"traceparent", b"tracestate", b"baggage", b"b3", b"sentry-trace"),
        *(b"x-irid", b"idempotency-key", b"request-id", b"x-correlation-id", b"x-client-request-id", b"x-trace-id"),
        *(b"x-amzn-trace-id", b"x-cloud-trace-context", b"x-ms-client-request-id", b"x-real-ip"),
    }
)
"""Headers that say nothing of what is asked: no adapter sees them, so that equal requests stay equal.

``x-irid`` is the id that inspect_ai gives each request.
"""
UNSEEN_PREFIXES = (b"x-stainless-", b"x-forwarded-", b"sec-", b"x-b3-", b"x-datadog-")
REPLACED = frozenset({b"accept-encoding", b"content-type", b"content-encoding"})
"""Headers of a request that are written again behind the adapters."""
WRITTEN = [(b"Content-Type", b"application/json"), (b"Accept-Encoding", b"identity")]
ABOUT_BODY = frozenset(
    {b"content-type", b"content-encoding", b"etag", b"content-md5", b"digest", b"accept-ranges", b"last-modified"}
)
"""Headers of an answer that need not hold for the body that adapters give."""
JSON, EVENTS = b"Content-Type: application/json\r\n", b"Content-Type: text/event-stream\r\n"
QUOTED = 300
LINGER_S = 0.05
"""How long a stream may stay open behind its last event."""


class Parts(NamedTuple):
    """What the adapters of a proxy read in requests to a path, or in any, and what they may rewrite in place."""

    reads_request: bool
    reads_answer: bool
    reads_events: bool
    rewrites_request: bool
    rewrites_answer: bool

    @classmethod
    def of(cls, adapters: Sequence[Adapter], path: str | None = None) -> Self:
        reads = reads_of(adapters, path)
        rewrites = rewrites_of([adapter for adapter in adapters if not adapter.copies])
        read = (Part.request in reads, Part.answer in reads, Part.events in reads)
        return cls(*read, Part.request in rewrites, Part.answer in rewrites)


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
                reply.write(b"".join([event.raw for event in batch]) if raw else _texts(batch))
                if reply.is_held:
                    await reply.drained()
        finally:
            await batches.aclose()
        reply.end(b"" if raw else b"data: [DONE]\n\n")


class Seen(NamedTuple):
    """The headers of an answer: as adapters see them, and those that pass on, as lines."""

    headers: Mapping[str, str]
    lines: bytes
    is_stream: bool


def seen_once(incoming: Incoming) -> Seen:
    """Return what `see` does; heads that come again are seen once."""
    seen: Seen | None = incoming.made.get("seen")
    if seen is None:
        seen = incoming.made["seen"] = see(incoming)
    return seen


def see(incoming: Incoming) -> Seen:
    """Return what the headers of an answer say. Raises `HttpError` for a body that adapters cannot read."""
    passed, is_stream = passed_on(incoming.headers), False
    for header in passed:
        name = header[0].lower()
        if name == b"content-type":
            is_stream = header[1].lower().startswith(b"text/event-stream")
        elif name == b"content-encoding" and header[1].strip().lower() not in (b"identity", b""):
            quoted = repr(header[1].decode("latin-1")[:40])
            raise HttpError(incoming.url, f"the answer is compressed ({quoted}), though that was not asked for")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in passed}
    return Seen(MappingProxyType(headers), lines_of(without(passed, ABOUT_BODY)), is_stream)


def response_of(incoming: Incoming, seen: Seen, data: bytes, start: float, read_bytes: int | None) -> Response:
    """Return a whole answer as adapters see it, or an error. Raises `HttpError` for what is no JSON.

    ``read_bytes`` is the bound on an answer that an adapter reads; None where none does.
    """
    if incoming.status >= 300:
        body = error_body(incoming.status, data)
    else:
        body = Unread(data) if read_bytes is None else _answer(incoming, data, read_bytes)
    return Response.of(incoming.status, body, seen.headers, time.perf_counter() - start)


def _answer(incoming: Incoming, data: bytes, most: int) -> Json:
    try:
        return http.parsed(data, most)
    except ValueError as error:
        text = data[:QUOTED].decode(errors="replace")
        raise HttpError(incoming.url, f"answered HTTP {incoming.status} with no JSON ({error}): {text!r}") from None


def lines(response: Response, seen: Seen | None, content_type: bytes) -> bytes:
    """Return the headers of an answer as lines, without those about the body that it had."""
    if seen is not None and seen.headers is response.headers:
        return seen.lines + content_type
    given = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()]
    return lines_of(without(passed_on(given), ABOUT_BODY)) + content_type


SplitHeaders = tuple[dict[str, str], list[tuple[bytes, bytes]]]


def split_once(upstream: Upstream, head: Head) -> SplitHeaders:
    """Return what `split_headers` does; heads that come again are split once. Raises `ApiError`."""
    split: SplitHeaders | None = head.made.get("split")
    if split is None:
        split = head.made["split"] = split_headers(upstream, head)
    return split


def joined_headers(seen: Mapping[str, str], unseen: Headers) -> Headers:
    """Return the headers of a request: those that adapters gave, and those that they do not see."""
    own = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in seen.items()]
    named = frozenset(name.lower() for name, _ in own)
    return [*without(unseen, named), *own] if named else unseen


def split_headers(upstream: Upstream, head: Head) -> SplitHeaders:
    """Return the headers that adapters see, and those that only the endpoint sees. Raises `ApiError`."""
    seen, unseen = dict[str, str](), list(WRITTEN)
    for header in head.headers:
        name = header[0].lower()
        if name == b"content-encoding" and header[1].strip().lower() != b"identity":
            raise ApiError(415, "adapters read this request; send it without content-encoding", code="encoded")
        if name in UNSEEN or name.startswith(UNSEEN_PREFIXES):
            unseen.append(header)
        elif name not in REPLACED:
            seen[header[0].decode("latin-1")] = header[1].decode("latin-1")
    authorization = upstream.authorization(head)
    if authorization is not None and upstream.forwards_authorization:
        seen["Authorization"] = authorization.decode("latin-1")  # an answer for one client is none for another
    elif authorization is not None:
        unseen.append((b"Authorization", authorization))
    return seen, unseen


def json_object(data: bytes, most: int) -> dict[str, Json]:
    """Return the body of a request, where one has at most ``most`` bytes. Raises `ApiError`."""
    try:
        body = http.parsed(data, most)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON that adapters can read: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object", code="invalid_json")
    return body


def bytes_of(body: Json) -> bytes:
    """Return the bytes of a body; those of one that was not read are what came."""
    return body.raw if type(body) is Unread else dumped(body)


def _texts(events: Sequence[Json]) -> bytes:
    """Return events as they stand in a stream."""
    if not events:
        return b""
    try:
        texts = list(map(orjson.dumps, events))
    except (TypeError, ValueError):
        texts = list(map(dumped, events))
    return b"data: " + b"\n\ndata: ".join(texts) + b"\n\n"


def read_events(url: str, texts: Sequence[bytes], most: int) -> Iterator[list[Json]]:
    """Yield the events with these texts. Raises `HttpError` for one that is no JSON, after those before it."""
    if not texts:
        return
    try:
        events = http.parsed_all(texts)
    except ValueError:
        for text in texts:
            yield [read_event(url, text, most)]
    else:
        yield events


def read_event(url: str, data: bytes, most: int) -> Json:
    """Return the event with a text, where a stream has at most ``most`` bytes. Raises `HttpError` for no JSON."""
    try:
        return http.parsed(data, most)
    except ValueError as error:
        raise HttpError(url, f"an event is not JSON ({error}): {data[:QUOTED].decode(errors='replace')!r}") from None


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
