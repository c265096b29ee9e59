from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from launcher.core.errors import TaskError
from launcher.core.tokenizer import ByteTokenizer
from launcher.core.types import Endpoint
from launcher.tasks import endpoint_tokenizer as tokenizer
from launcher.tasks import waiting
from launcher.tasks.endpoint_tokenizer import EndpointTokenizer


class Server(ThreadingHTTPServer):
    """Answers ``/tokenize`` with one token for each character, or with the next of ``statuses``."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.asked: list[dict] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        answer = json.dumps({"tokens": [ord(c) for c in body["prompt"]]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(tokenizer, "INTERVAL_S", 0.01)
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def of(server: Server, **settings: bool) -> EndpointTokenizer:
    return EndpointTokenizer(Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", "external", "none"), **settings)


def test_equal_texts_are_sent_once(server: Server) -> None:
    found = of(server, add_special_tokens=True)
    assert found.encode("ab") == found.encode("ab") == [97, 98]
    assert server.asked == [{"prompt": "ab", "add_special_tokens": True}]


def test_a_server_that_restarts_is_waited_for(server: Server) -> None:
    found = of(server)
    found.encode("a")
    server.statuses = [503, 502, 429]
    assert found.encode("b") == [98]


@pytest.mark.parametrize("status", [404, 400, 401])
def test_a_server_without_a_tokenizer_is_one_line(server: Server, status: int) -> None:
    server.statuses = [status]
    with pytest.raises(TaskError, match=rf"/tokenize gives no tokenizer \(HTTP {status}: .*set tokenizer="):
        of(server).encode("a")


def test_a_server_that_never_answered_is_not_waited_for(server: Server) -> None:
    server.statuses = [503]
    with pytest.raises(TaskError, match="HTTP 503; set tokenizer=<folder"):
        of(server).encode("a")


def test_the_end_of_the_evaluation_ends_the_waiting(server: Server) -> None:
    found, ended = of(server), threading.Event()
    found.encode("a")
    ended.set()
    server.statuses = [503] * 1000
    with waiting.until(ended), pytest.raises(TaskError, match="HTTP 503"):
        found.encode("b")


def test_a_model_of_this_process_is_not_asked() -> None:
    """Nothing listens at the address."""
    found = EndpointTokenizer(Endpoint("http://127.0.0.1:9/v1", "m", "inline", "echo", tokenizer=ByteTokenizer()))
    assert found.encode("né") == list("né".encode())
    assert (found.eos_token, found.bos_token_id) == ("<|endoftext|>", None)
