"""HTTP requests with one bound on time and one on size, without redirects, proxies, cookies or compression.

Every request that the launcher sends goes through `exchange`, or `fetch` where no event loop runs.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Required, TypedDict, Unpack
from urllib.parse import SplitResult, urlsplit

from launcher.core.errors import Failure, TransportError
from launcher.core.types import Json

if TYPE_CHECKING:
    import aiohttp

SMALL_BYTES = 8 << 20
"""The largest answer but that of a model: a list of models, metrics, or a state of health."""
KEEP_ALIVE_S = 4.0
"""Idle connections are closed before common servers do it (uvicorn: 5 s), so that no request meets a closing one."""
DEPTH = 64
"""The deepest JSON that is read; answers of models have less than ten levels."""
BYTES_PER_VALUE = 16
"""JSON may have one value for so many bytes of its bound; a value takes about 64 bytes in memory."""


class HttpError(TransportError):
    """A request without a usable answer; ``reason`` has no URL."""

    def __init__(self, url: str, reason: str, failure: Failure = Failure.answer) -> None:
        super().__init__(f"{without_password(url)}: {reason}", failure)
        self.reason = reason


@dataclass(frozen=True)
class Answer:
    """A whole answer of any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@asynccontextmanager
async def session(connections: int = 16) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a session of at most so many connections, without the environment's proxies and without cookies."""
    import aiohttp

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    ) as http:
        yield http


class RequestOptions(TypedDict, total=False):
    """The keywords of `exchange` and `fetch`: a deadline for the whole exchange, and what else a request has."""

    timeout_s: Required[float]
    max_bytes: int
    """The largest answer that is read; `SMALL_BYTES` unless given."""
    data: bytes | None
    headers: Mapping[str, str] | None


async def exchange(http: aiohttp.ClientSession, method: str, url: str, **options: Unpack[RequestOptions]) -> Answer:
    """Send a request and return the whole answer. Raises `HttpError`."""
    import aiohttp

    timeout_s, data, headers = options["timeout_s"], options.get("data"), options.get("headers")
    with failures(url, timeout_s):
        answer = await send(http, method, url, aiohttp.ClientTimeout(total=timeout_s), data, headers)
        try:
            body = await whole(answer, url, options.get("max_bytes", SMALL_BYTES))
            return Answer(answer.status, dict(answer.headers), body)
        finally:
            answer.release()


async def send(
    http: aiohttp.ClientSession,
    method: str,
    url: str,
    timeout: aiohttp.ClientTimeout,
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> aiohttp.ClientResponse:
    """Send a request and return the answer as soon as its headers arrive. A redirect is not followed."""
    typed = {} if data is None else {"Content-Type": "application/json"}
    return await http.request(
        method, url, data=data, headers=typed | dict(headers or {}), timeout=timeout, allow_redirects=False
    )


async def whole(answer: aiohttp.ClientResponse, url: str, max_bytes: int) -> bytes:
    """Read the body, of which never more than ``max_bytes`` are held. Raises `HttpError`."""
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        answer.close()
        raise HttpError(url, f"the answer is compressed ({encoding[:40]!r}); the request asked for no compression")
    parts, size = [], 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > max_bytes:
            answer.close()
            raise HttpError(url, f"the answer has more than {max_bytes:,} bytes")
        parts.append(part)
    return b"".join(parts)


@contextmanager
def failures(url: str, timeout_s: float) -> Iterator[None]:
    """Raise `HttpError` for each error of a connection."""
    import aiohttp

    try:
        yield
    except TimeoutError as error:
        raise HttpError(url, f"no answer within {timeout_s:g} s", Failure.timeout) from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
        raise HttpError(url, _explained(error), Failure.connection) from error
    except (aiohttp.ClientError, ValueError) as error:  # ValueError: an invalid URL or header
        raise HttpError(url, _explained(error)) from error


def fetch(method: str, url: str, **options: Unpack[RequestOptions]) -> Answer:
    """Do as `exchange` over a new connection, where no event loop runs. Raises `HttpError`."""

    async def once() -> Answer:
        async with session(1) as http:
            return await exchange(http, method, url, **options)

    return asyncio.run(once())


def authorization(key: str | None) -> dict[str, str]:
    """Return the header that brings an API key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def same_origin(url: str, other: str) -> bool:
    """Return whether two URLs have the same scheme, host and port: only there may the key of one be sent."""
    return _origin(urlsplit(url)) == _origin(urlsplit(other))


def netloc(host: str, port: int | str) -> str:
    """Return host and port as they stand in a URL; an IPv6 address needs brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def without_password(url: str) -> str:
    """Return a URL without a user name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else url


def parsed(data: bytes, max_bytes: int = SMALL_BYTES) -> Json:
    """Return the value of a JSON text that is at most ``max_bytes`` long.

    Raises `ValueError` for anything else, and for what Python's reader accepts beyond RFC 8259: NaN, Infinity, and
    numbers that are too large. JSON deeper than `DEPTH`, or with too many values, is refused, too.
    """
    opened = data.count(b"[") + data.count(b"{")
    if (opened + data.count(b",")) * BYTES_PER_VALUE > max(max_bytes, 1 << 20):
        raise ValueError("JSON with too many values")
    try:
        value = json.loads(data, parse_float=_finite, parse_constant=_refused)
    except RecursionError:
        raise ValueError("JSON that is too deep") from None
    if opened > DEPTH and _deeper(value):
        raise ValueError(f"JSON of more than {DEPTH} levels")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"JSON with a number that is too large: {text[:40]}")
    return value


def _refused(text: str) -> float:
    raise ValueError(f"JSON with {text}, which is no number")


def _deeper(value: Json) -> bool:
    level = [value]
    for _ in range(DEPTH):
        children = (child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent))
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _explained(error: Exception) -> str:
    """Return the error of a connection in a few words: the system's own message where there is one."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the host has no address: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ClientOSError) and error.errno and not isinstance(error, aiohttp.ClientSSLError):
        return os.strerror(error.errno) if error.errno > 0 else str(error)
    return f"{type(error).__name__}: {error}"[:300]
