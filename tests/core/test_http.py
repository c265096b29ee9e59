"""A request ends in time, with bounded memory, and sends its key to no other server, for any answer."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.backends.command.process import _status
from launcher.backends.listing import Listing
from launcher.core import http
from launcher.core.client import Client
from launcher.core.errors import ServerError, TransportError, UserError
from launcher.core.types import Endpoint
from launcher.monitor import health

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


@contextmanager
def speaking(say: Callable[[socket.socket, threading.Event], None]) -> Iterator[tuple[str, list[bytes]]]:
    """Accept connections, read what is asked, and let ``say`` answer; yield the URL and what was asked."""
    asked: list[bytes] = []
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            asked.append(connection.recv(65536))
            with suppress(OSError):
                say(connection, over)

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    threads: list[threading.Thread] = []
    listening = socket.create_server(("127.0.0.1", 0))
    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
    finally:
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for thread in threads:
            thread.join()


def drips_body(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(OK + b"\r\n[")
    while not over.wait(0.02):
        connection.sendall(b" ")


def drips_headers(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(OK)
    while not over.wait(0.02):
        connection.sendall(b"X")


def never_ends(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(OK + b"\r\n[")
    while not over.is_set():
        connection.sendall(b'{"id": "m"},' * 1000)


def says(body: bytes, head: bytes = OK) -> Callable[[socket.socket, threading.Event], None]:
    def say(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(head + b"\r\n" + body)

    return say


@pytest.mark.parametrize("say", [drips_body, drips_headers])
def test_the_deadline_is_that_of_the_whole_exchange(say) -> None:
    with speaking(say) as (url, _), pytest.raises(TransportError, match=r"no answer within 0\.3 s"):
        http.fetch("GET", url, timeout_s=0.3)


def test_a_body_that_never_ends_is_cut_at_the_bound() -> None:
    with speaking(never_ends) as (url, _), pytest.raises(TransportError, match="more than 100,000 bytes"):
        http.fetch("GET", url, timeout_s=60, max_bytes=100_000)


async def test_the_client_bounds_an_answer_and_a_stream() -> None:
    with speaking(never_ends) as (url, _):
        async with Client(Endpoint(f"{url}/v1", "m", "b", "e"), timeout_s=60, max_bytes=100_000) as client:
            with pytest.raises(TransportError, match="more than 100,000 bytes"):
                await client.post(f"{url}/v1/completions", {})


async def test_a_stream_that_only_keeps_alive_ends() -> None:
    def say(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(OK + b"Content-Type: text/event-stream\r\n\r\n")
        while not over.wait(0.02):
            connection.sendall(b": still here\n\n")

    with speaking(say) as (url, _):
        async with Client(Endpoint(f"{url}/v1", "m", "b", "e"), timeout_s=0.3) as client:
            response = await client._stream(f"{url}/v1/completions", {"stream": True}, {})
            with pytest.raises(TransportError, match="no answer within"):
                [event async for event in response.events]


@pytest.mark.parametrize("say", [drips_body, drips_headers])
def test_a_listing_that_drips_is_one_line(say) -> None:
    with speaking(say) as (url, _), pytest.raises(ServerError, match="no answer within"):
        Listing("backend.url", f"{url}/v1", None, None, 0.3).choose(None)


def test_a_listing_that_never_ends_is_one_line() -> None:
    with speaking(never_ends) as (url, _), pytest.raises(ServerError, match="more than"):
        Listing("backend.url", f"{url}/v1", None, None, 60).choose(None)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"data": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"data": [' + b"{}," * 900_000 + b"{}]}",
        b'{"data": [{"id": 5}]}',
        b'{"data": [{"id": null}]}',
        b'{"data": {"id": "m"}}',
        b'{"data": NaN}',
        b"\xff\xfe",
        b"",
    ],
    ids=["deep", "rather deep", "many", "number", "null", "object", "nan", "no text", "empty"],
)
def test_a_listing_that_is_none_is_one_line(body: bytes) -> None:
    with speaking(says(body)) as (url, _), pytest.raises(UserError, match="lists no models"):
        Listing("backend.url", f"{url}/v1", None, None, 60).choose(None)


def test_of_many_models_an_error_names_some() -> None:
    body = json.dumps({"data": [{"id": f"m{i}" * 200} for i in range(1000)]}).encode()
    with speaking(says(body)) as (url, _), pytest.raises(UserError, match="990 more") as raised:
        Listing("backend.url", f"{url}/v1", None, None, 60).choose(None)
    assert len(str(raised.value)) < 4000


def test_no_request_follows_a_redirect() -> None:
    with speaking(says(b"{}")) as (other, stolen):
        head = b"HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: " + other.encode() + b"/\r\n"
        with speaking(says(b"", head)) as (url, asked):
            endpoint = Endpoint(f"{url}/v1", "m", "external", "e", "s3cret", is_builtin=False)
            line = health.probe(endpoint)
            assert (line["status"], line["live"]) == (302, False)
            assert _status(url, "s3cret") == 302
            assert http.fetch("GET", url, timeout_s=60, headers=http.authorization("s3cret")).status == 302
            with pytest.raises(UserError, match="HTTP 302"):
                Listing("backend.url", f"{url}/v1", "s3cret", None, 60).choose(None)
            assert len(asked) == 4
            assert all(b"s3cret" in request for request in asked)
    assert stolen == []


async def test_the_client_sends_its_key_to_its_own_server_only() -> None:
    with speaking(says(b"{}")) as (other, elsewhere), speaking(says(b"{}")) as (url, asked):
        endpoint = Endpoint(f"{url}/v1", "m", "external", "e", "s3cret", is_builtin=False)
        async with Client(endpoint, timeout_s=60) as client:
            await client.get(f"{url}/health")
            await client.get(f"{other}/health")
    assert b"s3cret" in asked[0]
    assert b"s3cret" not in elsewhere[0]


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with speaking(says(b"{}")) as (url, _):
        assert http.fetch("GET", url, timeout_s=60).body == b"{}"


def test_a_compressed_answer_is_refused_unread() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    with speaking(says(bomb, OK + b"Content-Encoding: gzip\r\n")) as (url, asked):
        with pytest.raises(TransportError, match=r"compressed \('gzip'\)"):
            http.fetch("GET", url, timeout_s=60)
        assert b"Accept-Encoding: identity" in asked[0]


@pytest.mark.parametrize(
    "say", [says(b"garbage", b"\x00\x01"), says(b"{", OK + b"Content-Length: 50\r\n"), says(b"", b"")]
)
def test_no_http_is_a_transport_error(say) -> None:
    with speaking(say) as (url, _), pytest.raises(TransportError, match=url):
        http.fetch("GET", url, timeout_s=60)


def test_an_error_says_no_password() -> None:
    with pytest.raises(TransportError) as raised:
        http.fetch("GET", "http://user:s3cret@127.0.0.1:1/", timeout_s=5)
    assert "s3cret" not in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_json_is_read(value) -> None:
    assert http.parsed(json.dumps(value).encode()) == value


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.tuples(JSON, st.binary(max_size=3), st.integers(0, 50)).map(
        lambda t: (lambda b: b[: t[2]] + t[1] + b[t[2] :])(json.dumps(t[0]).encode())
    )
)
def test_anything_else_is_a_value_error(data: bytes) -> None:
    try:
        value = http.parsed(data)
    except ValueError:
        return
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize("data", [b"NaN", b"-Infinity", b"1e999", b"[-1e400]", b"9" * 5000, b"{" * 70])
def test_what_json_cannot_say_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        http.parsed(data)


def read_by_python(data: bytes) -> object:
    return json.loads(data, parse_float=http._finite, parse_constant=http._refused)


def result(read: Callable[[bytes], object], data: bytes) -> object:
    """Return what is read, told apart from what only compares equal: 1 from 1.0, and the order of keys."""
    try:
        return repr(read(data))
    except ValueError:
        return ValueError


ODD = [
    b"-0", b"-0.0", b"1e400", b"1e-400", b"18446744073709551615", b"18446744073709551616", b"-9223372036854775809",
    b"0.1234567890123456789012", b"[1.5, 99999999999999999999]", b"12345678901234567890.5", b"1e0000000000000000000005",
    b'{"a": 1, "b": 2, "a": 3}', b"\xef\xbb\xbf1", b'"\\ud800"', b'"\xed\xa0\x80"', '"a"'.encode("utf-16"),
    b"01", b"1.", b".5", b"+1", b"NaN", b"[Infinity]", b'"a\tb"', b"1_0", b'"\x7f"', b"[1,]", b"{,}", b"1 2", b"'a'",
    b"[" * 64 + b"]" * 64, b"\xff",
]  # fmt: skip


@pytest.mark.parametrize("data", ODD)
def test_json_is_read_as_python_reads_it(data: bytes) -> None:
    assert result(http.parsed, data) == result(read_by_python, data)


NUMBER_TEXTS = st.from_regex(r"-?[0-9]{1,22}(\.[0-9]{1,22})?([eE][+-]?[0-9]{1,4})?", fullmatch=True).map(str.encode)
TEXTS = st.text('\\u0d8x"/a{[]},:\x00\t\u00e9', max_size=12).map(lambda text: b'"' + text.encode() + b'"')


@given(st.recursive(NUMBER_TEXTS | TEXTS | st.sampled_from(ODD[:26]), lambda inner: st.lists(inner, max_size=3).map(
    lambda parts: b"[" + b", ".join(parts) + b"]")))  # fmt: skip
def test_any_json_is_read_as_python_reads_it(data: bytes) -> None:
    assert result(http.parsed, data) == result(read_by_python, data)


MANY = 70_000
"""More values than JSON of a MiB may have."""
LONG_TEXT = b'{"messages": [{"content": "%b"}]}'


@pytest.mark.parametrize(
    "data",
    [
        b"[" + b"1,2," * (MANY // 2) + b"3]",
        LONG_TEXT % (b"a, " * MANY),
        LONG_TEXT % (b"[{,]}" * MANY),
        LONG_TEXT % (b'\\",' * MANY),
        LONG_TEXT % (b"\\\\" * MANY + b'", "b": "' + b"[" * MANY),
        json.dumps([{"token": " the", "logprob": -0.1234567, "top_logprobs": [{"a": -1.5, "b": -2}]}] * MANY).encode(),
    ],
    ids=["token ids", "commas", "brackets", "escaped quotes", "backslashes", "log-probabilities"],
)
def test_long_contexts_are_read(data: bytes) -> None:
    assert http.parsed(data, 64 << 20) == json.loads(data)


@pytest.mark.parametrize(
    ("data", "max_bytes"),
    [
        (b"[" + b"1," * MANY + b"1]", 1 << 20),
        (b"[" + b"{}," * MANY + b"{}]", 64 << 20),
        (b"[" + b"[]," * MANY + b"[]]", 64 << 20),
        (b'["a", ' + b"[]," * MANY + b'"b"]', 64 << 20),
        (b'["\\\\",' + b"[]," * MANY + b'"b"]', 64 << 20),
        (("[" + "[]," * MANY + '"\u2222"]').encode("utf-16-le"), 1 << 20),
        (('["\u2222", ' + "[]," * MANY + '"\u2222"]').encode("utf-16-be"), 1 << 20),
    ],
)
def test_json_of_too_many_values_for_its_bound_is_refused(data: bytes, max_bytes: int) -> None:
    with pytest.raises(ValueError, match="JSON with more than"):
        http.parsed(data, max_bytes)


def test_values_behind_a_string_without_an_end_are_counted_in_one_pass() -> None:
    with pytest.raises(ValueError, match=r"Unterminated|unterminated|EOF"):
        http.parsed(b'["' + b'\\",' * (1 << 20), 1 << 20)


@pytest.mark.parametrize("levels", [64, 65])
@pytest.mark.parametrize(
    "shape", [(b"[", b"]"), (b'{"a":', b"}"), (b'{"a" :\r\n\t ', b"}"), (b'[0,{"b":"]]","a":', b"}]")]
)
def test_depth_is_counted_in_levels_not_brackets(levels: int, shape: tuple[bytes, bytes]) -> None:
    each = 2 if shape[0].startswith(b"[0") else 1
    data = (
        shape[0] * (levels // each)
        + b"[" * (levels % each)
        + b"1"
        + b"]" * (levels % each)
        + shape[1] * (levels // each)
    )
    assert (result(http.parsed, data) is ValueError) is (levels > http.DEPTH)
