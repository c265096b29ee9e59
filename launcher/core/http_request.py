"""The bytes of an HTTP/1.1 request, and the origin that they go to."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

Headers = Sequence[tuple[bytes, bytes]]

PORTS = {"http": 80, "https": 443}
TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
FRAMING = frozenset({b"content-length", b"transfer-encoding", b"expect"})
"""Headers about the length of a body: `head` writes its own, so that no caller can end a request early."""
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class Origin(NamedTuple):
    """Where connections go; connections of one origin serve any request to it."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True)
class Target:
    """What a URL says: the origin, the values of the Host header and of the request line, and a password's header."""

    origin: Origin
    host: bytes
    path: bytes
    authorization: bytes | None


@lru_cache(1024)
def target(url: str) -> Target:
    """Return what a request to the URL needs. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise ValueError(f"the scheme {parts.scheme[:40]!r} is neither http nor https")
    origin = Origin(parts.scheme, _host(parts), PORTS[parts.scheme] if parts.port is None else parts.port)
    path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=PRINTABLE)
    return Target(origin, _host_header(origin), path.encode(), _basic(parts))


@dataclass(frozen=True)
class Start:
    """How requests begin that differ in their bodies only: all of their headers but the length."""

    method: str
    url: str
    origin: Origin
    text: bytes

    def head(self, length: int) -> bytes:
        """Return the request line and the headers of a request with so long a body."""
        if length or self.method in WITH_BODY:
            return b"%bContent-Length: %d\r\n\r\n" % (self.text, length)
        return self.text + b"\r\n"


def start(method: str, url: str, headers: Headers) -> Start:
    """Return how requests to a URL begin. Raises `ValueError` if a header cannot be sent as it is."""
    to = target(url)
    return Start(method, url, to.origin, opening(method, to, headers))


def head(method: str, to: Target, headers: Headers, length: int) -> bytes:
    """Return the request line and the headers. Raises `ValueError` if one of them cannot be sent as it is."""
    return Start(method, "", to.origin, opening(method, to, headers)).head(length)


def opening(method: str, to: Target, headers: Headers) -> bytes:
    """Return a head without the length of the body, and without its end. Raises `ValueError` as `head` does."""
    lines, given = [b""], set[bytes]()
    for name, value in headers:
        lower = _lower(name)
        if lower not in FRAMING:
            given.add(lower)
            lines.append(name + b": " + value)
    lines[0] = b"%b %b HTTP/1.1" % (_method(method), to.path)
    if b"host" not in given:
        lines.insert(1, b"Host: " + to.host)
    if to.authorization:
        if b"authorization" in given:
            raise ValueError("the URL has a password, and the request has a key: only one of them can be sent")
        lines.append(b"Authorization: " + to.authorization)
    text = b"\r\n".join(lines)
    if text.count(b"\n") >= len(lines) or text.count(b"\r") >= len(lines) or b"\0" in text:
        raise ValueError("a header has a line break or a null character")
    return text + b"\r\n"


@lru_cache(1024)
def _lower(name: bytes) -> bytes:
    if not name or not TOKEN.issuperset(name):
        raise ValueError(f"{name[:40]!r} is no name of a header")
    return name.lower()


@lru_cache(64)
def _method(method: str) -> bytes:
    name = method.encode()
    if not name or not TOKEN.issuperset(name) or method == "CONNECT":
        raise ValueError(f"the method {method[:40]!r} cannot be sent")
    return name


def _host(parts: SplitResult) -> str:
    """Return the host without brackets; names beyond ASCII in their IDNA form."""
    host = unquote(parts.hostname or "")
    if not host or any(c <= " " or c in "/\\@" for c in host):
        raise ValueError(f"the URL has no usable host: {host[:80]!r}")
    return host if host.isascii() else host.encode("idna").decode()


def _host_header(origin: Origin) -> bytes:
    host = origin.host.partition("%")[0]  # the zone of an IPv6 address says something on this machine only
    name = f"[{host}]" if ":" in host else host
    return (name if origin.port == PORTS[origin.scheme] else f"{name}:{origin.port}").encode()


def _basic(parts: SplitResult) -> bytes | None:
    if parts.username is None and parts.password is None:
        return None
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return b"Basic " + base64.b64encode(pair.encode())


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, which needs no resolver."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
