"""HTTP/1.1 as clients speak it: limits, framing, pipelining, 100-continue, draining."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.adapters.payload import Payload
from launcher.adapters.retry import Retry
from launcher.adapters.system_message import SystemMessage
from launcher.asgi.config import Limits
from tests.api.raw import answer_to, connected, dripped, error, said, statuses
from tests.fuzzing import examples
from tests.proxy.mounted import ANSWER, Mounted, Scripted, Seen, Warm, event, mounted, scripted, stream, through, whole

SOON = 0.3
HEAD = b"POST /v1/echo HTTP/1.1\r\nHost: x\r\n"
END = b"Connection: close\r\n\r\n"


def echoed(seen: Seen) -> list[Any]:
    return whole({"line": seen.line, "size": len(seen.body), "body": seen.body.decode("latin-1")})


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with scripted(echoed) as found:
        yield found


@pytest.fixture(scope="module")
def proxy(server: Scripted) -> Iterator[Mounted]:
    with mounted(server.url) as found:
        yield found


@pytest.fixture(scope="module")
def strict(server: Scripted) -> Iterator[Mounted]:
    limits = Limits(header_bytes=2000, headers=20, body_bytes=1000, header_timeout_s=SOON, body_timeout_s=SOON)
    with mounted(server.url, limits=limits) as found:
        yield found


def received(client: socket.socket) -> bytes:
    part = client.recv(1000)
    assert part, "the connection has ended"
    return part


def posted(body: bytes, *lines: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n" % len(body) + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 50\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\n12345" + SMUGGLED,
        HEAD + b"Content-Length: 5, 50\r\n\r\n12345" + SMUGGLED,
        HEAD + b"Content-Length: +5\r\n\r\n12345" + SMUGGLED,
        HEAD + b"Content-Length: 0x5\r\n\r\n12345" + SMUGGLED,
        HEAD + b"Content-Length : 5\r\n\r\n12345" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;x\r\n12345\r\n-1\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n" + SMUGGLED,
        b"POST /v1/echo HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
        b"POST /v1/echo HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
        HEAD + b"X: a\nContent-Length: 5\r\n\r\n" + SMUGGLED,
        HEAD + b"X: a\rContent-Length: 5\r\n\r\n" + SMUGGLED,
        HEAD + b"X: a\0b\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
        HEAD + b"X: a\r\n Content-Length: 5\r\n\r\n" + SMUGGLED,
        b"GET http://elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
        b"GET /a/../../admin HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
        b"GET /a/%2e%2E/admin HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
        b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
        b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
        b"GET / HTTP/1.2\r\nHost: x\r\n\r\n" + SMUGGLED,
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n" + SMUGGLED,
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    ],
)
def test_what_two_servers_could_read_differently_is_refused(proxy: Mounted, server: Scripted, sent: bytes) -> None:
    before = len(server.requests)
    found = answer_to(proxy.address, sent)
    assert statuses(found)[0] in (400, 405, 417, 501, 505), found
    assert len(statuses(found)) == 1, "the connection must end"
    assert error(found)["message"]
    assert len(server.requests) == before


@given(st.data())
@settings(max_examples=examples(40))
def test_requests_are_the_same_however_their_bytes_arrive(proxy: Mounted, data: Any) -> None:
    """Pipelined requests of all framings, cut anywhere, are answered in their order."""
    bodies = data.draw(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
    sent = b""
    for number, body in enumerate(bodies):
        last = number == len(bodies) - 1
        ending = b"Connection: close\r\n" if last else b""
        if data.draw(st.booleans()):
            sent += HEAD + ending + b"Transfer-Encoding: chunked\r\n\r\n"
            cut = data.draw(st.integers(0, len(body)))
            sent += b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
            sent += b"0\r\nTrailer: x\r\n\r\n"
        else:
            sent += HEAD + ending + b"Content-Length: %d\r\n\r\n" % len(body) + body
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    parts = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    found = answer_to(proxy.address, *parts)
    assert statuses(found) == [200] * len(bodies)
    got = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in found.split(b"HTTP/1.1 200 OK")[1:]]
    assert [each["body"].encode("latin-1") for each in got] == bodies


@pytest.mark.parametrize("ending", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("body", [b"", b"12345"])
def test_a_head_that_comes_again_means_the_same(proxy: Mounted, ending: bytes, body: bytes) -> None:
    """The proxy recognizes it, in this connection and in others; only its end tells of the connection's."""
    sent = HEAD + ending + b"Content-Length: %d\r\n\r\n" % len(body)
    for _ in range(3):
        with connected(proxy.address) as client:
            client.sendall(sent + body)
            if not ending:
                found = received(client)
                assert b"Connection: close" not in found
                client.sendall(posted(body[::-1], b"Connection: close"))
            assert (
                json.loads(said(client).partition(b"\r\n\r\n")[2])["body"] == (body if ending else body[::-1]).decode()
            )


def test_a_body_waits_for_100_continue_only_if_it_may_come(proxy: Mounted, strict: Mounted) -> None:
    with connected(proxy.address) as client:
        client.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n" + END)
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"12345")
        assert statuses(said(client)) == [200]
    with connected(strict.address) as client:
        client.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 5000\r\n\r\n")
        assert statuses(said(client)) == [413]


@pytest.mark.parametrize("body", [b'{"model":"m"}', b"no JSON"], ids=["asked", "refused"])
def test_many_requests_at_once_are_answered_in_their_order(server: Scripted, body: bytes) -> None:
    """Also those that adapters answer without a wait, however many there are."""
    line = b"POST /v1/completions?%d HTTP/1.1\r\nHost: x\r\n"
    asked = [line % number + b"Content-Length: %d\r\n\r\n" % len(body) + body for number in range(300)]
    asked.append(line % 300 + END)
    with mounted(server.url, Retry(), SystemMessage() if body == b"no JSON" else Retry()) as through_adapters:
        answers = answer_to(through_adapters.address, b"".join(asked))
    if body == b"no JSON":
        assert statuses(answers) == [400] * 301
    else:
        assert re.findall(rb"completions\?(\d+) ", answers) == [b"%d" % number for number in range(301)]


def test_a_body_that_waits_behind_another_request_gets_its_100(proxy: Mounted) -> None:
    with connected(proxy.address) as client:
        client.sendall(posted(b"1") + HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n" + END)
        found = b""
        while b"100 Continue" not in found:
            found += received(client)
        client.sendall(b"12345")
        assert statuses(found + said(client)) == [200, 100, 200]


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (HEAD + b"X: " + b"a" * 3000 + b"\r\n\r\n", 431, "headers_too_large"),
        (HEAD + b"X: a\r\n" * 30 + b"\r\n", 431, "headers_too_large"),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "headers_too_large"),
        (posted(b"x" * 1001), 413, "body_too_large"),
        (HEAD + b"Content-Length: 99999999\r\n\r\n" + b"x" * 500_000, 413, "body_too_large"),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"200\r\n" + b"x" * 512 + b"\r\n200\r\n" + b"x" * 512,
            413,
            "body_too_large",
        ),
        (HEAD, 408, "request_timeout"),
        (HEAD + b"Content-Length: 5\r\n\r\nab", 408, "request_timeout"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", 408, "request_timeout"),
    ],
)
def test_limits_are_errors_in_openai_shape(strict: Mounted, sent: bytes, status: int, code: str) -> None:
    found = answer_to(strict.address, sent)
    assert statuses(found) == [status], found
    assert error(found)["code"] == code


@pytest.mark.parametrize("drop", [b"a: b\r\n", b""])
def test_a_client_that_drips_is_not_waited_for_for_ever(strict: Mounted, drop: bytes) -> None:
    with connected(strict.address) as client:
        client.sendall(HEAD if drop else HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        assert statuses(dripped(client, drop or b"1\r\n \r\n")) in ([], [408], [431], [413])


def test_an_idle_connection_that_never_asks_is_closed_without_a_word(strict: Mounted) -> None:
    assert answer_to(strict.address) == b""


def test_a_trailer_does_not_become_a_header(proxy: Mounted, server: Scripted) -> None:
    found = answer_to(
        proxy.address, HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: x\r\n\r\n"
    )
    assert statuses(found) == [200]
    assert server.requests[-1].header("authorization") is None


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_stream_reaches_a_client_of_either_version(version: bytes) -> None:
    gate = threading.Event()
    steps = stream(b"data: 1\n\n", gate, b"data: 2\n\n")
    with scripted(lambda seen: steps) as server, mounted(server.url) as proxy, connected(proxy.address) as client:
        client.sendall(b"GET /s HTTP/%b\r\nHost: x\r\nConnection: close\r\n\r\n" % version)
        found = b""
        while b"data: 1\n\n" not in found:
            found += received(client)
        gate.set()
        found += said(client)
    assert (b"Transfer-Encoding: chunked" in found) is (version == b"1.1")
    assert found.endswith(b"0\r\n\r\n" if version == b"1.1" else b"data: 2\n\n")


def test_an_offer_of_another_protocol_is_ignored(proxy: Mounted) -> None:
    """Java's client offers HTTP/2 with its first request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    found = answer_to(
        proxy.address, HEAD + offer + b"Content-Length: 5\r\n\r\n12345" + posted(b"6", b"Connection: close")
    )
    assert statuses(found) == [200, 200]
    assert b'"size": 5' in found


def test_connections_beyond_the_limit_are_told_so() -> None:
    with scripted(echoed) as server, mounted(server.url, limits=Limits(connections=2)) as proxy, ExitStack() as open_:
        clients = [open_.enter_context(connected(proxy.address)) for _ in range(2)]
        for client in clients:
            client.sendall(posted(b""))
            assert client.recv(1000)
        found = answer_to(proxy.address, posted(b""))
        assert statuses(found) == [503]
        assert error(found)["code"] == "too_many_connections"
        clients[0].sendall(posted(b"", b"Connection: close"))
        assert statuses(said(clients[0])) == [200]


def test_a_client_that_does_not_read_is_dropped() -> None:
    endless = [b"HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n", *[b"x" * 1_000_000] * 500]
    limits = Limits(body_timeout_s=SOON)
    with (
        scripted(lambda seen: endless) as server,
        mounted(server.url, limits=limits) as proxy,
        connected(proxy.address) as client,
    ):
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1)
        assert server.requests[0].left.wait(60)


def until_refused(address: tuple[str, int]) -> None:
    deadline = time.monotonic() + 60
    with suppress(ConnectionError):
        while time.monotonic() < deadline:
            socket.create_connection(address).close()
            time.sleep(0.01)
        raise AssertionError("connections are still taken")


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), Warm((Payload(add={"top_p": 1}),))])
def test_a_stop_lets_requests_end_and_takes_no_more(chain: Any) -> None:
    """What a client was told it gets; idle connections end at once."""
    gate, begun = threading.Event(), threading.Event()

    def answer(seen: Seen) -> Any:
        begun.set()
        return [gate, *whole(ANSWER)]

    with scripted(answer) as server, connected_to_stopping(server, chain) as (proxy, stop):
        idle, busy = socket.create_connection(proxy.address), socket.create_connection(proxy.address)
        with idle, busy:
            idle.sendall(b"GET /_proxy/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(1000)
            busy.sendall(posted(b"{}").replace(b"/v1/echo", b"/v1/completions"))
            assert begun.wait(60)
            stop.start()
            assert said(idle) == b""
            until_refused(proxy.address)
            gate.set()
            found = said(busy)
            assert statuses(found) == [200]
            assert b"Connection: close" in found
            stop.join(60)


class connected_to_stopping:
    """A proxy that a thread can stop while clients use it."""

    def __init__(self, server: Scripted, chain: Any) -> None:
        self._open = ExitStack()
        self._server, self._chain = server, chain

    def __enter__(self) -> tuple[Mounted, threading.Thread]:
        proxy = self._open.enter_context(through(self._server, self._chain, stop_timeout_s=30.0))
        return proxy, threading.Thread(target=self._open.close)

    def __exit__(self, *raised: object) -> None:
        self._open.close()


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), Warm((Payload(add={"top_p": 1}),))])
def test_a_stream_that_a_stop_cuts_ends_with_an_error(chain: Any, caplog: pytest.LogCaptureFixture) -> None:
    hang = threading.Event()
    with scripted(lambda seen: stream(event("a"), hang)) as server:
        with through(server, chain, stop_timeout_s=SOON) as proxy:
            client = socket.create_connection(proxy.address)
            client.sendall(posted(b'{"stream":true}').replace(b"/v1/echo", b"/v1/chat/completions"))
            found = b""
            while b"content" not in found:
                found += received(client)
        found += said(client)
        assert server.requests[-1].left.wait(60)
        client.close()
        hang.set()
    assert found.endswith(b'"code":"proxy_ended"}}\n\n\r\n')  # no chunk of length 0: it is not whole
    assert "1 connections are cut" in caplog.text


def test_a_stop_ends_requests_that_take_too_long() -> None:
    hang = threading.Event()
    with scripted(lambda seen: [hang]) as server:
        with mounted(server.url, stop_timeout_s=SOON) as proxy:
            client = socket.create_connection(proxy.address)
            client.sendall(posted(b""))
            while not server.requests:
                time.sleep(0.01)
        assert server.requests[0].left.wait(60)
        assert said(client) == b""
        client.close()
        hang.set()
