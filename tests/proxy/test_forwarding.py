"""What passes between a client and the endpoint, as bytes and through adapters."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from launcher.adapters.base import Adapter, Part
from launcher.adapters.payload import Payload
from launcher.adapters.progress import Progress
from launcher.adapters.reasoning import Reasoning
from launcher.adapters.response_stats import ResponseStats
from launcher.adapters.retry import Retry
from launcher.adapters.system_message import SystemMessage
from launcher.core.errors import AdapterError
from launcher.core.types import Handler, Request, Response
from launcher.proxy.settings import Authorization
from tests.proxy.mounted import (
    ANSWER,
    DONE,
    RUN,
    Mounted,
    Seen,
    Step,
    Warm,
    event,
    mounted,
    scripted,
    stream,
    through,
    whole,
)  # fmt: skip

CHAT = {"model": "m", "messages": [{"role": "user", "content": "2+2="}]}
PATIENCE_S = 60
CHAIN = (SystemMessage(text="Be brief."), Payload(add={"top_p": 1}), Reasoning())


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    proxy: Mounted, method: str = "POST", path: str = "/v1/chat/completions", body: Any = CHAT, **headers: str
) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with closing(http.client.HTTPConnection(*proxy.address, timeout=PATIENCE_S)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, data if method not in ("GET", "HEAD") else None, named)
        found = connection.getresponse()
        return Answer(found.status, found.getheaders(), found.read())


@contextmanager
def streaming(proxy: Mounted) -> Iterator[http.client.HTTPResponse]:
    """Ask for a stream; yield the answer."""
    with closing(http.client.HTTPConnection(*proxy.address, timeout=PATIENCE_S)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(CHAT | {"stream": True}))
        yield connection.getresponse()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


@dataclass
class Shout(Adapter):
    """Writes to the request and to the answer."""

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        response = await call_next(Request(request.path, {**request.body, "loud": True}, request.headers))
        return Response(response.status, {**response.body, "shouted": True}, response.headers)


@dataclass
class Broken(Adapter):
    """Fails with any exception, or with one of its own."""

    refuses: bool = True
    late: bool = False

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if self.late:
            await call_next(request)
        raise AdapterError("no such message") if self.refuses else RuntimeError("a bug")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PROPFIND"])
@pytest.mark.parametrize("adapters", [(), Warm(), (SystemMessage(text="x"),)])
def test_any_method_and_path_is_forwarded(method: str, adapters: tuple[Adapter, ...]) -> None:
    with (
        scripted(lambda seen: whole({"ok": 1}, "207 Multi-Status", "X-Own: a")) as server,
        through(server, adapters) as proxy,
    ):
        found = ask(proxy, method, "/v2/other%20thing?a=1&b=%2F", b"\0\xffbytes", X_Team="blue")
        (seen,) = server.requests
    assert seen.line == f"{method} /v2/other%20thing?a=1&b=%2F HTTP/1.1"
    assert seen.body == (b"" if method in ("GET", "HEAD") else b"\0\xffbytes")
    assert seen.header("x-team") == "blue"
    assert (found.status, found.header("x-own"), found.header("x-launcher-run")) == (207, "a", RUN)
    assert found.body == (b"" if method == "HEAD" else b'{"ok": 1}')
    assert found.header("content-length") == "9"


@pytest.mark.parametrize("prefix", ["", "/openai", "/a/b"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/chat/completions/"])
def test_completions_go_through_adapters_under_any_prefix(prefix: str, path: str) -> None:
    with scripted(lambda seen: whole(ANSWER)) as server, mounted(server.url, Shout()) as proxy:
        found = ask(proxy, path=f"{prefix}{path}?beta=1")
        (seen,) = server.requests
    assert seen.line == f"POST {prefix}{path}?beta=1 HTTP/1.1"
    assert json.loads(seen.body) == CHAT | {"loud": True}
    assert found.json == ANSWER | {"shouted": True}


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completion%73", "/%761/completions", "/v1/chat%2Fcompletions", "/v1//chat/completions",
     "/v1/chat/completions;a=1", "/a/v1/completions%2f", "/V1/Chat/Completions", "/v1\\completions"],
)  # fmt: skip
def test_no_spelling_of_a_completions_path_goes_past_adapters(path: str) -> None:
    with scripted(lambda seen: whole(ANSWER)) as server, mounted(server.url, Shout()) as proxy:
        for _ in range(2):
            found = ask(proxy, path=path)
            assert (found.status, found.json["error"]["code"]) == (400, "malformed_request")
        assert ask(proxy, path="/v1/completions").json["shouted"]
        assert [seen.line for seen in server.requests] == ["POST /v1/completions HTTP/1.1"]
    with scripted(lambda seen: whole(ANSWER)) as server, mounted(server.url) as proxy:
        assert ask(proxy, path=path).json == ANSWER


@pytest.mark.parametrize(
    "path",
    ["/v1/responses", "/v1/messages", "/openai/v1/responses?a=1", "/generate/", "/v1//responses", "/v1/%6dessages",
     "/V1/Messages", "/v1\\responses", "/v1/responses;a=1"],
)  # fmt: skip
def test_no_text_is_generated_past_adapters_that_change_answers(path: str) -> None:
    with scripted(lambda seen: whole(ANSWER)) as server:
        with mounted(server.url, Retry(), SystemMessage(text="x")) as proxy:
            found = ask(proxy, path=path)
            assert (found.status, found.json["error"]["code"]) == (400, "path_not_adapted")
            assert "past the adapters system_message; they know" in found.json["error"]["message"]
            assert not server.requests
            assert ask(proxy, "GET", f"{path}/1").status == 200
            assert ask(proxy, path="/v1/embeddings").json == ANSWER
        for chain in ((), (Retry(),)):
            with mounted(server.url, *chain) as proxy:
                assert ask(proxy, path=path).json == ANSWER


def test_without_adapters_bytes_pass_as_they_are() -> None:
    strange = b'{ "a":1.0e3,"a":NaN, "choices" : [] }'
    with scripted(lambda seen: whole(strange)) as server, mounted(server.url) as proxy:
        found = ask(proxy, body=strange)
        assert server.requests[0].body == strange
    assert found.body == strange


def test_what_no_adapter_reads_passes_as_bytes() -> None:
    """Retry reads nothing; a payload that only adds headers neither."""
    strange = b'{ "a":1.0e3,"a":2, "choices" : [] }'
    chain = Retry(), Payload(add_headers={"X-Team": "blue"})
    with scripted(lambda seen: whole(strange)) as server, through(server, chain) as proxy:
        found = ask(proxy, body=strange)
        assert server.requests[0].body == strange
        assert server.requests[0].header("x-team") == "blue"
    assert found.body == strange


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(),), CHAIN, Warm(CHAIN)])
def test_each_event_passes_at_once(chain: tuple[Adapter, ...]) -> None:
    """The endpoint sends the next event only when the client has the one before."""
    gates = [threading.Event() for _ in range(3)]
    parts: list[Step] = [event("a"), gates[0], event("b"), gates[1], event("c", "stop"), gates[2], DONE]
    with (
        scripted(lambda seen: stream(*parts)) as server,
        through(server, chain) as proxy,
        streaming(proxy) as found,
    ):
        texts = []
        for gate in gates:
            texts.append(_event_text(found))
            gate.set()
        assert texts == ["a", "b", "c"]
        assert found.read().strip() == DONE.strip()
        assert found.getheader("content-type") == "text/event-stream"


def _event_text(found: http.client.HTTPResponse) -> str:
    while True:
        line = found.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: "):
            choice = json.loads(line[6:])["choices"][0]
            if text := choice["delta"].get("content"):
                return str(text)


def test_headers_of_one_connection_do_not_pass() -> None:
    answer = whole(ANSWER, "200 OK", "Connection: X-Secret, close", "X-Secret: 1", "Keep-Alive: timeout=5", "X-Kept: 2")
    with scripted(lambda seen: answer) as server, mounted(server.url) as proxy:
        found = ask(
            proxy, Connection="X-Hop, close", X_Hop="1", TE="trailers", Proxy_Authorization="Basic x", X_End="2"
        )
        (seen,) = server.requests
    assert [seen.header(name) for name in ("x-hop", "te", "proxy-authorization", "connection")] == [None] * 4
    assert seen.header("x-end") == "2"
    assert [found.header(name) for name in ("x-secret", "keep-alive")] == [None, None]
    assert found.header("x-kept") == "2"


@pytest.mark.parametrize(
    ("policy", "key", "sent"),
    [(Authorization.replace, "k", "Bearer upstream"), (Authorization.forward, None, "Bearer own"),
     (Authorization.remove, "k", None)],
)  # fmt: skip
@pytest.mark.parametrize("chain", [(), Warm(), (Retry(),), Warm(CHAIN)])
def test_the_endpoint_gets_the_key_of_the_policy(
    policy: Authorization, key: str | None, sent: str | None, chain: tuple[Adapter, ...]
) -> None:
    with (
        scripted(lambda seen: whole(ANSWER)) as server,
        through(server, chain, key=key, api_key="upstream", authorization=policy) as proxy,
    ):
        assert ask(proxy, Authorization=f"Bearer {key or 'own'}").status == 200
    assert server.requests[0].header("authorization") == sent


def test_only_a_client_with_the_key_is_answered() -> None:
    with scripted(lambda seen: whole(ANSWER)) as server, mounted(server.url, key="the-key") as proxy:
        refused = [ask(proxy), ask(proxy, Authorization="Bearer other"), ask(proxy, Authorization="Basic the-key")]
        assert ask(proxy, "GET", "/_proxy/metrics").status == 401
        assert ask(proxy, "GET", "/_proxy/health").json["run"] == RUN
        assert ask(proxy, Authorization="Bearer the-key").status == 200
    assert [(each.status, each.json["error"]["code"]) for each in refused] == [(401, "invalid_api_key")] * 3
    assert len(server.requests) == 1


def test_two_runs_never_answer_each_other() -> None:
    """By a header, and for harnesses that send none by the path; neither reaches the endpoint."""
    with scripted(lambda seen: whole(ANSWER)) as server, mounted(server.url) as proxy:
        others = [
            ask(proxy, X_Launcher_Run="fedcba9876543210"),
            ask(proxy, path="/_proxy/run/fedcba9876543210/v1/chat/completions"),
        ]
        assert not server.requests
        own = [ask(proxy, X_Launcher_Run=RUN), ask(proxy, path=f"/_proxy/run/{RUN}/v1/chat/completions?a=1")]
    assert [(each.status, each.json["error"]["code"]) for each in others] == [(421, "other_run")] * 2
    assert [each.status for each in own] == [200, 200]
    assert [seen.line.split()[1] for seen in server.requests] == ["/v1/chat/completions", "/v1/chat/completions?a=1"]
    assert server.requests[0].header("x-launcher-run") is None


OWN_SHAPE = {"error": {"message": "too long", "type": "invalid_request_error", "param": "prompt", "code": "length"}}


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), (SystemMessage(text="x"),), Warm(CHAIN)])
@pytest.mark.parametrize(
    ("status", "body", "message"),
    [("400 Bad Request", OWN_SHAPE, "too long"), ("404 Not Found", {"detail": "no route"}, "no route"),
     ("422 Unprocessable", {"object": "error", "message": "bad n"}, "bad n"),
     ("503 Service Unavailable", b"<html>", "<html>"), ("429 Too Many Requests", {"error": "slow"}, "slow"),
     ("500 Internal Server Error", b"", "HTTP 500")],
)  # fmt: skip
def test_an_error_keeps_its_status_in_openai_shape(
    status: str, body: Any, message: str, chain: tuple[Adapter, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with scripted(lambda seen: whole(body, status, "Retry-After: 7")) as server, through(server, chain) as proxy:
        found = ask(proxy)
    assert found.status == int(status.split()[0])
    assert message in found.json["error"]["message"]
    assert set(found.json["error"]) == {"message", "type", "param", "code"}
    assert found.header("retry-after") == "7"
    if body is OWN_SHAPE:
        assert found.json == OWN_SHAPE
    (logged,) = [each.getMessage() for each in caplog.records if each.name == "launcher.proxy"]
    assert logged.startswith(f"the endpoint answered HTTP {found.status}: ")
    assert message in logged


def test_errors_of_other_paths_pass_as_they_are() -> None:
    with (
        scripted(lambda seen: whole(b"draining", "503 Service Unavailable")) as server,
        mounted(server.url, Shout()) as proxy,
    ):
        found = ask(proxy, "GET", "/health")
    assert (found.status, found.body) == (503, b"draining")


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), Warm(CHAIN)])
def test_no_endpoint_is_a_502_that_says_why(chain: tuple[Adapter, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with mounted(url, *chain) as proxy:
        found = ask(proxy)
    assert (found.status, found.json["error"]["code"]) == (502, "upstream_connection")
    assert "refused" in found.json["error"]["message"]


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), Warm(CHAIN)])
@pytest.mark.parametrize(
    ("steps", "status"),
    [([None], 502), ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", None], 502), ([b"garbage\r\n\r\n"], 502),
     ([b"HTTP/1.1 000 Odd\r\nContent-Length: 2\r\n\r\n{}"], 502),
     ([b"HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\n{}"], 502),
     ([threading.Event()], 504), ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", threading.Event()], 504)],
)  # fmt: skip
def test_an_endpoint_that_breaks_or_hangs_before_its_answer_is_whole_is_an_error(
    steps: list[Any], status: int, chain: tuple[Adapter, ...]
) -> None:
    with scripted(lambda seen: steps) as server, through(server, chain, silence_timeout_s=0.3) as proxy:
        found = ask(proxy)
    assert found.status == status
    assert found.json["error"]["message"].startswith("the endpoint: ")


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), CHAIN, Warm(CHAIN)])
@pytest.mark.parametrize("last", [None, threading.Event()])
def test_a_stream_that_breaks_or_hangs_does_not_look_whole(chain: tuple[Adapter, ...], last: Any) -> None:
    steps = stream(event("a"), event("b"), last, end=False)
    with scripted(lambda seen: steps) as server, through(server, chain, silence_timeout_s=0.3) as proxy:
        with streaming(proxy) as found, pytest.raises(http.client.IncompleteRead) as broken:
            found.read()
        lines = ask(proxy, "GET", "/_proxy/metrics").body.decode().splitlines()
    assert {"launcher_proxy_completions_total 0", "launcher_proxy_completions_lost_total 1"} <= set(lines)
    assert b'"error"' in broken.value.partial.rstrip().rsplit(b"\n", 1)[-1]
    assert DONE not in broken.value.partial


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), CHAIN, Warm(CHAIN)])
def test_a_stream_without_an_event_gets_no_end_that_it_did_not_have(chain: tuple[Adapter, ...]) -> None:
    with scripted(lambda seen: stream()) as server, through(server, chain) as proxy, streaming(proxy) as found:
        try:
            data = found.read()
        except http.client.IncompleteRead as broken:
            data = broken.partial
    assert DONE not in data


@pytest.mark.parametrize("chain", [(Retry(attempts=1),), CHAIN, Warm(CHAIN)])
def test_the_type_of_a_stream_may_have_capitals(chain: tuple[Adapter, ...]) -> None:
    head, *rest = stream(event("a", "stop"), DONE)
    assert isinstance(head, bytes)
    steps = [head.replace(b"text/event-stream", b"Text/Event-Stream; charset=utf-8"), *rest]
    with scripted(lambda seen: steps) as server, through(server, chain) as proxy, streaming(proxy) as found:
        assert found.headers["content-type"] == "text/event-stream"
        assert found.read().endswith(DONE)


@pytest.mark.parametrize("chain", [Warm(), (Retry(attempts=1),), CHAIN, Warm(CHAIN)])
def test_a_silent_stream_that_only_the_connection_ends_is_an_error_once(chain: tuple[Adapter, ...]) -> None:
    steps: list[Step] = [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event("a"), threading.Event()]
    with scripted(lambda seen: steps) as server, through(server, chain, silence_timeout_s=0.3) as proxy:
        with streaming(proxy) as found, pytest.raises(http.client.IncompleteRead) as broken:
            found.read()
        assert broken.value.partial.count(b'"upstream_timeout"') == 1
        metrics = ask(proxy, "GET", "/_proxy/metrics").body.decode()
    assert "launcher_proxy_in_flight 1\n" in metrics
    assert 'launcher_proxy_failures_total{reason="timeout"} 1' in metrics


@pytest.mark.parametrize("chain", [CHAIN, Warm(CHAIN)])
@pytest.mark.parametrize("last", [None, threading.Event()])
def test_a_stream_ends_with_its_last_event_also_where_the_endpoint_leaves_it_open(last: Any, chain: Any) -> None:
    steps = stream(event("a"), event("b", "stop"), DONE, last, end=False)
    with (
        scripted(lambda seen: steps) as server,
        through(server, chain, silence_timeout_s=5) as proxy,
        streaming(proxy) as found,
    ):
        assert found.read().endswith(DONE)


@pytest.mark.parametrize(
    ("adapter", "status", "code"),
    [(Broken(), 502, "adapter_refused"), (Broken(late=True), 502, "adapter_refused"),
     (Broken(refuses=False), 500, "internal_error"), (Broken(refuses=False, late=True), 500, "internal_error")],
)  # fmt: skip
def test_a_failing_adapter_fails_the_request(adapter: Broken, status: int, code: str) -> None:
    with scripted(lambda seen: whole(ANSWER)) as server, mounted(server.url, adapter) as proxy:
        found = ask(proxy)
        assert len(server.requests) == adapter.late
    assert (found.status, found.json["error"]["code"]) == (status, code)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"a": NaN}', b"\xff", b""])
def test_a_body_that_adapters_cannot_read_goes_nowhere(body: bytes) -> None:
    with scripted(lambda seen: whole(ANSWER)) as server, mounted(server.url, SystemMessage(text="x")) as proxy:
        found = ask(proxy, body=body)
        encoded = ask(proxy, Content_Encoding="gzip")
        assert not server.requests
    assert (found.status, found.json["error"]["code"]) == (400, "invalid_json")
    assert encoded.status == 415


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), CHAIN, Warm(CHAIN)])
@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_leaves_cancels_the_request(chain: tuple[Adapter, ...], streams: bool) -> None:
    hang = threading.Event()
    with (
        scripted(lambda seen: stream(event("a"), hang) if streams else [hang]) as server,
        through(server, chain) as proxy,
    ):
        with socket.create_connection(proxy.address, PATIENCE_S) as client:
            data = json.dumps(CHAT | {"stream": streams}).encode()
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
            )
            until(lambda: server.requests)
            if streams:
                assert client.recv(100)
        assert server.requests[0].left.wait(PATIENCE_S)
        until(lambda: "launcher_proxy_clients_left_total 1" in ask(proxy, "GET", "/_proxy/metrics").body.decode())
        assert "launcher_proxy_completions_lost_total 1" in ask(proxy, "GET", "/_proxy/metrics").body.decode()
        hang.set()


def test_metrics_tell_what_happened_and_leave_the_endpoints_own_alone() -> None:
    with scripted(lambda seen: whole(b"vllm:x 1")) as server, mounted(server.url) as proxy:
        assert ask(proxy, "GET", "/metrics").body == b"vllm:x 1"
        ask(proxy, body=b"12345")
        ask(proxy, "GET", "/_proxy/nothing")
        text = ask(proxy, "GET", "/_proxy/metrics").body.decode()
    lines = text.splitlines()
    assert 'launcher_proxy_requests_total{status="200"} 2' in lines
    assert 'launcher_proxy_requests_total{status="404"} 1' in lines
    assert "launcher_proxy_in_flight 1" in lines
    assert "launcher_proxy_received_bytes_total 5" in lines
    assert "launcher_proxy_request_seconds_count 3" in lines
    from prometheus_client.parser import text_string_to_metric_families

    assert {family.name for family in text_string_to_metric_families(text)} >= {"launcher_proxy_request_seconds"}


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), Warm(CHAIN)])
def test_an_answer_of_any_status_is_counted(chain: tuple[Adapter, ...]) -> None:
    with scripted(lambda seen: whole({}, "999 Odd")) as server, through(server, chain) as proxy:
        with closing(http.client.HTTPConnection(*proxy.address, timeout=PATIENCE_S)) as connection:
            for _ in range(2):  # over one connection, which stays usable
                connection.request("POST", "/v1/chat/completions", json.dumps(CHAT))
                found = connection.getresponse()
                assert (found.status, bool(found.read())) == (999, True)
        lines = ask(proxy, "GET", "/_proxy/metrics").body.decode().splitlines()
    assert 'launcher_proxy_requests_total{status="999"} 2' in lines
    assert {"launcher_proxy_completions_total 0", "launcher_proxy_completions_lost_total 2"} <= set(lines)


FAILED = b'data: {"error": {"message": "the engine died", "code": 500}}\n\n'
WITH_ERROR = {
    "an event": stream(event("a"), FAILED, DONE),
    "an event with the others": stream(event("a") + FAILED + DONE),
    "the last event": stream(event("a"), FAILED),
    "an event in pieces": stream(event("a"), FAILED[:9], FAILED[9:20], FAILED[20:], DONE),
    "the only event": stream(FAILED, DONE),
    "CRLF": stream(event("a").replace(b"\n", b"\r\n"), FAILED.replace(b"\n", b"\r\n"), DONE.replace(b"\n", b"\r\n")),
    "an event without a space": stream(event("a"), FAILED.replace(b"data: ", b"data:"), DONE),
    "an event with choices": stream(event("a")[:-3] + b', "error": {"message": "the engine died"}}\n\n', DONE),
    "a whole answer": whole({"error": {"message": "the engine died"}}),
    "a whole answer with an id": whole({"id": "gen-1", "error": "the engine died"}),
}
"""Answers whose status is good, and which are errors."""


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), Warm((Payload(add={"top_p": 1}),)), Warm(CHAIN)])
@pytest.mark.parametrize("steps", WITH_ERROR.values(), ids=WITH_ERROR)
def test_an_error_behind_a_good_status_is_no_good_completion(
    steps: list[Step], chain: tuple[Adapter, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with scripted(lambda seen: steps) as server, through(server, chain) as proxy:
        with streaming(proxy) as found, suppress(http.client.IncompleteRead):
            assert found.status in (200, 502)
            found.read()
        lines = ask(proxy, "GET", "/_proxy/metrics").body.decode().splitlines()
    assert {"launcher_proxy_completions_total 0", "launcher_proxy_completions_lost_total 1"} <= set(lines)
    assert tuple(chain) == CHAIN or "the engine died" in caplog.text


SHY = Payload(add={"top_p": 1})
"""Reads no answer."""
WITHOUT_ERROR = {
    "the word alone": stream(event("error"), event("", "stop"), DONE),
    "a null": stream(event("a")[:-3] + b', "error": null}\n\n', DONE),
    "a text of an event": stream(event('\ndata: {"error": "x"}'), event("", "stop"), DONE),
    "no [DONE]": stream(event("a"), event("", "stop")),
    "a whole answer": whole({"error": None, **ANSWER}),
    "the connection's end": [b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", event("a"), DONE, None],
}


@pytest.mark.parametrize("chain", [(), Warm(), (Progress(),)])
@pytest.mark.parametrize("steps", WITHOUT_ERROR.values(), ids=WITHOUT_ERROR)
def test_an_answer_that_only_speaks_of_errors_is_good(steps: list[Step], chain: tuple[Adapter, ...]) -> None:
    with scripted(lambda seen: steps) as server, through(server, chain) as proxy:
        with streaming(proxy) as found:
            assert found.status == 200
            found.read()
        lines = ask(proxy, "GET", "/_proxy/metrics").body.decode().splitlines()
    assert {"launcher_proxy_completions_total 1", "launcher_proxy_completions_lost_total 0"} <= set(lines)


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), Warm((Payload(add={"top_p": 1}),)), Warm(CHAIN)])
def test_a_stream_that_only_the_connection_ends_needs_an_end_of_its_own(chain: tuple[Adapter, ...]) -> None:
    """A server that is killed closes its connections in the same way as one of HTTP/1.0 that is done."""
    steps = [b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", event("a"), event("b"), None]
    with scripted(lambda seen: steps) as server, through(server, chain) as proxy:
        with streaming(proxy) as found, pytest.raises(http.client.IncompleteRead):
            found.read()
        lines = ask(proxy, "GET", "/_proxy/metrics").body.decode().splitlines()
    assert {"launcher_proxy_completions_total 0", "launcher_proxy_completions_lost_total 1"} <= set(lines)


@pytest.mark.parametrize("chain", [(), Warm(), (Retry(attempts=1),), (SHY,), Warm((SHY,))])
@pytest.mark.parametrize(("body", "is_whole"), [(b'{"choices": [{"text": "a', False), (b'{"choices": []}\n', True)])
def test_json_that_only_the_connection_ends_has_to_be_whole(
    body: bytes, is_whole: bool, chain: tuple[Adapter, ...]
) -> None:
    steps = [b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n", body, None]
    with scripted(lambda seen: steps) as server, through(server, chain) as proxy:
        with streaming(proxy) as found, suppress(http.client.IncompleteRead):
            assert found.read() != body or is_whole
        lines = ask(proxy, "GET", "/_proxy/metrics").body.decode().splitlines()
    assert f"launcher_proxy_completions_total {int(is_whole)}" in lines


@pytest.mark.parametrize("steps", WITH_ERROR.values(), ids=WITH_ERROR)
def test_statistics_call_no_error_an_answer(steps: list[Step]) -> None:
    chain = Progress(interval_s=0.01), ResponseStats()
    with scripted(lambda seen: steps) as server, through(server, chain) as proxy:
        with streaming(proxy) as found, suppress(http.client.IncompleteRead):
            found.read()
        stats, progress = proxy.folder / "response_stats.json", proxy.folder / "progress.json"
        deadline = time.monotonic() + PATIENCE_S
        while not stats.exists() or json.loads(progress.read_text())["in_flight"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        counts, told = json.loads(stats.read_text()), json.loads(progress.read_text())
    assert counts["/v1/chat/completions"]["no answer"]["answers"] == 1
    assert counts["/v1/chat/completions"].get("200", {}).get("answers", 0) == 0
    assert (told["answered"], told["errors"]) == (0, 1)


def test_equal_requests_of_different_clients_are_equal_for_adapters() -> None:
    """An adapter sees no header of the client's program, and no key of its own."""
    seen: list[Request] = []

    @dataclass
    class Look(Adapter):
        reads = Part.none

        async def __call__(self, request: Request, call_next: Handler) -> Response:
            seen.append(request)
            return await call_next(request)

    with scripted(lambda _: whole(ANSWER)) as server, mounted(server.url, Look(), key="k", api_key="upstream") as proxy:
        for agent in ("a", "b"):
            ids = dict.fromkeys(("X_Irid", "Idempotency_Key", "X_Correlation_Id", "X_B3_TraceId", "Traceparent"), agent)
            ask(proxy, Authorization="Bearer k", User_Agent=agent, X_Stainless_Retry_Count=agent, X_Team="blue", **ids)
    assert [request.headers for request in seen] == [{"X-Team": "blue"}] * 2
    assert seen[0].sample != seen[1].sample
    assert [each.header("user-agent") for each in server.requests] == ["a", "b"]
    assert [each.header("x-irid") for each in server.requests] == ["a", "b"]


@pytest.fixture(scope="module")
def echoing() -> Iterator[Mounted]:
    def answer(seen: Seen) -> Any:
        return whole({"size": len(seen.body)})

    with scripted(answer) as server, mounted(server.url) as proxy:
        yield proxy


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
def test_bodies_of_any_size_pass(echoing: Mounted, size: int) -> None:
    assert ask(echoing, body=b"x" * size).json == {"size": size}


def test_a_large_answer_passes_to_a_slow_client_within_bounded_memory() -> None:
    """The endpoint has to wait when the client does not read."""
    part, sent = b"x" * 65536, []

    def steps(seen: Seen) -> Any:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1000 * len(part))
        for number in range(1000):
            sent.append(number)
            yield part

    with (
        scripted(steps) as server,
        mounted(server.url) as proxy,
        socket.create_connection(proxy.address, PATIENCE_S) as client,
    ):
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        until(lambda: sent)
        count = -1
        while count != len(sent):
            count = len(sent)
            time.sleep(0.3)
        assert count < 900, "65 MB fit into no buffer between the two"
        size = 0
        while data := client.recv(1 << 20):
            size += len(data)
    assert size > 1000 * len(part)


@pytest.mark.parametrize(
    ("method", "status", "sent", "chain"),
    [("GET", 200, 2, Warm()), ("PUT", 200, 2, Warm()), ("POST", 502, 1, Warm()), ("POST", 502, 1, Warm(CHAIN))],
)
def test_a_kept_connection_that_closes_is_replaced_only_if_nothing_can_happen_twice(
    method: str, status: int, sent: int, chain: Warm
) -> None:
    """The endpoint reads the request that comes over the kept connection, and closes."""
    answers: Iterator[Sequence[Step]] = iter([[None], whole(ANSWER)])
    with scripted(lambda seen: next(answers)) as server, through(server, chain) as proxy:
        assert ask(proxy, method).status == status
        assert len(server.requests) == sent
        assert "launcher_proxy_in_flight 1" in ask(proxy, "GET", "/_proxy/metrics").body.decode()
