"""A request of a client: what the proxy reads in its head, and which headers pass on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from launcher.asgi.errors import ApiError, clipped

Headers = Sequence[tuple[bytes, bytes]]

RUN = b"x-launcher-run"
"""The id of a run: a proxy sends its own with each answer, and refuses requests that name another."""
REQUEST_ID = b"x-request-id"
"""The header by which a client, the proxy and the log call one request."""
HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings"),
    }
)
"""Headers that concern one connection (RFC 9110, 7.6.1), and those of proxies."""
RESPONSE_ONLY = HOP_BY_HOP | {b"content-length", RUN}
READ = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"connection", b"authorization", RUN})
"""Headers of a request that the proxy reads itself."""


USUAL_TOKENS = frozenset({b"keep-alive", b"close"})


class Head(NamedTuple):
    """The head of a request; ``headers`` are those that pass on, ``authorization`` excepted."""

    method: str
    target: bytes
    path: str
    headers: list[tuple[bytes, bytes]]
    authorization: bytes | None
    run: bytes | None
    length: int
    waits_for_continue: bool
    made: dict[str, Any]
    """What was made of this head alone, for the next request with an equal one."""


class ClientRequest(NamedTuple):
    """A whole request, and how its answer may be sent."""

    head: Head
    body: bytes
    keep_alive: bool
    chunks: bool


def read_head(method: bytes, target: bytes, version: str, headers: Headers) -> Head:
    """Read a head. Raises `ApiError` for one that could mean different things to different servers."""
    found: dict[bytes, bytes] = {}
    passed: list[tuple[bytes, bytes]] = []
    for header in headers:
        name = header[0].lower()
        if name in READ:
            if name in found and name != b"connection":
                raise _malformed(f"the header {name.decode()} is there twice")
            found[name] = found[name] + b"," + header[1] if name in found else header[1]
        elif name not in HOP_BY_HOP:
            passed.append(header)
    _check_framing(found, version)
    connection = found.get(b"connection")
    if connection is not None and (tokens := _tokens(connection)) - USUAL_TOKENS:
        passed = [header for header in passed if header[0].lower() not in tokens]
    return Head(
        method.decode(),
        target,
        _path(target),
        passed,
        found.get(b"authorization"),
        found.get(RUN),
        int(found.get(b"content-length", b"0")),
        _expects(found.get(b"expect")) and version == "1.1",
        {},
    )


def _check_framing(found: dict[bytes, bytes], version: str) -> None:
    """Refuse what lets two servers disagree on where a request ends (RFC 9112, 6.3)."""
    if version not in ("1.0", "1.1"):
        raise ApiError(505, "the proxy speaks HTTP/1.0 and HTTP/1.1", code="http_version")
    if version == "1.1" and b"host" not in found:
        raise _malformed("the header host is missing")
    encoding = found.get(b"transfer-encoding")
    if encoding is not None and (b"content-length" in found or version == "1.0"):
        raise _malformed("a request has either a content-length or, in HTTP/1.1, a transfer-encoding")
    if encoding is not None and encoding.strip().lower() != b"chunked":
        raise ApiError(501, f"the transfer-encoding {encoding[:40]!r} is not supported; use chunked", code="encoding")
    length = found.get(b"content-length")
    if length is not None and not (length.isdigit() and length.isascii() and len(length) < 16):
        raise _malformed(f"the content-length {length[:40]!r} is no number")


def _expects(value: bytes | None) -> bool:
    if value is None:
        return False
    if value.strip().lower() != b"100-continue":
        raise ApiError(417, f"the proxy cannot fulfil 'Expect: {clipped(repr(value)[2:-1], 40)}'", code="expectation")
    return True


@lru_cache(1024)
def _path(target: bytes) -> str:
    """Return the path of a target, without its query. Raises `ApiError` for what is no path."""
    text = target.decode("latin-1")
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or "#" in text:
        raise _malformed(f"the target {clipped(repr(text), 80)} is no path; the proxy takes /path?query")
    path = text.partition("?")[0]
    dotted = path.lower().replace("%2e", ".") if "%" in path else path
    if "/." in dotted and any(part in (".", "..") for part in dotted.split("/")):
        raise _malformed(f"the path {clipped(repr(path), 80)} has a segment of dots")
    return path


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip().lower() for token in value.split(b",")}


def passed_on(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer that go to the client."""
    passed, named = [], set[bytes]()
    for header in headers:
        name = header[0].lower()
        if name not in RESPONSE_ONLY:
            passed.append(header)
        elif name == b"connection" and header[1].lower() not in USUAL_TOKENS:
            named |= _tokens(header[1])
    return without(passed, frozenset(named)) if named else passed


def without(headers: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers whose names, in lower case, are not among ``names``."""
    return [header for header in headers if header[0].lower() not in names]


def _malformed(reason: str) -> ApiError:
    return ApiError(400, f"malformed HTTP request: {reason}", code="malformed_request")
