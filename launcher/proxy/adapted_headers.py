"""The headers of requests and answers as adapters see them, and those that pass adapters by."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from launcher.asgi.errors import ApiError
from launcher.core.connections import Arriving
from launcher.core.errors import HttpError
from launcher.core.types import Response
from launcher.proxy.head import REQUEST_ID, Head, Headers, passed_on, without
from launcher.proxy.reply import lines_of
from launcher.proxy.upstream import Upstream

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


class Seen(NamedTuple):
    """The headers of an answer: as adapters see them, and those that pass on, as lines."""

    headers: Mapping[str, str]
    lines: bytes
    is_stream: bool


def seen_once(incoming: Arriving) -> Seen:
    """Return what `see` does; heads that come again are seen once."""
    seen: Seen | None = incoming.made.get("seen")
    if seen is None:
        seen = incoming.made["seen"] = see(incoming)
    return seen


def see(incoming: Arriving) -> Seen:
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
