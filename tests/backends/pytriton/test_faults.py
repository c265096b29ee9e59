"""Faults of Triton and the engine, and the end of the launcher, which leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from launcher.backends.pytriton import PyTriton, installation, supervisor
from launcher.core.cleanup import SHARED_MEMORY
from launcher.core.errors import ServerError, UserError
from launcher.core.processes import wait_for
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Record
from launcher.evaluate.outcome import Outcome
from launcher.monitor.health import Timing, watch
from launcher.settings.evaluate import Evaluate
from tests.backends.pytriton.troubled import Running, start
from tests.evaluate.asking import evaluate

ROOT = Path(__file__).parents[3]
STUB, SERVER = "triton_python_backend_stub", "tritonserver"


BEFORE: set[int] = set()


@pytest.fixture(autouse=True)
def others() -> Iterator[None]:
    """Remember which processes belong to servers of other tests."""
    BEFORE.update(p.pid for p in psutil.Process().children(recursive=True))
    yield
    BEFORE.clear()


def processes(name: str) -> list[psutil.Process]:
    """Return the descendants of this process whose program is ``name``, and that this test started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, IndexError):
            if process.pid not in BEFORE and Path(process.cmdline()[0]).name == name:
                found.append(process)
    return found


def healthy(running: Running) -> bool:
    return running.http.get("/health").status_code == 200


def trouble(running: Running) -> str | None:
    """Return the code with which health is refused."""
    return running.http.get("/health").json().get("error", {}).get("code")


def starts(running: Running) -> int:
    return running.http.get("/engine").json()["triton"]["starts"]


def segments(pid: int) -> list[Path]:
    return list(SHARED_MEMORY.glob(f"launcher-{pid}-*"))


def test_the_death_of_triton_or_its_stub_fails_what_runs_and_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STABLE_S", 300.0)  # on a busy machine these deaths are not quick
    with start(tmp_path, PyTriton(), tokens_per_second=50) as running, ThreadPoolExecutor() as pool:
        ports = running.triton["http"], running.triton["grpc"]
        for victim in (SERVER, STUB):
            whole = pool.submit(running.complete, "abc", max_tokens=400, ignore_eos=True)
            stream = pool.submit(running.complete, "abc", max_tokens=400, ignore_eos=True, stream=True)
            assert wait_for(lambda: running.engine.state().running == 2, 10)
            (process,), before = processes(victim), starts(running)
            process.kill()
            assert whole.result().status_code == 503
            assert "engine_unavailable" in stream.result().text
            assert wait_for(lambda before=before: starts(running) > before and healthy(running), 60)
            assert running.complete("abc").json()["choices"][0]["text"] == "abc"
            assert running.engine.state().running == 0, "the slots are free"
            assert (running.triton["http"], running.triton["grpc"]) == ports
        processes(SERVER)[0].kill()
        assert wait_for(lambda: trouble(running) == "engine_dead", 60), "three deaths in a row are enough"
    assert not processes(STUB)
    assert not processes(SERVER)


def test_an_evaluation_waits_while_a_triton_that_hangs_is_repaired(tmp_path: Path) -> None:
    """No sample is lost, and all is as in an evaluation that nothing disturbed."""
    from tests.evaluate.evaluation_server import Echoes, Watch

    class Stops(Watch):
        def advanced(self, record: Record) -> None:
            super().advanced(record)
            victim = {9: SERVER, 30: STUB}.get(len(self.records))
            if victim is not None:
                os.kill(processes(victim)[0].pid, signal.SIGSTOP)

    def answers(endpoint: Endpoint, folder: Path, progress: Watch) -> tuple[Outcome, list[Any]]:
        folder.mkdir()
        given: list[Any] = [
            endpoint,
            {"t": Echoes(60)},
            [],
            Evaluate(concurrency=4, temperature=0),
            folder,
            None,
            progress,
        ]
        with watch(endpoint, folder, Timing(period_s=0.2)) as health:
            found = asyncio.run(evaluate(*given, health=health))
        return found, [
            (record.key, record.prediction, record.scores, record.status) for record in RunFolder(folder).records()
        ]

    with start(tmp_path, PyTriton(probe_timeout_s=4), latency_s=0.02) as running:
        undisturbed = answers(running.endpoint, tmp_path / "undisturbed", Watch())
        progress = Stops()
        found = answers(running.endpoint, tmp_path / "stopped", progress)
        assert starts(running) == 3
    assert (found[0].stopped, found[0].tasks, found[1]) == (None, undisturbed[0].tasks, undisturbed[1])
    assert found[0].tasks["t"].coverage["scored"] == 60
    assert sum("the server restarts (Triton is restarting" in pause.reason for pause in found[0].pauses) == 2


def test_a_hung_engine_is_noticed_and_heals_when_it_comes_back(tmp_path: Path) -> None:
    with start(tmp_path, PyTriton(probe_timeout_s=1)) as running, ThreadPoolExecutor() as pool:
        stuck = pool.submit(running.complete, "block")
        assert running.engine.blocked.wait(10)
        answer = stuck.result()
        assert answer.status_code == 503
        assert not healthy(running)
        running.engine.released.set()
        assert wait_for(lambda: healthy(running), 60)
        assert running.complete("abc").status_code == 200


def test_an_engine_that_makes_no_token_is_noticed_though_its_process_answers(tmp_path: Path) -> None:
    with start(tmp_path, PyTriton(probe_timeout_s=1)) as running:
        running.engine.stalled = True
        assert wait_for(lambda: starts(running) > 1, 60), "the first to be replaced is Triton"
        assert wait_for(lambda: trouble(running) == "engine_dead", 60)
        assert "no answer within 1 s" in running.http.get("/health").json()["error"]["message"]
    assert "the engine made no token: no answer within 1 s" in (tmp_path / "server.log").read_text()


@pytest.mark.timeout(60)
def test_stopping_does_not_wait_for_a_hung_engine(tmp_path: Path) -> None:
    with start(tmp_path, PyTriton(probe_timeout_s=60, stop_timeout_s=0.1)) as running:

        def ask() -> None:
            with suppress(httpx.HTTPError):
                running.complete("block")

        asking = threading.Thread(target=ask)
        asking.start()
        assert running.engine.blocked.wait(10)
    assert not processes(STUB) + processes(SERVER)
    asking.join()
    running.engine.released.set()


def test_an_exception_inside_leaves_nothing(tmp_path: Path) -> None:
    class Mine(Exception):
        pass

    def fail_inside() -> None:
        with start(tmp_path, PyTriton()):
            assert (tmp_path / "triton.json").exists()
            raise Mine

    with pytest.raises(Mine):
        fail_inside()
    assert not processes(STUB) + processes(SERVER)
    assert not (tmp_path / "triton.json").exists()


def test_taken_ports_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"backend.grpc_port={port}"), start(tmp_path, PyTriton(grpc_port=port)):
            pass
    assert not processes(SERVER)


def test_a_start_that_crashes_is_tried_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "START_ATTEMPTS", 3)  # Triton may crash by itself, too

    def kill_the_first() -> None:
        wait_for(lambda: bool(processes(SERVER)), 60)
        processes(SERVER)[0].kill()

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    with start(tmp_path, PyTriton()) as running:
        killer.join()
        assert int(running.triton["starts"]) >= 2
        assert running.complete("abc").status_code == 200
    assert "died during its start" in (tmp_path / "server.log").read_text()


def test_a_model_that_cannot_be_loaded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proxy.py").write_text("raise RuntimeError('trouble')")
    (tmp_path / "frames.py").touch()
    monkeypatch.setattr(installation, "SOURCES", tmp_path)
    said = r"Triton does not run: it died during its start: failed to load 'generate'.*trouble; see .*triton.log"
    with pytest.raises(ServerError, match=said), start(tmp_path, PyTriton()):
        pass
    log = [json.loads(line) for line in (tmp_path / "triton.log").read_text().splitlines()]
    assert {line["process"] for line in log} == {"triton"}
    assert "trouble" in "".join(line["event"] for line in log if line["level"] == "error")


def test_what_only_the_supervisor_meets_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "triton.json").mkdir()
    with pytest.raises(ServerError, match=r"Triton does not run: \w+Error: .*triton.json"), start(tmp_path, PyTriton()):
        pass
    assert not processes(STUB) + processes(SERVER)


def test_a_start_that_always_fails_is_said(tmp_path: Path) -> None:
    said = r"Triton does not run: .*triton.log"
    with pytest.raises(ServerError, match=said), start(tmp_path, PyTriton(start_timeout_s=0.01)):
        pass
    assert not processes(SERVER)


@pytest.fixture
def launched(tmp_path: Path) -> Any:
    """The whole program in mode=serve, with its endpoint."""
    arguments = ["backend=pytriton", "engine=echo", "model=none", "mode=serve", f"hydra.run.dir={tmp_path}"]
    output = (tmp_path / "output").open("w")
    process = subprocess.Popen([sys.executable, ROOT / "launch.py", *arguments], stdout=output, stderr=output)
    said = tmp_path / "output"
    assert wait_for(lambda: "Ctrl-C ends it" in said.read_text() or process.poll() is not None, 120)
    assert process.poll() is None, said.read_text()
    yield process
    process.kill()
    process.wait()
    output.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_leaves_nothing(launched: subprocess.Popen[bytes], how: int, tmp_path: Path) -> None:
    family = psutil.Process(launched.pid).children(recursive=True)
    (server,) = [p for p in family if p.name().startswith(SERVER)]
    workspace = Path(server.cmdline()[0]).parents[3]
    assert segments(launched.pid)
    assert list(workspace.rglob("python_env*")), "it is where it will be removed"
    launched.send_signal(how)
    launched.wait(30)
    _, alive = psutil.wait_procs(family, 15)
    assert not alive
    assert wait_for(lambda: not workspace.exists() and not segments(launched.pid), 10)
    if how != signal.SIGKILL:
        assert launched.returncode == 0
        assert not (tmp_path / "triton.json").exists()
        assert not (tmp_path / "endpoint.json").exists()
        assert json.loads((tmp_path / "certificate.json").read_text())["valid"]
