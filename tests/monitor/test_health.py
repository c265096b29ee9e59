"""The watch writes a line per probe, and says when a server is gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launcher.api.errors import DEAD, RESTARTING
from launcher.core import Endpoint
from launcher.monitor import health


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path in ("/health", "/v1/models") else 404)
        self.end_headers()
        self.wfile.write(b'{"status": "ok"}')

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", "inline", "echo")
    server.shutdown()
    server.server_close()
    thread.join()


NOWHERE = Endpoint("http://127.0.0.1:1/v1", "m", "inline", "echo")


def test_a_live_server_is_live(endpoint: Endpoint) -> None:
    line = health.probe(endpoint)
    assert line["live"] is True
    assert line["detail"] == {"status": "ok"}


def test_a_missing_server_is_not_live_and_the_reason_is_kept() -> None:
    line = health.probe(NOWHERE)
    assert line["live"] is False
    assert "refused" in line["detail"]


def test_the_watch_writes_lines_and_stops(endpoint: Endpoint, tmp_path: Path) -> None:
    with health.watch(endpoint, tmp_path) as watched:
        pass
    lines = [json.loads(line) for line in (tmp_path / "health.jsonl").read_text().splitlines()]
    assert lines
    assert all(line["live"] for line in lines)
    assert not watched.dead.is_set()
    assert "health" not in {t.name for t in threading.enumerate()}


def missed(code: str | None = None) -> dict[str, object]:
    return {"live": False, "detail": {"error": {"code": code}} if code else "connection refused"}


def test_some_misses_in_a_row_are_death() -> None:
    watched = health.Watch()
    for _ in range(health.STRIKES - 1):
        watched.record(missed())
    watched.record({"live": True, "detail": {}})
    for _ in range(health.STRIKES - 1):
        watched.record(missed())
    assert not watched.dead.is_set()
    watched.record(missed())
    assert watched.dead.is_set()


def test_an_engine_that_is_dead_for_good_is_not_waited_for_and_one_that_restarts_is() -> None:
    watched = health.Watch()
    for _ in range(health.STRIKES):
        watched.record(missed(RESTARTING))
    assert not watched.dead.is_set()
    watched.record(missed(DEAD))
    assert watched.dead.is_set()
