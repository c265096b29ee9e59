"""One replica: a server of another program that is started again when it ends or hangs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from launcher.backends.balancer import Address, Balancer
from launcher.backends.ports import free
from launcher.backends.replicas.config import LOOPBACK, ReplicasConfig
from launcher.core import reaped
from launcher.core.console import one_line
from launcher.core.errors import HttpError
from launcher.core.health import LostProcess
from launcher.core.heartbeat import SilenceTimer
from launcher.core.http import authorization, fetch, netloc, parsed
from launcher.core.reaped import Reaper, described_exit
from launcher.core.restart_budget import RestartBudget

POLL_INTERVAL_S, PROBE_INTERVAL_S = 0.2, 1.0
PROBE_TIMEOUT_S, CANARY_TIMEOUT_S = 5.0, 60.0
QUICK_FAILURES, STABLE_S = 3, 60.0
"""After so many losses in a row a replica is given up; one that was ready for so long begins a new row."""
QUOTED = 200
READY_STATUSES = (200, 401, 403)


@dataclass
class Service:
    """What replicas share: where requests come from, whom to tell of a change, whether all is open or is to end."""

    config: ReplicasConfig
    balancer: Balancer
    key: str | None
    say: Callable[[str], None]
    changed: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    losses: list[LostProcess] = field(default_factory=list)

    def stop(self) -> None:
        """Let all end."""
        self.stopping.set()
        self.changed.set()


class Output(threading.Thread):
    """Prints each line of a replica behind its mark, and keeps the last one."""

    def __init__(self, pipe: int, mark: str, say: Callable[[str], None]) -> None:
        super().__init__(name=f"output of {mark}", daemon=True)
        self._pipe, self._mark, self._say = pipe, mark, say
        self.last = ""

    def run(self) -> None:
        with os.fdopen(self._pipe, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if text := line.rstrip():
                    self.last = one_line(text, QUOTED)
                    self._say(f"({self._mark}) {text}")


class Replica(threading.Thread):
    """Runs one server after another, until `Service.stopping` is set or too many were lost in a row.

    ``state`` is ``starting``, ``live``, or why it is not; ``failed`` says that the first server did not get ready.
    """

    def __init__(self, number: int, service: Service) -> None:
        super().__init__(name=f"replica {number + 1}", daemon=True)
        self.number, self.address, self.pid = number, None, 0
        self.state, self.is_ready, self.gave_up, self.failed = "starting", False, False, False
        self.slot: int | None = None
        self._service, self._config = service, service.config
        self._budget = RestartBudget(QUICK_FAILURES, STABLE_S)
        self._ready_at: float | None = None

    address: Address | None

    def run(self) -> None:
        try:
            self._run_servers()
        except Exception as error:  # the driver must know; it would otherwise wait without a timeout
            self.state, self.gave_up = f"{type(error).__name__}: {error}", True
            self._service.changed.set()
            raise

    def _run_servers(self) -> None:
        service, was_ready = self._service, False
        while not service.stopping.is_set() and not self.gave_up:
            reason = self._one_life()
            was_ready = was_ready or self._ready_at is not None
            if not service.stopping.is_set():
                self._lost(reason, was_ready)
            service.changed.set()

    def _lost(self, reason: str, was_ready: bool) -> None:
        ready_s = time.monotonic() - self._ready_at if self._ready_at is not None else 0.0
        self._budget.record_failure(ready_s)
        self.gave_up, self.failed = self._budget.exhausted or not was_ready, not was_ready
        self.state, service = reason, self._service
        service.losses.append({"id": str(self.number + 1), "pid": self.pid, "reason": reason, "time": time.time()})
        then = "it is given up" if self.gave_up else "it is started again"
        service.say(f"({self.name}) {reason}" if self.failed else f"{self.name} was lost: {reason}; {then}")

    def _one_life(self) -> str:
        """Run one server from its start to its end; return why it ended."""
        self._ready_at, port = None, free(LOOPBACK)
        self.address = (LOOPBACK, port)
        with self._process(port) as (reaper, output):
            self.pid = reaper.pid
            return self._awaited(reaper, output) or self._watched(reaper, output)

    @contextmanager
    def _process(self, port: int) -> Iterator[tuple[Reaper, Output]]:
        read, write = os.pipe()
        output = Output(read, self.name, self._service.say)
        environment = os.environ | dict(self._config.variables[self.number])
        try:
            reaper = reaped.start(self._config.words(port), environment, write, self._stop_s)
        finally:
            os.close(write)
        output.start()
        try:
            yield reaper, output
        finally:
            self.is_ready = False
            if self.slot is not None:
                self._service.balancer.remove(self.slot)
                self.slot = None
            reaped.end(reaper, self._stop_s)
            output.join(PROBE_TIMEOUT_S)

    @property
    def _stop_s(self) -> float:
        return self._config.stop_timeout_s

    def _awaited(self, reaper: Reaper, output: Output) -> str | None:
        """Wait until the server is ready; return why it is not."""
        deadline = time.monotonic() + self._config.start_timeout_s
        while not self._answers():
            if (reason := self._ended(reaper, output)) is not None:
                return reason
            if time.monotonic() > deadline:
                return f"it was not ready within {self._config.start_timeout_s:g} s"
            if self._service.stopping.wait(POLL_INTERVAL_S):
                return "stopped"
        assert self.address is not None
        self.slot = self._service.balancer.add(self.address)
        self.state, self.is_ready, self._ready_at = "live", True, time.monotonic()
        self._service.changed.set()
        return None

    def _ended(self, reaper: Reaper, output: Output) -> str | None:
        if (code := reaper.poll()) is None:
            return None
        output.join(PROBE_TIMEOUT_S)
        said = f": {output.last}" if output.last and self._ready_at is None else ""
        return f"{self._config.command[0]} {described_exit(code)}{said}"

    def _watched(self, reaper: Reaper, output: Output) -> str:
        """Watch a server that is ready until it ends, hangs, or is not needed; return which."""
        watch, probed_at = _Watch(self._config), 0.0
        while not self._service.stopping.wait(POLL_INTERVAL_S):
            if (reason := self._ended(reaper, output)) is not None:
                return reason
            if time.monotonic() - probed_at < PROBE_INTERVAL_S:
                continue
            answers, traffic = self._answers(), self._service.balancer.traffic() or {}
            probed_at = time.monotonic()
            if (reason := watch.problem(answers, traffic.get(self.slot or 0), self._computes)) is not None:
                reaper.kill()  # no time to stop by itself: requests wait
                return reason
        return "stopped"

    def _answers(self) -> bool:
        with suppress(HttpError):
            return self._ask("GET", self._config.ready_path, PROBE_TIMEOUT_S) in READY_STATUSES
        return False

    def _computes(self) -> bool:
        """Tell whether the server generates a token of its own model."""
        with suppress(HttpError, ValueError, KeyError, IndexError, TypeError):
            listed = fetch("GET", self._url("/v1/models"), timeout_s=CANARY_TIMEOUT_S, headers=self._headers)
            body = {"model": parsed(listed.body)["data"][0]["id"], "prompt": "a", "max_tokens": 1}
            return self._ask("POST", "/v1/completions", CANARY_TIMEOUT_S, json.dumps(body).encode()) < 500
        return False

    def _ask(self, method: str, path: str, timeout_s: float, data: bytes | None = None) -> int:
        typed = {"Content-Type": "application/json"} if data else {}
        return fetch(method, self._url(path), timeout_s=timeout_s, data=data, headers=self._headers | typed).status

    def _url(self, path: str) -> str:
        assert self.address is not None
        return f"http://{netloc(*self.address)}{path}"

    @property
    def _headers(self) -> dict[str, str]:
        return authorization(self._service.key)


class _Watch:
    """Tells from probes and traffic whether a server hangs."""

    def __init__(self, config: ReplicasConfig) -> None:
        self._config = config
        self._silence = SilenceTimer(PROBE_TIMEOUT_S + 2 * PROBE_INTERVAL_S)
        self._stall = SilenceTimer(PROBE_TIMEOUT_S + 2 * PROBE_INTERVAL_S)
        self._sent = 0

    def problem(self, answers: bool, traffic: tuple[int, int] | None, computes: Callable[[], bool]) -> str | None:
        """Return why a server must be replaced; ``traffic`` are its open requests and the bytes that it sent."""
        is_open, sends = traffic is not None and traffic[0] > 0, traffic is not None and traffic[1] != self._sent
        self._sent = traffic[1] if traffic is not None else self._sent
        if answers or sends or (is_open and not self._config.answers_while_busy):
            self._silence.reset()
        if sends or not is_open:
            self._stall.reset()
        if self._silence.check() > self._config.probe_timeout_s:
            return f"{self._config.ready_path} was not answered for {self._config.probe_timeout_s:g} s"
        limit = self._config.stall_timeout_s
        if limit is None or self._stall.check() <= limit:
            return None
        if computes():
            self._stall.reset()
            return None
        return f"requests, but no byte of an answer for {limit:g} s"
