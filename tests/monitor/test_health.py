"""The watch writes a line per probe, and says when a server is gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launcher.core.errors import StorageError
from launcher.core.health import DEAD, RESTARTING, Probe
from launcher.core.reading import Reading, readings
from launcher.core.types import Endpoint, Liveness, ServerState
from launcher.monitor import health
from launcher.settings.monitor import Monitor


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


def written(folder: Path) -> list[Reading]:
    return list(readings((folder / "health.jsonl").read_bytes().splitlines()))


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
    assert [reading.state for reading in written(tmp_path)] == ["live"]
    assert not watched.dead.is_set()
    assert "health" not in {t.name for t in threading.enumerate()}


def away(code: str | None = None, message: str = "away") -> Probe:
    """Return what `probe` makes of a refusal, or of no answer."""
    status, detail = (
        (None, "connection refused") if code is None else (503, {"error": {"code": code, "message": message}})
    )
    return {"time": "2026-11-30", "live": False, "status": status, "latency_s": 0.1, "detail": detail}


LIVE: Probe = {"time": "2026-11-30", "live": True, "status": 200, "latency_s": 0.1, "detail": {}}
FOREIGN = Endpoint("http://127.0.0.1:1/v1", "m", "external", "none", is_builtin=False)


def watching(tmp_path: Path, endpoint: Endpoint = NOWHERE, limit_s: float = 600.0) -> health.Watch:
    return health.Watch(endpoint, tmp_path / "health.jsonl", health.Timing(limit_s=limit_s))


@pytest.mark.parametrize(
    ("endpoint", "line", "liveness"),
    [
        (NOWHERE, LIVE, Liveness.live),
        (NOWHERE, away(), Liveness.away),
        (NOWHERE, away() | {"silent": True}, Liveness.silent),
        (NOWHERE, away(RESTARTING), Liveness.restarting),
        (FOREIGN, away(RESTARTING), Liveness.restarting),
        (NOWHERE, away(DEAD), Liveness.dead),
        (FOREIGN, away(DEAD), Liveness.away),
        (FOREIGN, away() | {"ended": True}, Liveness.dead),
        (FOREIGN, away("busy"), Liveness.away),
        (FOREIGN, {"live": False, "status": 500, "detail": "broken"}, Liveness.live),
        (FOREIGN, {"live": False, "status": 302, "detail": ""}, Liveness.live),
        (FOREIGN, {"live": True, "status": 401, "detail": {"error": "no key"}}, Liveness.live),
    ],
)
def test_what_a_probe_says_of_a_server(endpoint: Endpoint, line: Probe, liveness: Liveness) -> None:
    assert health.liveness_of(line, endpoint) is liveness


def test_only_an_outage_longer_than_the_limit_is_death_and_a_server_that_restarts_knows_itself(tmp_path: Path) -> None:
    watched, long_ago = watching(tmp_path, limit_s=50.0), time.monotonic() - 100
    watched.record(away(), 1, time.monotonic())
    watched.record(LIVE, 2, long_ago)
    watched.record(away(), 3, time.monotonic())
    assert not watched.dead.is_set()
    watched = watching(tmp_path, limit_s=50.0)
    watched.record(away(RESTARTING), 1, long_ago)
    assert not watched.dead.is_set()
    watched.record(away(DEAD), 2, time.monotonic())
    assert watched.dead.is_set()
    watched = watching(tmp_path, limit_s=50.0)
    watched.record(away(), 1, long_ago)
    assert watched.dead.is_set()


def test_a_file_that_cannot_be_written_is_named_before_the_first_probe(tmp_path: Path) -> None:
    (tmp_path / "health.jsonl").mkdir()
    with (
        pytest.raises(StorageError, match=r"health.jsonl: cannot be written: Is a directory"),
        health.watch(NOWHERE, tmp_path),
    ):
        pass


def test_a_file_that_cannot_be_written_any_more_does_not_end_the_probes(
    endpoint: Endpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "health.jsonl"
    with health.watch(endpoint, tmp_path, monitor=Monitor(period_s=0.01)) as watched:
        eventually(lambda: watched.state().probe > 0)
        file.rename(tmp_path / "earlier.jsonl")
        file.mkdir()
        seen = watched.state().probe
        eventually(lambda: watched.state().probe > seen + 3)
    assert capfd.readouterr().err.count("cannot be written: Is a directory; the server is still probed") == 1


def test_probes_in_a_row_are_counted_from_the_first(tmp_path: Path) -> None:
    watched = watching(tmp_path)
    watched.record(away(), 1, 5.0)
    watched.record(away(RESTARTING, "soon"), 2, 6.0)
    assert watched.state() == ServerState(Liveness.restarting, "soon", 2, 2, 5.0)
    watched.record(LIVE, 3, 7.0)
    assert watched.state() == ServerState(probe=3)


def test_a_requested_probe_begins_at_once(endpoint: Endpoint, tmp_path: Path) -> None:
    with health.watch(endpoint, tmp_path, health.Timing(period_s=10**6), Monitor(period_s=86400.0)) as watched:
        for _ in range(3):
            wanted = watched.request_probe()
            eventually(lambda wanted=wanted: watched.state().probe >= wanted)
        assert 3 <= watched.state().probe <= 4
    assert len(written(tmp_path)) == 1, "a period has one reading, however often the breaker asks"


def test_a_server_that_takes_connections_and_says_nothing_is_silent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        endpoint = Endpoint(
            f"http://127.0.0.1:{listening.getsockname()[1]}/v1", "m", "external", "none", is_builtin=False
        )
        with health.watch(endpoint, tmp_path, health.Timing(period_s=0.01, timeout_s=0.1)) as watched:
            eventually(lambda: watched.state().row >= 2)
            assert watched.state().liveness is Liveness.silent
            assert watched.state().reason == "no answer within 0.1 s"
    assert written(tmp_path)[0].state == "silent"
    assert written(tmp_path)[0].events == ("the server does not answer (no answer within 0.1 s)",)


def test_a_probe_drips_no_longer_than_its_time(tmp_path: Path) -> None:
    """Each byte comes in time, and the answer never ends."""

    class Drips(Healthy):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(10**6):
                    self.wfile.write(b" ")
                    time.sleep(0.01)

    with ThreadingHTTPServer(("127.0.0.1", 0), Drips) as server:
        threading.Thread(target=server.serve_forever).start()
        endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", "inline", "echo")
        line = health.probe(endpoint, timeout_s=0.2)
        server.shutdown()
    assert (line["live"], line["silent"]) == (False, True)


def test_a_canary_finds_an_engine_that_hangs_behind_a_live_server(tmp_path: Path) -> None:
    answers = threading.Event()

    class Hangs(Healthy):
        def do_POST(self) -> None:
            if not answers.is_set():
                answers.wait(60)
            with suppress(OSError):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{}")

    with ThreadingHTTPServer(("127.0.0.1", 0), Hangs) as server:
        threading.Thread(target=server.serve_forever).start()
        endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", "command", "none", is_builtin=False)
        try:
            with health.watch(endpoint, tmp_path, monitor=Monitor(period_s=0.02, canary_timeout_s=0.3)) as watched:
                watched.start_canary(endpoint)
                eventually(lambda: any("the canary got no answer within 0.3 s" in line for line in said(tmp_path)))
                answers.set()
                eventually(lambda: "the canary is answered again" in said(tmp_path))
        finally:
            answers.set()
            server.shutdown()
    found = written(tmp_path)
    assert {reading.state for reading in found} == {"live"}, "its health probes were answered all the time"
    assert [reading.ready for reading in found if reading.events][:2] == [False, True]
    assert any(reading.canary_s for reading in found)


@pytest.mark.parametrize(
    ("backend", "asked", "sent"), [("external", None, 0), ("external", True, 1), ("ray", False, 0)]
)
def test_a_server_that_may_cost_money_gets_canaries_only_if_asked(
    tmp_path: Path, backend: str, asked: bool | None, sent: int
) -> None:
    posted = []

    class Counts(Healthy):
        def do_POST(self) -> None:
            posted.append(self.path)
            self.do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Counts) as server:
        threading.Thread(target=server.serve_forever).start()
        endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", backend, "none", is_builtin=False)
        with health.watch(endpoint, tmp_path, monitor=Monitor(period_s=0.02, canary=asked)) as watched:
            watched.start_canary(endpoint)
            eventually(lambda: len(written(tmp_path)) > 5 and len(posted) >= sent)
        server.shutdown()
    assert bool(posted) is bool(sent)


def said(folder: Path) -> list[str]:
    return [event for reading in written(folder) for event in reading.events]


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
