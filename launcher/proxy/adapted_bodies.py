"""The bodies and events of an exchange as adapters see them: JSON where one of them reads it, and bytes otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import orjson

from launcher.adapters.base import Adapter, Part, reads_of, rewrites_of
from launcher.asgi.errors import ApiError
from launcher.core import http
from launcher.core.connections import Arriving
from launcher.core.errors import HttpError
from launcher.core.types import Json, Response
from launcher.core.unread import Unread
from launcher.proxy.adapted_headers import Seen
from launcher.proxy.reply import dumped
from launcher.proxy.upstream import error_body

QUOTED = 300


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


def response_of(incoming: Arriving, seen: Seen, data: bytes, start: float, read_bytes: int | None) -> Response:
    """Return a whole answer as adapters see it, or an error. Raises `HttpError` for what is no JSON.

    ``read_bytes`` is the bound on an answer that an adapter reads; None where none does.
    """
    status = incoming.status
    if status >= 300:
        body = error_body(status, data)
    elif read_bytes is None:
        body = Unread(data)
    else:
        try:
            body = http.parsed(data, read_bytes)
        except ValueError as error:
            text = data[:QUOTED].decode(errors="replace")
            raise HttpError(incoming.url, f"answered HTTP {status} with no JSON ({error}): {text!r}") from None
    return Response.of(status, body, seen.headers, time.perf_counter() - start)


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
    if type(body) is Unread:
        return body.raw
    try:
        return orjson.dumps(body)
    except (TypeError, ValueError):
        return dumped(body)


def event_texts(events: Sequence[Json]) -> bytes:
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
