"""Whatever is killed or hangs while an evaluation runs: no sample is lost, no answer changes, all is replaced."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from backends.ray.ray_service import Scores, Service, alive, scores_of, wait_for

from launcher.tasks.generation import Generation

pytest.importorskip("ray")
# A start of Ray takes ten seconds, or minutes on a machine that is busy with other tests.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SAMPLES = 60
Victims = list[tuple[int, Callable[[int], None]]]
"""Processes, and what happens to each."""


def dies(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def hangs(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def gets_no_memory(pid: int) -> None:
    psutil.Process(pid).rlimit(resource.RLIMIT_DATA, (0, 0))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    """Sums; those after the first third are longer than any before, so that they need memory."""
    path = tmp_path_factory.mktemp("task") / "sums.jsonl"
    sums = [f"{n}+{n + 1}=" for n in range(SAMPLES)]
    prompts = [text if n < SAMPLES // 3 else f"{n}+0={n}\n" * 20 + text for n, text in enumerate(sums)]
    path.write_text("".join(json.dumps({"prompt": p, "answer": "1"}) + "\n" for p in prompts))
    return Generation(path=str(path), max_tokens=8, stop=["\n"])


@pytest.fixture(scope="module")
def undisturbed(gangs: Service, task: Generation, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    return scores_of(gangs, tmp_path_factory.mktemp("undisturbed") / "run", task, lambda: None)


def rank_dies(service: Service) -> Victims:
    return [(service.ranks()[0], dies)]


def rank_and_replica_hang(service: Service) -> Victims:
    return [(service.ranks()[0], hangs), (service.replicas()[1], hangs)]


def rank_gets_no_memory_and_replica_dies(service: Service) -> Victims:
    return [(service.ranks()[0], gets_no_memory), (service.replicas()[1], dies)]


def proxy_dies(service: Service) -> Victims:
    return [(service.named("haproxy"), dies)]


def proxy_hangs(service: Service) -> Victims:
    return [(service.named("haproxy"), hangs)]


@pytest.mark.parametrize(
    "choose", [rank_dies, rank_and_replica_hang, rank_gets_no_memory_and_replica_dies, proxy_dies, proxy_hangs]
)
def test_an_evaluation_loses_nothing(
    gangs: Service, undisturbed: Scores, task: Generation, tmp_path: Path, choose: Callable[[Service], Victims]
) -> None:
    driver, victims = gangs.driver(), choose(gangs)
    leaders = {psutil.Process(pid).ppid() for pid, _ in victims} & set(gangs.replicas())
    lives_through(gangs, victims, tmp_path / choose.__name__, task, undisturbed, *leaders)
    assert gangs.driver() == driver, "one part was lost, and all of Ray was replaced"


def lives_through(
    service: Service, victims: Victims, folder: Path, task: Generation, expected: Scores, *others: int
) -> None:
    """Evaluate while something happens to the victims, and wait until they and the ``others`` are replaced.

    When each loss was noticed is printed.
    """
    happened: list[float] = []

    def happen() -> None:
        happened.append(time.time())
        for pid, befalls in victims:
            befalls(pid)

    assert scores_of(service, folder, task, happen) == expected, [befalls.__name__ for _, befalls in victims]
    for pid in (*(pid for pid, _ in victims), *others):
        wait_for(lambda pid=pid: not alive(pid), f"{folder.name}: process {pid} is gone")
    service.replicas()
    for loss in service.health()["lost"]:
        if loss["time"] > happened[0]:
            print(f"{folder.name}: {loss['time'] - happened[0]:.2f} s later: {loss['reason']}")


def test_a_ray_that_is_lost_is_replaced(echoes: Service, task: Generation, tmp_path: Path) -> None:
    """The raylet, the GCS and the owner of Ray cannot be replaced alone: a whole new Ray takes over the socket."""
    expected = scores_of(echoes, tmp_path / "undisturbed", task, lambda: None)
    # What hangs comes between: three losses in a row, each soon after a start, end a service.
    faults = [("raylet", dies), ("gcs_server", hangs), ("driver", dies)]
    faults += [("raylet", hangs), ("gcs_server", dies), ("driver", hangs)]
    for name, befalls in faults:
        driver, folder = echoes.driver(), tmp_path / f"{name} {befalls.__name__}"
        victim = driver if name == "driver" else echoes.named(name)
        lives_through(echoes, [(victim, befalls)], folder, task, expected, driver)
