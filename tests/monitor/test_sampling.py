"""The monitor's process: what it reads, and what its death and its silence cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from launcher.core.reading import ProcessReading
from launcher.core.restart_budget import RestartBudget
from launcher.monitor import sampler, sampling
from launcher.monitor.health_file import ProcessChanges
from launcher.monitor.sampler import Processes

HOLDING = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Looking]:
    monkeypatch.setattr(sampling, "START_DELAY_S", 0.0)
    monkeypatch.setattr(sampling, "HANG_S", 3.0)
    monkeypatch.setattr(sampling, "STABLE_S", 0.0)
    looking = Looking()
    yield looking
    looking.sampling.close()


class Looking:
    """Looks at a sampling again and again, and keeps what it says."""

    def __init__(self) -> None:
        self.sampling = sampling.Sampling(0.05)
        self.said: list[str] = []
        self.seen: tuple[ProcessReading, ...] = ()

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, self.said
            sample, events = self.sampling.look()
            self.seen = sample.processes
            self.said += events
            time.sleep(0.02)

    def child(self) -> psutil.Process:
        """Return the process, once it has read something."""
        self.until(lambda: self.seen)
        (found,) = [p for p in psutil.Process().children() if "launcher.monitor.sampler" in " ".join(p.cmdline())]
        return found


def test_the_launcher_and_what_it_starts_are_read(looking: Looking) -> None:
    with held() as program:
        looking.until(lambda: program.pid in {each.pid for each in looking.seen})
        found = {each.pid: each for each in looking.seen}
    assert found[os.getpid()].name == "launcher"
    assert found[os.getpid()].memory_mib > 10
    assert looking.child().pid not in found
    assert not looking.said


def test_a_monitor_that_is_killed_is_started_again(looking: Looking, capfd: pytest.CaptureFixture[str]) -> None:
    first = looking.child()
    first.kill()
    line = f"the monitor (pid {first.pid}) was killed by SIGKILL; it is started again"
    looking.until(lambda: looking.said)
    assert looking.said[0] == line
    assert f"monitor: {line}" in capfd.readouterr().err
    assert looking.child().pid != first.pid


def test_a_monitor_that_hangs_is_replaced(looking: Looking) -> None:
    first = looking.child()
    first.suspend()
    looking.until(lambda: any(f"(pid {first.pid}) hangs: no reading for" in line for line in looking.said))
    assert looking.child().pid != first.pid
    assert not first.is_running()


def test_one_that_dies_again_and_again_is_given_up(looking: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking.sampling, "_budget", RestartBudget(2, 1e9))
    for _ in range(2):
        number = len(looking.said)
        looking.child().kill()
        looking.until(lambda number=number: len(looking.said) > number)
    assert "read no more, and the run goes on" in looking.said[-1]
    assert looking.sampling.look() == (sampling.Sample(), [])


def test_what_stops_and_ends_is_told_once() -> None:
    with held() as program:
        reader = Processes(program.pid)
        states = [_state(reader, program.pid)]
        os.kill(program.pid, signal.SIGSTOP)
        wait_for(lambda: _state(reader, program.pid) == "stopped")
        os.kill(program.pid, signal.SIGCONT)
        wait_for(lambda: _state(reader, program.pid) != "stopped")
    states.append(_state(reader, program.pid))
    assert states == ["sleeping", "ended"] or states == ["running", "ended"]
    assert reader.read() == []


def test_a_child_of_a_rank_is_no_rank_and_files_of_the_launcher_have_names() -> None:
    """A child has its parent's command until it runs its own."""
    rank = [*HOLDING[:-1], f"import os; os.fork(); {HOLDING[-1]}", "-m", "launcher.engines.megatron.worker"]
    renderer = [*HOLDING, str(Path(sampler.FOLDER.decode()) / "checkpoints/tokenizers/template_worker.py")]
    environment = os.environ | {"LAUNCHER_RANK": "1"}
    with held(rank, environment) as first, held(renderer) as second:
        reader = Processes(os.getpid())

        def names() -> dict[int, str]:
            return {line["pid"]: line["name"] for line in reader.read()}

        wait_for(lambda: psutil.Process(first.pid).children())
        [child] = psutil.Process(first.pid).children()
        for _ in range(2):
            found = names()
            assert found[first.pid] == "rank 1"
            assert found[second.pid] == "chat template"
            assert not found[child.pid].startswith("rank")
        child.kill()


def test_changes_of_what_a_server_needs_are_events() -> None:
    changes = ProcessChanges()

    def events(state: str, pid: int = 7, name: str = "rank 1") -> list[str]:
        alive = state != "ended"
        return list(changes.since([ProcessReading(name, pid, alive=alive, memory_mib=1, state=state)]))

    assert events("running") == []
    assert events("stopped") == ["rank 1 (pid 7) is stopped"]
    assert events("stopped") == []
    assert events("sleeping") == ["rank 1 (pid 7) runs again"]
    assert events("ended") == ["rank 1 (pid 7) has ended"]
    assert events("running", 8) == ["rank 1 (pid 8) has started"]
    assert events("ended", 9, "scorer") == [], "processes that score come and go"


def _state(reader: Processes, pid: int) -> str:
    return next((line["state"] for line in reader.read() if line["pid"] == pid), "")


@contextmanager
def held(
    words: Sequence[str] = HOLDING, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that waits."""
    with subprocess.Popen(words, stdin=subprocess.PIPE, env=environment) as program:
        try:
            yield program
        finally:
            program.kill()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
