"""Faults of processes during an evaluation, and checks that its results stay the same."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil

from launcher.adapters.retry import Retry
from launcher.core.types import Endpoint, Json, Record
from launcher.settings.evaluate import Evaluate
from launcher.tasks.generation import Generation
from tests.backends.ray.ray_service import Service, alive, post, wait_for
from tests.evaluate.asking import evaluate

SAMPLES = 60
Scores = dict[str, tuple[Any, Any]]
"""Each sample's prediction and scores."""
Victims = list[tuple[int, Callable[[int], None]]]
"""Processes, and what happens to each."""


def dies(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def hangs(pid: int) -> None:
    """Stop a process, and wait until none of its threads runs any more."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: _stands_still(pid), f"process {pid} is stopped")


def _stands_still(pid: int) -> bool:
    """Whether every thread of a process is stopped, or the process has ended."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        states = {(thread / "stat").read_text().rpartition(")")[2].split()[0] for thread in threads}
    except (FileNotFoundError, ProcessLookupError):
        return not Path(f"/proc/{pid}").exists()
    return states <= {"T", "Z", "X"}


def starves(service: Service) -> Callable[[int], None]:
    """Return what leaves a process without more memory, and asks the service for much until it has ended.

    One batch may go to another replica, or fit into memory that the process has kept.
    """

    def gets_no_memory(pid: int) -> None:
        psutil.Process(pid).rlimit(resource.RLIMIT_DATA, (0, 0))
        threading.Thread(target=_ask_much_until, args=(lambda: not alive(pid), service.endpoint), daemon=True).start()

    return gets_no_memory


def _ask_much_until(ended: Callable[[], bool], endpoint: Endpoint) -> None:
    """Ask for batches of prompts that no cache holds; the responses do not matter."""
    while not ended():
        prompts = [os.urandom(120).hex() for _ in range(8)]
        body = {"model": endpoint.model, "prompt": prompts, "max_tokens": 1, "echo": True, "logprobs": 1}
        with suppress(OSError, HTTPException):
            post(endpoint, "/v1/completions", body)
        time.sleep(0.1)  # a refused connection ends at once


def sums(path: Path) -> Generation:
    """Return a task of short prompts."""
    items = [{"prompt": f"{n}+{n + 1}=", "answer": str(2 * n + 1)} for n in range(SAMPLES)]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return Generation(path=str(path), max_tokens=8, stop=["\n"])


class Incident:
    """A `Progress` that lets something happen after a third of the samples."""

    def __init__(self, happen: Callable[[], None]) -> None:
        self._happen = happen
        self._left = 0

    def started(self, totals: Mapping[str, int | None], done: int) -> None:
        self._left = sum(size or 0 for size in totals.values()) // 3
        assert self._left

    def measured(self, speed: Callable[[], Mapping[str, Json]]) -> None:
        pass

    def metered(self, describe: Callable[[], str]) -> None:
        pass

    def advanced(self, record: Record) -> None:
        self._left -= 1
        if self._left == 0:
            self._happen()

    def corrected(self, record: Record) -> None:
        pass

    def paused(self, seconds: float, reason: str) -> None:
        pass

    def resumed(self, seconds: float) -> None:
        pass

    def finished(self) -> None:
        pass


def scores_of(service: Service, folder: Path, task: Generation, happen: Callable[[], None]) -> Scores:
    """Evaluate while something happens, as a run does; every sample must have been answered."""
    folder.mkdir()
    settings, progress = Evaluate(concurrency=4), Incident(happen)
    asyncio.run(evaluate(service.endpoint, {"task": task}, [Retry()], settings, folder, None, progress))
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    bad = [line for line in lines if line["status"] in ("failed", "refused")]
    assert not bad, bad
    return {line["id"]: (line["prediction"], line["scores"]) for line in lines}


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
