"""The HTTP client: a `Handler` that posts to an endpoint."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from types import TracebackType
from typing import Self

from launcher.core import exact_json, http, request_id
from launcher.core.connections import Connections, Incoming
from launcher.core.errors import HttpError
from launcher.core.http import UNBOUNDED_S, Answer
from launcher.core.http_request import Start
from launcher.core.responses import NOT_JSON
from launcher.core.types import Endpoint, Handler, Json, Request, Response

MAX_ANSWER_BYTES = 64 << 20
"""The largest answer that is read: the log-probabilities of 4 prompts of 128k tokens take about 50 MB."""
MAX_STARTS = 64
"""So many beginnings of requests are kept; a server has a few paths."""
QUOTED = 300
"""Characters of an unexpected answer that an error message quotes."""


class Client:
    """Calls one endpoint over at most ``concurrency`` connections; an async context manager.

    ``timeout_s`` bounds each request, and in a stream the wait for each event; ``max_bytes`` bounds each answer, also a
    whole stream. An answer of any status is a `Response`; without a usable answer, `TransportError` is raised. The
    endpoint's key is sent as ``Authorization`` to the endpoint's scheme, host and port only. A request's own header
    takes precedence.
    """

    def __init__(
        self, endpoint: Endpoint, *, timeout_s: float, concurrency: int = 16, max_bytes: int = MAX_ANSWER_BYTES
    ) -> None:
        self._endpoint = endpoint
        self._id_of = request_id.as_uuid if endpoint.uuid_ids else request_id.of
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._connections = Connections(concurrency)
        self._starts: dict[tuple[str, str], Start] = {}

    async def __aenter__(self) -> Self:
        await self._connections.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.__aexit__(kind, error, trace)

    async def __call__(self, request: Request) -> Response:
        """Post the request under the endpoint's root. Raises `TransportError`."""
        url = self._endpoint.root + request.path
        if request.body.get("stream"):
            return await self._stream(url, request.body, request.headers, self._id_of(request))
        return await self.post(url, request.body, request.headers, self._id_of(request))

    def patient(self) -> Handler:
        """Return a handler over the same connections without a timeout; its caller cancels it."""
        other = copy.copy(self)
        other._timeout_s = UNBOUNDED_S
        return other

    async def post(
        self, url: str, body: Mapping[str, Json], headers: Mapping[str, str] | None = None, id: str | None = None
    ) -> Response:
        """Post JSON to any URL of the server and read the whole answer; ``id`` is sent as the request's.

        Raises `TransportError`.
        """
        start = time.perf_counter()
        answer = await self._exchange("POST", url, exact_json.dumps(body), headers, id)
        found = self._parsed(url, answer)
        return Response.of(answer.status, found, answer.headers, time.perf_counter() - start)

    async def get(self, url: str) -> Response:
        """Get any URL of the server; the body is its JSON, or else its text. Raises `TransportError`."""
        start = time.perf_counter()
        answer = await self._exchange("GET", url, None, None)
        found = self._json_or_text(answer.body)
        return Response(answer.status, found, answer.headers, latency_s=time.perf_counter() - start)

    async def _exchange(
        self, method: str, url: str, data: bytes | None, headers: Mapping[str, str] | None, id: str | None = None
    ) -> Answer:
        to = self._start(method, url, headers, id)
        answer = await self._connections.send_to(to, data or b"", total_timeout_s=self._timeout_s)
        body = await http.whole(answer, self._max_bytes)
        return Answer(answer.status, http.text_headers(answer), body)

    def _start(self, method: str, url: str, headers: Mapping[str, str] | None, id: str | None = None) -> Start:
        """Return how a request begins, with its id unless it has one of its own."""
        known = self._unnamed(method, url, headers)
        if id is None or (headers and request_id.answered(headers)):
            return known
        return Start(known.method, known.url, known.origin, b"%bx-request-id: %b\r\n" % (known.text, id.encode()))

    def _unnamed(self, method: str, url: str, headers: Mapping[str, str] | None) -> Start:
        """Return how a request begins, which is made once for all that have no headers of their own."""
        known = None if headers else self._starts.get((method, url))
        if known is not None:
            return known
        made = http.start(method, url, self._headers(url, headers), typed=method == "POST")
        if not headers and len(self._starts) < MAX_STARTS:
            self._starts[method, url] = made
        return made

    async def _stream(
        self, url: str, body: Mapping[str, Json], headers: Mapping[str, str], id: str | None = None
    ) -> Response:
        start, data = time.perf_counter(), exact_json.dumps(body)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._connections.send_to(self._start("POST", url, headers, id), data)
                found = http.text_headers(answer)
                if not (answer.header(b"content-type") or b"").lower().startswith(b"text/event-stream"):
                    whole = Answer(answer.status, found, await http.whole(answer, self._max_bytes))
                    return Response(whole.status, self._parsed(url, whole), whole.headers)
        except TimeoutError as error:
            raise http.late(url, self._timeout_s) from error
        latency_s = time.perf_counter() - start
        return Response(answer.status, None, found, self._events(url, answer), latency_s)

    async def _events(self, url: str, answer: Incoming) -> AsyncIterator[Json]:
        events = sse(self._bounded(url, answer))
        with closing(answer):
            while True:
                try:
                    async with asyncio.timeout(self._timeout_s):
                        data = await anext(events, None)
                except TimeoutError as error:
                    raise http.late(url, self._timeout_s) from error
                if data is None:
                    raise HttpError(url, "the stream ended without [DONE]")
                if data == "[DONE]":
                    return
                yield self._event(url, data)

    async def _bounded(self, url: str, answer: Incoming) -> AsyncIterator[bytes]:
        async for chunk in answer.chunks():
            if answer.received > self._max_bytes:
                raise HttpError(url, f"the stream has more than {self._max_bytes:,} bytes")
            yield chunk

    def _event(self, url: str, data: str) -> Json:
        try:
            return http.parsed(data.encode(errors="replace"), self._max_bytes)
        except ValueError as error:
            raise HttpError(url, f"an event is not JSON: {data[:QUOTED]!r}") from error

    def _headers(self, url: str, given: Mapping[str, str] | None) -> dict[str, str]:
        own, same = dict(given or {}), http.same_origin(url, self._endpoint.url)
        known = any(name.lower() == "authorization" for name in own)
        key = self._endpoint.api_key if same and not known else None
        return http.authorization(key) | (self._endpoint.validator_headers if same else {}) | own

    def _parsed(self, url: str, answer: Answer) -> Json:
        """Return the JSON of an answer; the text of an error without JSON is put into OpenAI's error shape."""
        try:
            return http.parsed(answer.body, self._max_bytes)
        except ValueError as error:
            why = "" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else f" ({error})"
        text = answer.body[:QUOTED].decode(errors="replace")
        if answer.status < 300:
            raise HttpError(url, f"answered HTTP {answer.status} with no JSON{why}: {text!r}")
        where = next((f" to {v[:QUOTED]}" for k, v in answer.headers.items() if k.lower() == "location"), "")
        message = f"HTTP {answer.status}{where}: {text}"
        return {"error": {"message": message, "type": NOT_JSON, "code": answer.status}}

    def _json_or_text(self, data: bytes) -> Json:
        try:
            return http.parsed(data, self._max_bytes)
        except ValueError:
            return data.decode(errors="replace")


async def sse(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the data of each server-sent event as soon as its last byte arrives, however the bytes are cut.

    Lines end in LF or CRLF; comments and fields other than ``data`` are skipped (WHATWG HTML, 9.2.6).
    """
    rest, lines = b"", list[str]()
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for raw in whole:
            line = raw.removesuffix(b"\r").decode(errors="replace")
            if line.startswith("data:"):
                lines.append(line[5:].removeprefix(" "))
            elif not line and lines:
                yield "\n".join(lines)
                lines = []
