"""Starts the proxy's worker processes on one socket, replaces those that die or hang, and ends them."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.adapters.base import Adapter
from launcher.backends.endpoint import base_url
from launcher.core.console import to_stderr
from launcher.core.errors import ServerError, UserError
from launcher.core.files import append
from launcher.core.restart_budget import RestartBudget
from launcher.core.types import Endpoint, Json
from launcher.proxy.front import LAST_S
from launcher.proxy.metrics import COMPLETIONS, LOST, Counters, create
from launcher.proxy.settings import Proxy
from launcher.proxy.worker import MISSING, Assignment, describe
from launcher.settings.component import plain_settings

START_S = 120.0
"""How long a worker may take until it takes connections."""
HANG_S = 30
"""A worker whose event loop does nothing for so long is replaced."""
POLL_S = 0.1
FAILURES = 5
"""A worker that fails so often in a row is not started again."""
STABLE_S = 60.0
MARGIN_S = 5.0
BACKLOG = 4096


@dataclass(frozen=True)
class Mounted:
    """What the proxy stands in front of: the endpoint, the adapters, and where these and the log write."""

    endpoint: Endpoint
    adapters: Sequence[Adapter]
    deployment: Mapping[str, Json] | None
    folder: Path
    log: Path


@contextmanager
def listening(settings: Proxy) -> Iterator[socket.socket]:
    """Reserve the address of the proxy. Raises `UserError` for one that cannot be had."""
    from launcher.asgi.server import bind

    with bind(settings.host, settings.port or 0, "proxy") as listener:
        yield listener


@contextmanager
def running(settings: Proxy, listener: socket.socket, mounted: Mounted, key: str | None) -> Iterator[Supervisor]:
    """Run the proxy; clients can connect. On leaving, requests have ``stop_timeout_s`` to end.

    Raises `UserError` as adapters do, and `ServerError` if a worker does not start.
    """
    listener.listen(BACKLOG)
    supervisor = Supervisor(settings, mounted, key, listener)
    try:
        supervisor.start()
        yield supervisor
    finally:
        supervisor.stop()


class Supervisor:
    """The workers of one proxy. ``dead`` is set, with a ``reason``, if one cannot be kept running."""

    def __init__(self, settings: Proxy, mounted: Mounted, key: str | None, listener: socket.socket) -> None:
        self.run = secrets.token_hex(8)
        """The id by which the proxy is told from those of other runs."""
        self.key = key
        self.url = base_url(settings.host, listener.getsockname()[1])
        self.dead = threading.Event()
        self.reason = ""
        self._settings = settings
        self._mounted = mounted
        self._listener = listener
        self._descriptor = create(settings.workers)
        self._counters = Counters(self._descriptor, settings.workers)
        self._workers: list[_Process] = []
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._watch_workers, name="proxy", daemon=True)

    @property
    def run_url(self) -> str:
        """The base URL that only this run's proxy answers."""
        return f"{self.url.removesuffix('/v1')}/_proxy/run/{self.run}/v1"

    @property
    def completions(self) -> int:
        """How many completions were answered, and not with an error behind a good status."""
        return self._counters.total(COMPLETIONS)

    @property
    def lost(self) -> int:
        """How many completions got an error, or were given up by their client."""
        return self._counters.total(LOST)

    def start(self) -> None:
        """Start the workers, and wait until they take connections."""
        self._workers = [self._process(number) for number in range(self._settings.workers)]
        for worker in self._workers:
            worker.wait_ready()
        self._watch.start()

    def stop(self) -> None:
        """End the workers: first in order, then by force."""
        self._stopping.set()
        if self._watch.is_alive():
            self._watch.join()
        for worker in self._workers:
            worker.terminate()
        self._listener.close()
        deadline = time.monotonic() + self._settings.stop_timeout_s + LAST_S + MARGIN_S
        try:
            for worker in self._workers:
                worker.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in self._workers:
                worker.kill()
            self._counters.close()
            os.close(self._descriptor)

    def _process(self, number: int, *, replaces: bool = False) -> _Process:
        s, m = self._settings, self._mounted
        folder = m.folder if s.workers == 1 else m.folder / f"worker-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        endpoint = {name: getattr(m.endpoint, name) for name in ("url", "model", "backend", "engine", "api_key")}
        plain = plain_settings(s)
        adapters = [describe(adapter) for adapter in m.adapters]
        assignment = Assignment(
            number, self.run, self._listener.fileno(), self._descriptor, str(folder), str(m.log), plain, adapters,
            endpoint, m.deployment, self.key, replaces,
        )  # fmt: skip
        return _Process(assignment, m.log)

    def _watch_workers(self) -> None:
        budgets = [RestartBudget(FAILURES, STABLE_S) for _ in self._workers]
        while not self._stopping.wait(POLL_S):
            for number, worker in enumerate(self._workers):
                if (why := self._fault(number, worker)) is None:
                    continue
                budgets[number].record_failure(time.monotonic() - worker.started)
                worker.kill()
                counts = any(adapter.files() for adapter in self._mounted.adapters)
                to_stderr(f"proxy: worker {number} {why}{f'; {MISSING}' if counts else ''}; see {self._mounted.log}")
                if not budgets[number].exhausted:
                    self._replace(number)
                else:
                    self._give_up(f"worker {number} of the proxy {why}, {budgets[number].failures} times in a row")
                    return

    def _give_up(self, reason: str) -> None:
        """Take no connections any more: on a socket that stays open, clients would wait for an answer."""
        to_stderr("proxy: it has ended, and takes no connections any more")
        self._listener.close()
        for worker in self._workers:
            worker.terminate()
        self.reason = reason
        self.dead.set()

    def _fault(self, number: int, worker: _Process) -> str | None:
        if (code := worker.exit_code()) is not None:
            return f"has ended with code {code}"
        beat = self._counters.beat(number)
        since, most = (beat, HANG_S) if beat else (worker.started, START_S)
        return f"has not answered for {most:g} s" if time.monotonic() - since > most else None

    def _replace(self, number: int) -> None:
        """Start a worker again; where that fails, on a full disk for instance, the next look finds the dead one."""
        self._counters.restarted(number)
        with suppress(UserError, OSError):
            self._workers[number] = self._process(number, replaces=True)
            self._workers[number].wait_ready()


class _Process:
    """One worker."""

    def __init__(self, assignment: Assignment, log: Path) -> None:
        self.started = time.monotonic()
        self._log = log
        with append(log) as file:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "launcher.proxy.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                pass_fds=(assignment.listener, assignment.counters),
                start_new_session=True,  # Ctrl-C must reach only the launcher
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError):
            self._popen.stdin.write(json.dumps(asdict(assignment)).encode() + b"\n")
            self._popen.stdin.flush()

    def wait_ready(self) -> None:
        """Wait until it takes connections. Raises `UserError` as its adapters do, and `ServerError`."""
        assert self._popen.stdout is not None
        ready, _, _ = select.select([self._popen.stdout], [], [], START_S)
        line = self._popen.stdout.readline() if ready else b""
        told = json.loads(line) if line.strip() else {}
        if "error" in told:
            raise UserError(told["error"])
        if "ready" not in told:
            raise ServerError(f"the proxy did not start; see {self._log}")

    def exit_code(self) -> int | None:
        return self._popen.poll()

    def terminate(self) -> None:
        """Let it end its requests."""
        with suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGTERM)
            self._popen.send_signal(signal.SIGCONT)  # a stopped process handles it only after it continues

    def wait(self, timeout_s: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)

    def kill(self) -> None:
        """End it at once, and free what it held here."""
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
