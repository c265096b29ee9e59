"""What the serving step prints, and what it knows of a server."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from launcher.core.errors import ServerError, TakenOver, TransportError
from launcher.core.health import Probe
from launcher.core.lease import Lease
from launcher.core.types import Endpoint
from launcher.engines.optimization_status import as_json
from launcher.monitor.health import Timing, Watch
from launcher.pipeline.evaluation import deployment_facts
from launcher.pipeline.record import RunRecord
from launcher.pipeline.serving import engine_facts, inactive_optimizations, serve_forever
from launcher.settings.model import OptimizationStatus


def test_a_requested_optimization_that_is_inactive_has_a_line() -> None:
    statuses = [
        OptimizationStatus("cuda_graphs", True, False, "needs a GPU"),
        OptimizationStatus("prefix_caching", True, True, ""),
    ]
    assert inactive_optimizations({"optimizations": as_json(statuses)}) == [
        "optimizations.cuda_graphs is not active: needs a GPU"
    ]


def test_an_engine_without_optimizations_has_nothing_to_say() -> None:
    assert inactive_optimizations({}) == []


@pytest.mark.parametrize(
    ("is_builtin", "checkpoint", "known"), [(True, None, True), (False, "sha256:1", True), (False, None, False)]
)
def test_what_a_server_has_loaded_is_known_by_its_checkpoint_or_because_it_is_builtin(
    is_builtin: bool, checkpoint: str | None, known: bool
) -> None:
    made = {"checkpoint": checkpoint, "deployment": {"fingerprint": "sha256:2"}, "versions": {}, "git_commit": None}
    endpoint = Endpoint("http://127.0.0.1:1/v1", "m", "b", "e", is_builtin=is_builtin)
    assert (deployment_facts(RunRecord(made), endpoint) is not None) is known


@pytest.mark.parametrize("is_builtin", [True, False])
def test_facts_of_a_server_that_hangs_are_waited_for_once_and_not_for_each_route(is_builtin: bool) -> None:
    """The socket takes each connection, and answers none of them."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(TransportError, match=r"no answer within 0\.2 s"):
            engine_facts(Endpoint(url, "m", "external", "x", is_builtin=is_builtin), 0.2)


def test_an_outage_of_a_server_that_is_kept_up_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that restarts is waited for; one that is dead ends the waiting."""
    endpoint = Endpoint("http://127.0.0.1:1/v1", "m", "b", "e")
    health = Watch(endpoint, tmp_path / "health.jsonl", Timing())
    said, ended = "", list[BaseException]()

    def until(line: str) -> None:
        nonlocal said
        deadline = time.monotonic() + 60
        while line not in said:
            assert time.monotonic() < deadline, said
            said += capsys.readouterr().err
            time.sleep(0.02)

    def keep() -> None:
        try:
            serve_forever("serving", endpoint, health, Lease(tmp_path), None)
        except ServerError as error:
            ended.append(error)

    thread = threading.Thread(target=keep)
    thread.start()
    lines = ("engine_restarting", "repairing"), (None, None), ("engine_dead", "three times")
    for number, (code, message) in enumerate(lines, 1):
        error = {"error": {"code": code, "message": message}} if code else {}
        status = 503 if code else 200
        line: Probe = {"time": "", "live": not code, "status": status, "latency_s": 0.0, "detail": error}
        health.record(line, number, time.monotonic())
        if message == "repairing":
            until("serve: the server restarts (repairing)\n")
        elif code is None:
            until("serve: the server is live\n")
    thread.join(60)
    assert "three times" in str(ended[0])


def test_a_server_whose_folder_another_session_took_over_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.pipeline.serving.LEASE_AGE_S", 0)
    monkeypatch.setattr("launcher.pipeline.serving.OUTAGE_POLL_S", 0.01)
    endpoint = Endpoint("http://127.0.0.1:1/v1", "m", "b", "e")
    earlier = Lease(tmp_path)
    Lease(tmp_path)
    with pytest.raises(TakenOver, match="another session took this run over"):
        serve_forever("serving", endpoint, Watch(endpoint, tmp_path / "health.jsonl", Timing()), earlier, None)
