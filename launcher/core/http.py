"""HTTP requests with one bound on time and one on size, without redirects, proxies, cookies or compression.

Every request that the launcher sends goes through `exchange`, or `fetch` where no event loop runs.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import Required, TypedDict, Unpack
from urllib.parse import SplitResult, urlsplit

import orjson

import launcher
from launcher.core import exact_json
from launcher.core.connections import Connections, Incoming, prepared
from launcher.core.errors import Failure, HttpError
from launcher.core.http_request import Start
from launcher.core.types import Json

SMALL_BYTES = 8 << 20
"""The largest answer but that of a model: a list of models, metrics, or a state of health."""
UNBOUNDED_S = 86_400.0
TYPED = "content-type"
USUAL = {
    "accept": (b"Accept", b"*/*"),
    "accept-encoding": (b"Accept-Encoding", b"identity"),
    "user-agent": (b"User-Agent", f"nemo-megatron-launcher/{launcher.__version__}".encode()),
    TYPED: (b"Content-Type", b"application/json"),
}
"""The headers that a request has unless it sets them."""
DEPTH = 64
"""The deepest JSON that is read; answers of models have less than ten levels."""
BYTES_PER_VALUE = 16
"""JSON may have one value for so many bytes of its bound; a value takes about 64 bytes in memory."""
NAMED_OBJECT = re.compile(rb":\s*\{")
"""What each object begins with that is the value of a name."""
FEW = (1 << 20) // BYTES_PER_VALUE
"""So many values are never too many, and JSON of so few bytes never has more."""
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string of JSON in UTF-8, or the beginning of one that does not end: then no later quote is looked at."""


@dataclass(frozen=True)
class Answer:
    """A whole answer of any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RequestOptions(TypedDict, total=False):
    """The keywords of `exchange` and `fetch`: a deadline for the whole exchange, and what else a request has."""

    timeout_s: Required[float]
    max_bytes: int
    """The largest answer that is read; `SMALL_BYTES` unless given."""
    data: bytes | None
    headers: Mapping[str, str] | None


async def exchange(connections: Connections, method: str, url: str, **options: Unpack[RequestOptions]) -> Answer:
    """Send a request and return the whole answer. Raises `HttpError`."""
    data = options.get("data")
    to = start(method, url, options.get("headers"), typed=data is not None)
    answer = await connections.send_to(to, data or b"", total_timeout_s=options["timeout_s"])
    body = await whole(answer, options.get("max_bytes", SMALL_BYTES))
    return Answer(answer.status, text_headers(answer), body)


def start(method: str, url: str, headers: Mapping[str, str] | None, *, typed: bool) -> Start:
    """Return how requests to a URL begin, with the headers that every request of the launcher has.

    Those with a body are ``typed``. Raises `HttpError`.
    """
    given = headers or {}
    names = {name.lower() for name in given}
    found = [pair for lower, pair in USUAL.items() if lower not in names and (typed or lower != TYPED)]
    try:
        own = [(name.encode("ascii"), value.encode()) for name, value in given.items()]
    except UnicodeEncodeError as error:
        raise HttpError(url, "a header has a character that cannot be sent") from error
    return prepared(method, url, found + own)


async def whole(answer: Incoming, max_bytes: int) -> bytes:
    """Read the body, of which little more than ``max_bytes`` is ever held. Raises `HttpError`."""
    encoding = answer.made.get("encoding")
    if encoding is None:
        encoding = (answer.header(b"content-encoding") or b"identity").strip().lower()
        answer.made["encoding"] = encoding
    if encoding not in (b"identity", b""):
        answer.close()
        quoted = repr(encoding.decode("latin-1")[:40])
        raise HttpError(answer.url, f"the answer is compressed ({quoted}); the request asked for no compression")
    return await answer.read(max_bytes)


def late(url: str, timeout_s: float) -> HttpError:
    """Return the error of an exchange that met its deadline."""
    return HttpError(url, f"no answer within {timeout_s:g} s", Failure.timeout)


def text_headers(answer: Incoming) -> dict[str, str]:
    """Return the headers of an answer as text, with the first value of each name."""
    known: dict[str, str] | None = answer.made.get("text_headers")
    if known is None:
        known = answer.made["text_headers"] = {}
        for name, value in answer.headers:
            known.setdefault(name.decode("ascii"), value.decode(errors="surrogateescape"))
    return known.copy()


def fetch(method: str, url: str, **options: Unpack[RequestOptions]) -> Answer:
    """Do as `exchange` over a new connection, where no event loop runs. Raises `HttpError`."""

    async def once() -> Answer:
        async with Connections(1) as connections:
            return await exchange(connections, method, url, **options)

    return asyncio.run(once())


def authorization(key: str | None) -> dict[str, str]:
    """Return the header that brings an API key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


@lru_cache(256)
def same_origin(url: str, other: str) -> bool:
    """Return whether two URLs have the same scheme, host and port: only there may the key of one be sent."""
    return _origin(urlsplit(url)) == _origin(urlsplit(other))


def netloc(host: str, port: int | str) -> str:
    """Return host and port as they stand in a URL; an IPv6 address needs brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parsed(data: bytes, max_bytes: int = SMALL_BYTES) -> Json:
    """Return the value of a JSON text that is at most ``max_bytes`` long.

    Raises `ValueError` for anything else, and for what Python's reader accepts beyond RFC 8259: NaN, Infinity, and
    numbers that are too large. JSON deeper than `DEPTH` is refused, too. So is
    JSON with more values than one for each `BYTES_PER_VALUE` of ``max_bytes``. Of lists and objects it may have one for
    so many of its own bytes.
    """
    size = len(data)
    opened = _opened(data)
    if opened <= DEPTH and size <= FEW and not exact_json.may_have_long_integers(data):
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            pass  # Python's reader takes a little more, and says what is wrong
    if size > FEW:
        _check_values(data, opened, max_bytes)
    try:
        value = exact_json.loads(data, parse_float=_finite, parse_constant=_refused)
    except RecursionError:
        raise ValueError("JSON that is too deep") from None
    if opened > DEPTH and _most_levels(data) > DEPTH and _deeper(value):
        raise ValueError(f"JSON of more than {DEPTH} levels")
    return value


def parsed_all(texts: Sequence[bytes]) -> list[Json]:
    """Return the values of small JSON texts, such as events, as `parsed` does, at less cost.

    Raises `ValueError` if one of them has to be read by itself.
    """
    joined = texts[0] if len(texts) == 1 else b"".join(texts)
    if len(joined) > FEW or exact_json.may_have_long_integers(joined):
        raise ValueError("large JSON")
    if _opened(joined) > DEPTH and _may_be_deep(texts):
        raise ValueError("JSON that may be deep")
    return list(map(orjson.loads, texts))


def _opened(data: bytes) -> int:
    """Return how many lists and objects a JSON text begins at most; `bytes.count` takes up to four times as long."""
    return 2 * len(data) - len(data.replace(b"[", b"")) - len(data.replace(b"{", b""))


def _check_values(data: bytes, opened: int, max_bytes: int) -> None:
    """Raise `ValueError` for too many values: what they take in memory must be in proportion to what is allowed.

    Brackets and commas are counted, of which those in strings are no values. Text that is not in UTF-8 has null
    characters, and other strings.
    """
    most, most_opened = (max(size // BYTES_PER_VALUE, FEW) for size in (max_bytes, len(data)))
    commas = data.count(b",")
    if opened <= most_opened and opened + commas <= most:
        return
    if b"\0" not in data:
        bare = STRING.sub(b"", data)
        opened, commas = _opened(bare), bare.count(b",")
    if opened > most_opened:
        raise ValueError(f"JSON with more than {most_opened:,} lists and objects, too many for its {len(data):,} bytes")
    if opened + commas > most:
        raise ValueError(f"JSON with more than {most:,} values")


def _may_be_deep(texts: Sequence[bytes]) -> bool:
    return max(map(bytes.count, texts, repeat(b"["))) + max(map(bytes.count, texts, repeat(b"{"))) > DEPTH


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"JSON with a number that is too large: {text[:40]}")
    return value


def _refused(text: str) -> float:
    raise ValueError(f"JSON with {text}, which is no number")


def _most_levels(data: bytes) -> int:
    """Return a number of levels that a JSON text does not exceed, at little cost.

    Within another value, an object is an entry of a list, of which each list has one on a path, or a named value.
    """
    return 1 + 2 * data.count(b"[") + len(NAMED_OBJECT.findall(data))


def _deeper(value: Json) -> bool:
    objects, lists = [value] if type(value) is dict else [], [value] if type(value) is list else []
    for _ in range(DEPTH):
        objects, lists = _inner(objects, lists)
        if not objects and not lists:
            return False
    return True


def _inner(objects: list[dict[str, Json]], lists: list[list[Json]]) -> tuple[list[dict[str, Json]], list[list[Json]]]:
    """Return the objects and the lists in those of a level; most hold none, which is found without a loop in Python."""
    found_objects: list[dict[str, Json]] = []
    found_lists: list[list[Json]] = []
    for part in (list(chain.from_iterable(map(dict.values, objects))), *lists):
        kinds = set(map(type, part))
        if dict in kinds:
            found_objects += part if len(kinds) == 1 else [value for value in part if type(value) is dict]
        if list in kinds:
            found_lists += part if len(kinds) == 1 else [value for value in part if type(value) is list]
    return found_objects, found_lists


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
