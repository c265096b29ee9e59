"""A process that a run needs is killed or hangs in the middle of an evaluation: the answers and scores are the same.

What happened is named, and nothing is left running.
"""

from __future__ import annotations

import html
import json
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import pytest

from tests.pipeline.killed_runs import INCOMPLETE, LAUNCH, SERVER, finished, lines, results, rows, server_of
from tests.running import UNVALIDATED, living, program

SEED = int(os.environ.get("KILL_SEED", "1"))
PATIENCE_S = 400.0
"""The longest that a step may take on a busy machine."""
MARK = "STRUCK_RUN"
"""The variable in the environment of all that a run starts."""
SCORER = """
import pathlib, time

def score(prediction, item):
    while item["id"] >= "addition-110" and not pathlib.Path({gate!r}).exists():
        time.sleep(0.05)
    return float(prediction == item["answer"])
"""
"""A scorer that lets no evaluation end before a test has seen what it waits for."""
ECHO = ("engine=echo", "model=none", "engine.latency_s=0.05")
COMMON = (
    "tasks=[addition]",
    "tasks.addition.scorer=gate.py:score",
    "evaluate.concurrency=4",
    "monitor.period_s=0.5",
    "evaluate.timeout_s=60",
    UNVALIDATED,
)


@dataclass(frozen=True)
class Struck:
    """A run of the launcher, to strike at; ``mark`` is in the environment of all that it starts."""

    place: Path
    folder: Path
    process: Popen[str]
    mark: str
    printed: list[str] = field(default_factory=list)

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until something holds and return it; fail with the output of a run that ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, self.events()
            time.sleep(0.01)
        return found

    def started(self) -> list[psutil.Process]:
        """Return all processes that this run has started, and itself, as far as they live."""
        return living(each for each in psutil.process_iter() if _variable(each, MARK) == self.mark)

    def running(self, *words: str) -> list[psutil.Process]:
        """Return those whose command has the words."""
        return [each for each in self.started() if set(words) <= set(_command(each))]

    def readings(self) -> list[dict[str, Any]]:
        """Return the whole lines of the file of health."""
        file = self.folder / "health.jsonl"
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def events(self) -> list[str]:
        return [event for reading in self.readings() for event in reading["events"]]

    def named(self, pid: int) -> list[str]:
        """Return the events that name a process."""
        return [event for event in self.events() if f"(pid {pid})" in event or f"(process {pid})" in event]

    def open(self) -> None:
        (self.place / "open").touch()

    def ended(self) -> int:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        assert "Traceback" not in out + err, err
        self.printed.append(err)
        print(err[-3000:])
        return int(self.process.returncode)


@contextmanager
def running(place: Path, name: str, *arguments: str) -> Iterator[Struck]:
    """Start a run; afterwards nothing that it started may be there."""
    mark, folder = uuid.uuid4().hex, place / name
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", MARK: mark}
    with program([*LAUNCH, *arguments, f"hydra.run.dir={folder}"], place, environment) as process:
        run = Struck(place, folder, process, mark)
        yield run
    deadline = time.monotonic() + PATIENCE_S
    while left := run.started():
        assert time.monotonic() < deadline, [_command(each) for each in left]
        time.sleep(0.05)


def written(place: Path) -> Path:
    (place / "gate.py").write_text(SCORER.format(gate=str(place / "open")))
    return place


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def _variable(process: psutil.Process, name: str) -> str | None:
    with suppress(psutil.Error, OSError):
        return process.environ().get(name)
    return None


def assert_same(run: Struck, whole: Path) -> None:
    """Compare the samples and scores of a run that was struck with those of one that was not."""
    assert lines(run.folder) == lines(whole) == 120
    assert rows(run.folder) == rows(whole)
    assert results(run.folder) == results(whole)


def assert_told(folder: Path, events: list[str]) -> None:
    """Events of the file of health are in the results and in the report."""
    assert events
    told = [each["event"] for each in json.loads((folder / "results.json").read_text())["health"]["events"]]
    assert [event for event in events if event not in told] == []
    report = (folder / "report.html").read_text()
    assert [event for event in events if f">{html.escape(event)}<" not in report] == []


def monitor(run: Struck) -> psutil.Process | None:
    """Return the monitor's process, None while there is none."""
    found = [each for each in run.started() if "launcher.monitor.sampler" in " ".join(_command(each))]
    return found[0] if found else None


def test_a_monitor_that_is_killed_and_hangs_costs_no_sample_and_is_named(tmp_path: Path) -> None:
    arguments = (*COMMON, *ECHO)
    place = written(tmp_path)
    with running(place, "whole", *arguments) as whole, running(place, "run", *arguments) as run:
        run.until(lambda: lines(run.folder) > 10)
        struck = []
        for number, what in ((signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSTOP, "hangs: no reading for")):
            victim = run.until(lambda: monitor(run))
            victim.send_signal(number)
            struck.append(victim)
            [event] = run.until(lambda pid=victim.pid: run.named(pid))
            assert event.startswith(f"the monitor (pid {victim.pid}) {what}")
            assert event.endswith("; it is started again")
        run.open()
        assert run.ended() == whole.ended() == 0
    assert living(struck) == []
    assert_same(run, whole.folder)
    assert_told(run.folder, [event for each in struck for event in run.named(each.pid)])


def last(run: Struck) -> dict[str, Any]:
    return (run.readings() or [{}])[-1]


def ranks(run: Struck) -> list[psutil.Process]:
    return run.running("-m", "launcher.engines.megatron.worker")


def replicas(run: Struck) -> list[psutil.Process]:
    known = [replica["pid"] for replica in (last(run).get("health") or {}).get("replicas", [])]
    return [each for each in run.started() if each.pid in known]


def servers(run: Struck) -> list[psutil.Process]:
    found = server_of(psutil.Process(run.process.pid))
    return [found] if found is not None else []


def monitors(run: Struck) -> list[psutil.Process]:
    found = monitor(run)
    return [found] if found is not None else []


def proxies(run: Struck) -> list[psutil.Process]:
    return run.running("-m", "launcher.proxy.worker")


Victims = Callable[[Struck], list[psutil.Process]]
SERVED = " ".join([*LAUNCH, SERVER, *ECHO, "backend.port={port}", "hydra.run.dir=served-{port}"])
CELLS: dict[str, tuple[Victims, tuple[str, ...]]] = {
    "rank": (ranks, ("engine=megatron", "parallelism=tensor2", "optimizations.batch_invariant=true")),
    "replica": (replicas, ("backend=ray", "backend.replicas=2", *ECHO)),
    "server": (servers, ("backend=command", f"backend.command='{SERVED}'")),
    "monitor": (monitors, ECHO),
}


def strike(run: Struck, victims: Victims, number: signal.Signals, during: Struck | None = None) -> psutil.Process:
    """Send a signal to one of the victims at a moment of an evaluation; return it."""
    draw, asking = random.Random(SEED), during or run
    moment, later_s = draw.randrange(5, 60), draw.random() / 20
    asking.until(lambda: lines(asking.folder) >= moment)
    victim: psutil.Process = draw.choice(run.until(lambda: victims(run)))
    time.sleep(later_s)
    print(f"KILL_SEED={SEED}: {number.name} to {_command(victim)[:6]} at sample {moment}")
    victim.send_signal(number)
    return victim


def assert_started_again(run: Struck, victim: psutil.Process, number: signal.Signals) -> None:
    """One line says why the ranks start again, and one that they work; the pause is in the results."""
    why = "died" if number is signal.SIGKILL else "hangs: no heartbeat for 10 s"
    reason = f"rank 1 (process {victim.pid}) {why}"
    [printed] = run.printed
    [again] = [line for line in printed.splitlines() if "start again" in line]
    assert again == f"serve: {reason}; all ranks start again (restart 1 of 2 in a row)"
    assert printed.count("serve: all ranks work again after") == 1
    pauses = json.loads((run.folder / "results.json").read_text())["pauses"]
    assert [pause["reason"] for pause in pauses] == [f"the server restarts ({reason})"]


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
@pytest.mark.parametrize("party", CELLS)
def test_what_a_run_needs_is_killed_or_hangs(tmp_path: Path, party: str, number: signal.Signals) -> None:
    victims, own = CELLS[party]
    place, arguments = written(tmp_path), (*COMMON, *own)
    lost = (party, number) == ("server", signal.SIGKILL)  # nothing starts it again in a session
    with running(place, "run", *arguments) as run:
        victim = strike(run, victims, number)
        if party == "server" and not lost:
            run.until(lambda: any("the evaluation pauses" in event for event in run.events()))
            victim.resume()
        elif not lost:
            run.until(lambda: run.named(victim.pid))
            if party == "rank":
                run.until(lambda: any("the evaluation goes on" in event for event in run.events()))
        run.open()
        assert run.ended() == (INCOMPLETE if lost else 0)
        if party == "rank":
            assert_started_again(run, victim, number)
    told = [event for event in run.events() if str(victim.pid) in event or "killed by SIGKILL" in event]
    if lost:
        assert finished(place, f"resume={run.folder}") == 0
    assert living([victim]) == []
    assert finished(place, *arguments, f"hydra.run.dir={place / 'whole'}") == 0
    assert_same(run, place / "whole")
    assert_told(run.folder, told)


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_a_worker_of_the_proxy_is_killed_or_hangs(tmp_path: Path, number: signal.Signals) -> None:
    """The evaluation asks through the proxy of another run, whose events tell what happened."""
    place = written(tmp_path)
    serving = ("mode=proxy", "proxy.require_key=false", "monitor.period_s=0.5", *ECHO, "tasks=[]")
    with running(place, "served", *serving) as served:
        facts = served.folder / "proxy.json"
        served.until(facts.exists)
        arguments = (*COMMON, "backend=external", f"backend.url={json.loads(facts.read_text())['url']}")
        with running(place, "run", *arguments) as run:
            victim = strike(served, proxies, number, run)
            told = served.until(lambda: served.named(victim.pid))
            run.open()
            assert run.ended() == 0
        assert finished(place, *arguments, f"hydra.run.dir={place / 'whole'}") == 0
        served.until(lambda: living([victim]) == [])
        served.process.send_signal(signal.SIGTERM)
        served.process.communicate(timeout=PATIENCE_S)
    assert_same(run, place / "whole")
    assert_told(served.folder, told)
