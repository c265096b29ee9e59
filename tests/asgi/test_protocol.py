from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.asgi.config import FrontendConfig, Limits, check_aliases, check_origins
from launcher.backends.inline import Inline
from launcher.core.errors import UserError
from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model
from tests.api.raw import Address, answer_to, connected, dripped, error, ids, request, said, server, statuses
from tests.api.runners import Scripted
from tests.api.runners import said as produced
from tests.fuzzing import examples

SOON = 0.3
"""Seconds that a test lets a client take."""
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def plain() -> Iterator[Address]:
    with server() as s:
        yield s.address
        assert "Traceback" not in s.log.read_text()


SLOW = EchoAsyncEngine(Echo(latency_s=3 * SOON), Model("echo"))


def lives(address: Address) -> bool:
    return statuses(answer_to(address, CLOSE)) == [200]


@pytest.mark.parametrize(
    ("sent", "told"),
    [(b"", []), (b"\r\n\r\n", []), (b"POST", [408]), (HEAD, [408]), (HEAD + b"Content-Length: 5\r\n\r\n", [408]),
     (HEAD + b"Content-Length: 5\r\n\r\nab", [408]), (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", [408])],
)  # fmt: skip
def test_half_a_request_is_not_waited_for_for_ever(sent: bytes, told: list[int]) -> None:
    with server(header_timeout_s=SOON, body_timeout_s=SOON) as s, ExitStack() as clients:
        open_ = [clients.enter_context(connected(s.address)) for _ in range(40)]
        for client in open_:
            client.sendall(sent)
        for client in open_:
            found = said(client)
            assert statuses(found) == told
            assert not told or error(found)["code"] == "request_timeout"
        assert lives(s.address)


@pytest.mark.parametrize("start", [b"", HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"])
def test_a_client_that_drips_is_not_waited_for_for_ever(start: bytes) -> None:
    drop = {b"": b"\r\n", HEAD: b"a: b\r\n"}.get(start, b"1\r\n \r\n")
    with server(header_timeout_s=SOON, body_timeout_s=SOON) as s, connected(s.address) as client:
        client.sendall(start)
        assert statuses(dripped(client, drop)) in ([], [408])
        assert lives(s.address)


def test_a_slow_answer_and_an_idle_connection_have_no_limit_nor_a_request_that_waits_for_another() -> None:
    asked = request({"max_tokens": 1})
    with (
        server(SLOW, header_timeout_s=2 * SOON, body_timeout_s=2 * SOON) as s,
        connected(s.address) as client,
    ):
        client.sendall(asked)
        client.sendall(asked[:-5])
        client.sendall(asked[-5:])
        found = b""
        while found.count(b"usage") < 2:
            found += client.recv(65536)
        assert statuses(found) == [200, 200]
        time.sleep(3 * SOON)
        client.sendall(CLOSE)
        assert statuses(said(client)) == [200]


@pytest.mark.parametrize(
    "head",
    [b"a: " + b"x" * 5000, b"\r\n".join(b"h%d: x" % i for i in range(21)), b"x" * 5000 + b": y", b"a: b\r\n" * 900],
)
@pytest.mark.parametrize("size", [10**6, 700])
def test_headers_have_a_size_and_a_count(head: bytes, size: int) -> None:
    whole = HEAD + head + b"\r\nContent-Length: 0\r\n\r\n"
    with server(header_bytes=4000, headers=20) as s:
        found = answer_to(s.address, *(whole[i : i + size] for i in range(0, len(whole), size)))
        assert statuses(found) in ([431], [])
        assert size < 10**6 or error(found)["code"] == "headers_too_large"
        assert "431" in s.log.read_text()
        assert lives(s.address)


def test_a_header_without_an_end_is_not_kept() -> None:
    with server(header_bytes=4000) as s, connected(s.address) as client:
        client.sendall(HEAD + b"a: ")
        assert statuses(dripped(client, b"x" * 1000, times=2000)) in ([431], [])


def test_headers_within_the_limits_are_read() -> None:
    many = b"\r\n".join(b"h%d: %b" % (i, b"x" * 100) for i in range(17))
    with server(header_bytes=4000, headers=20) as s:
        assert statuses(answer_to(s.address, CLOSE.replace(b"\r\n\r\n", b"\r\n" + many + b"\r\n\r\n"))) == [200]


def test_a_body_that_is_too_large_is_refused_before_it_comes() -> None:
    with server(body_bytes=1000) as s, connected(s.address) as client:
        client.sendall(HEAD + b"Content-Length: 66060288\r\n\r\n")
        assert b"413" in client.recv(65536)


def test_who_has_no_key_is_refused_before_the_body_comes_and_cannot_send_for_ever() -> None:
    with server(key="right", body_bytes=10**5) as s:
        for rest in (b"Content-Length: 66060288\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
            with connected(s.address) as client:
                client.sendall(HEAD + rest)
                assert b"401" in client.recv(65536)
                dripped(client, b"4000\r\n" + b"x" * 16384 + b"\r\n")
        assert lives(s.address)


def test_more_connections_than_allowed_are_told_to_come_back() -> None:
    with server(connections=5) as s, ExitStack() as clients:
        first = [clients.enter_context(connected(s.address)) for _ in range(5)]
        for client in first:  # a connection counts when the server has seen it
            client.sendall(CLOSE.replace(b"Connection: close\r\n", b""))
            assert b"200" in client.recv(65536)
        found = answer_to(s.address)
        assert (statuses(found), error(found)["code"]) == ([503], "too_many_connections")
        first[0].sendall(CLOSE)
        assert b"200" in said(first[0])
        assert lives(s.address)


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1e3\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        HEAD + b"a b: c\r\n\r\n",
        HEAD + b"a: b\x00c\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_told_so_once_and_ends_the_connection(plain: Address, sent: bytes) -> None:
    found = answer_to(plain, sent)
    assert statuses(found) == [400]
    assert error(found).keys() == {"message", "type", "param", "code"}
    assert ids(found)[0].startswith("req_")
    assert lives(plain)


def test_an_answer_before_the_app_has_the_clients_own_id_and_no_earlier_ones(plain: Address) -> None:
    mine, garbage = b"x-request-id: mine\r\n", b"\x16\x03\x01"
    assert ids(answer_to(plain, HEAD + mine + b"Content-Length: x\r\n\r\n")) == ["mine"]
    with connected(plain) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + mine + b"\r\n")
        found = client.recv(65536)
        client.sendall(garbage)
        found += said(client)
    assert statuses(found) == [200, 400]
    assert ids(found)[0] == "mine"
    assert ids(found)[1].startswith("req_")


def test_the_log_has_the_id_of_an_answer_before_the_app() -> None:
    with server(header_bytes=4000) as s:
        found = answer_to(s.address, b"GARBAGE\r\n\r\n") + answer_to(
            s.address, HEAD + b"a: " + b"x" * 5000 + b"\r\n\r\n"
        )
        assert statuses(found) == [400, 431]
        lines = s.log.read_text().splitlines()
        assert {json.loads(line).get("request_id") for line in lines} >= set(ids(found))


@settings(max_examples=examples(40), deadline=None)
@given(
    junk=st.lists(st.binary(max_size=30) | st.sampled_from([HEAD, CLOSE, b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b": "]))
)
def test_no_bytes_harm_the_server(living: Address, junk: list[bytes]) -> None:
    with connected(living) as client, suppress(OSError):
        for part in junk:
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)  # what is a whole request by chance has an answer, and the connection goes on
        said(client)
    assert lives(living)


@pytest.fixture(scope="module")
def living() -> Iterator[Address]:
    with server(header_timeout_s=0.05, body_timeout_s=0.05) as s:
        yield s.address
        assert "Traceback" not in s.log.read_text()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("junk", [b"\x00\x01\x02 junk\r\n\r\n", b"GET / HTTP/7\r\n\r\n" * 50])
def test_garbage_behind_a_request_neither_harms_its_answer_nor_gets_one(
    plain: Address, junk: bytes, stream: bool
) -> None:
    found = answer_to(plain, request({"stream": stream}) + junk)
    assert statuses(found) == [200]
    assert found.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}")
    assert lives(plain)


@pytest.mark.parametrize("head", [b"GET /health\r\n\r\n", b"GET /health HTTP/2.0\r\n\r\n"])
def test_another_version_of_http_is_not_spoken(plain: Address, head: bytes) -> None:
    found = answer_to(plain, head)
    assert (statuses(found), error(found)["code"]) == ([505], "http_version")


def test_requests_in_one_packet_are_answered_in_order(plain: Address) -> None:
    asked = b"".join(request({"prompt": text, "echo": True, "max_tokens": 0}) for text in ("one", "two", "three"))
    found = answer_to(plain, asked + CLOSE)
    assert statuses(found) == [200] * 4
    assert found.index(b'"one"') < found.index(b'"two"') < found.index(b'"three"')


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_client_of_http_1_0_gets_no_chunks(path: str) -> None:
    runner = Scripted([produced("ab"), produced("c", "length")])
    runner.model = "echo"
    body: dict[str, object] = {"stream": True}
    if "chat" in path:
        body |= {"messages": [{"role": "user", "content": "x"}], "prompt": None}
    with server(runner) as s:
        found = answer_to(s.address, request(body, path=path, version="1.0"))
        head, _, rest = found.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert rest.startswith(b"data: {")
        assert rest.endswith(b"data: [DONE]\n\n")
        whole = answer_to(s.address, request({}, version="1.0"))
        assert statuses(whole) == [200]
        assert whole.endswith(b"}")


def test_an_offer_of_another_protocol_is_not_taken_and_costs_nothing(plain: Address) -> None:
    """Java's client offers HTTP/2 with its first request."""
    offer = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    with connected(plain) as client:
        for _ in range(3):
            client.sendall(request({"prompt": "one", "echo": True}, *offer))
            assert b'"one' in client.recv(65536)
        client.sendall(request({}, *offer) * 20 + CLOSE)
        assert statuses(said(client)) == [200] * 21


def test_a_head_request_has_the_headers_and_no_body(plain: Address) -> None:
    for path in (
        b"/health",
        b"/v1/models",
        b"/v1/models/echo",
        b"/metrics",
        b"/ready/",
        b"/engine",
        b"/tokenizer_info",
    ):
        found = answer_to(plain, CLOSE.replace(b"GET /health", b"HEAD " + path))
        assert statuses(found) == [200]
        assert b"content-length: " in found.lower()
        assert found.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "name", ["header_bytes", "headers", "header_timeout_s", "body_bytes", "body_timeout_s", "connections"]
)
def test_a_limit_of_nothing_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=rf"backend\.limits\.{name} is 0; must be"):
        Inline(limits=Limits(**{name: 0}))


@pytest.mark.parametrize(
    "origin", ["example.com", "http://a/", "http://", "https://u@a", "http://a:x", "http://a?b", "", "null/"]
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(UserError, match=r"backend\.cors_origins"):
        check_origins([origin])


def test_origins_and_aliases_that_can_be() -> None:
    check_origins(["*", "http://localhost:3000", "https://a.example"])
    check_aliases(["gpt-4o", "meta/Llama 3"])
    for alias in ("", " ", "a\nb"):
        with pytest.raises(UserError, match=r"backend\.aliases"):
            check_aliases([alias])
    assert FrontendConfig().limits == Limits()
