"""Starts Triton, watches it, and replaces it when it dies or hangs."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.backends.pytriton.ports import Ports, choose
from launcher.backends.pytriton.request_handler import RequestHandler
from launcher.backends.pytriton.server import Server, ServerSettings
from launcher.backends.pytriton.stall_detector import StallDetector
from launcher.core.errors import ServerError, UserError
from launcher.core.files import install
from launcher.core.http import netloc
from launcher.core.restart_budget import RestartBudget
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.engines.base import AsyncEngine, EngineState

LOG = logging.getLogger("pytriton.supervisor")
POLL_INTERVAL_S = 0.25
"""How often to check that the processes run."""
PROBE_INTERVAL_S = 2.0
"""How often to probe a Triton that has sent no response since the last probe."""
STALL_FACTOR = 6
"""How many times ``probe_s`` a step of the engine may take, which may be one over a long prompt."""
START_ATTEMPTS = 2
"""About one start in 75 crashes."""
STABLE_S = 30.0
MAX_QUICK_DEATHS = 3
"""After so many deaths in a row, each within `STABLE_S` seconds of a start, Triton is not started again."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds for a start, and for a response of a running Triton."""

    start_s: float
    probe_s: float


class Supervisor:
    """Runs in a thread of its own.

    ``error`` says why Triton does not answer, and is None while it does. ``restarting`` is set during a restart.
    """

    def __init__(
        self, settings: ServerSettings, wanted: Ports, folder: Path, handler: RequestHandler, timeouts: Timeouts
    ) -> None:
        self.error: str | None = "Triton is starting"
        self.restarting = True
        self._settings = settings
        self._wanted = wanted
        self._folder = folder
        self._handler = handler
        self._timeouts = timeouts
        self._ports = choose(settings.host, wanted)
        self._server: Server | None = None
        self._starts = 0
        self._on_lost: Callable[[str], None] = lambda reason: None
        self._responses: Callable[[], int] = lambda: 0
        self._stall_detector = StallDetector(EngineState)
        self._probe: dict[str, Json] = {}
        self._probe_name = f"probe-{secrets.token_hex(16)}"
        handler.trust(self._probe_name)
        self._loaded = threading.Event()
        self._stop = threading.Event()
        self._settled = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start Triton in the background; on exit its processes have ended."""
        thread = threading.Thread(target=self._run, name="triton-supervisor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._loaded.set()
            if self._server is not None:
                self._server.stop()
            thread.join()

    def attach(self, engine: AsyncEngine, on_lost: Callable[[str], None], responses: Callable[[], int]) -> None:
        """Report that the engine is loaded.

        A start then succeeds when Triton has produced a token. ``on_lost`` is called with the reason when Triton is
        lost. ``responses`` counts its responses: while that grows, Triton needs no probe.
        """
        first = next(iter(engine.tokenizer.encode("a")), 0)
        self._stall_detector = StallDetector(engine.state)
        self._probe = {"tokens": [first], "max_tokens": 1, "temperature": 0.0}
        self._on_lost, self._responses = on_lost, responses
        self._loaded.set()

    def wait(self) -> None:
        """Wait for the first token through Triton. Raises `ServerError` if all starts fail."""
        self._settled.wait()
        if self.error is not None:
            raise ServerError(f"{self.error}; see {self._settings.log_file} and {RunFolder.server_log} beside it")

    def grpc(self) -> tuple[str, str]:
        """Return the gRPC address and the access token of the running Triton."""
        assert self._server is not None
        return netloc(self._settings.host, self._ports.grpc), self._server.token

    def metrics(self) -> bytes:
        """Return Triton's metrics in Prometheus' text format; empty while it is down. Blocks."""
        return self._server.metrics() if self._server is not None and self.error is None else b""

    def facts(self) -> dict[str, Json]:
        """Return Triton's addresses and the number of its starts."""
        addresses = {name: netloc(self._settings.host, port) for name, port in asdict(self._ports).items()}
        return addresses | {"starts": self._starts}

    def _run(self) -> None:
        problem = ""
        try:
            problem = self._keep_running()
        except Exception as error:  # without this, waiting requests would wait indefinitely
            LOG.exception("the supervisor of Triton failed")
            problem = f"{type(error).__name__}: {error}"
            self._lost(problem)
        finally:
            if not self._stop.is_set():
                self.error, self.restarting = f"Triton does not run: {problem}", False
            self._settled.set()

    def _keep_running(self) -> str:
        """Run Triton and restart it; return the last error when the budget of restarts is exhausted."""
        budget, problem = RestartBudget(MAX_QUICK_DEATHS, STABLE_S), ""
        while not budget.exhausted and not self._stop.is_set():
            failure = self._started()
            if failure is not None or self._server is None:
                return failure or problem
            began = time.monotonic()
            with self._connection_file(self._server.token):
                self.error, self.restarting = None, False
                self._settled.set()
                problem = self._watch(self._server)
            self._lost(problem)
            budget.record_failure(time.monotonic() - began)
        return problem

    @contextmanager
    def _connection_file(self, token: str) -> Iterator[None]:
        """Write Triton's addresses and its token to a file that only this user can read."""
        path = self._settings.connection_file
        path.unlink(missing_ok=True)
        install(path, json.dumps(self.facts() | {"access_token": token}, indent=2), private=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    def _started(self) -> str | None:
        """Start a Triton, with a second attempt if that fails. Return why it does not answer, or None."""
        budget, problem = RestartBudget(START_ATTEMPTS), None
        while not budget.exhausted:
            problem = self._start()
            if problem is None:
                return None
            LOG.warning("Triton did not start: %s", problem)
            budget.record_failure()
            if self._server is not None:
                self._server.stop()
            if self._stop.is_set():
                break
        return problem

    def _start(self) -> str | None:
        try:
            self._ports = choose(self._settings.host, self._wanted, self._ports)
        except UserError as error:
            return str(error)
        self._starts += 1
        server = self._server = Server(self._settings, self._ports, self._folder / str(self._starts))
        if self._stop.is_set():
            return "the server is stopping"
        try:
            server.start()
        except OSError as error:
            return str(error)
        problem = server.wait(self._timeouts.start_s)
        if problem is None:
            self._loaded.wait()
            first = self._starts == 1
            problem = self._ask_token(server, self._timeouts.start_s if first else self._timeouts.probe_s)
            problem = problem and f"it produced no token: {problem}"
        return problem

    def _ask_token(self, server: Server, timeout_s: float) -> str | None:
        """Request one token under a name that is always admitted; return the error, or None."""
        return server.ask(timeout_s, id=f"{self._probe_name}-{time.monotonic_ns()}", **self._probe)

    def _watch(self, server: Server) -> str:
        """Watch Triton and the engine; return the reason when one of them fails."""
        asked, responses = time.monotonic(), self._responses()
        while not self._stop.wait(POLL_INTERVAL_S):
            problem = server.lost()
            if problem is None and time.monotonic() - asked > PROBE_INTERVAL_S:
                if self._responses() == responses:
                    problem = server.ask(self._timeouts.probe_s, ping=True)
                problem = problem or self._stuck(server)
                asked, responses = time.monotonic(), self._responses()
            if problem is not None:
                return problem
        return "the server is stopping"

    def _stuck(self, server: Server) -> str | None:
        """Return why the engine makes no progress although its process answers, or None.

        An idle engine that has produced no token for ``probe_s`` seconds gets a request for one.
        """
        unchanged_s, patience_s, before = (
            self._stall_detector.unchanged_s(),
            self._timeouts.probe_s,
            self._stall_detector.steps,
        )
        if self._stall_detector.busy:
            return (
                f"the engine took no step for {unchanged_s:.0f} s" if unchanged_s > STALL_FACTOR * patience_s else None
            )
        problem = self._ask_token(server, patience_s) if unchanged_s > patience_s else None
        self._stall_detector.unchanged_s()
        return f"the engine made no token: {problem}" if problem and self._stall_detector.steps == before else None

    def _lost(self, problem: str) -> None:
        self.error, self.restarting = f"Triton is restarting: {problem}", True
        if not self._stop.is_set():
            LOG.warning("Triton was lost: %s", problem)
        self._handler.reset(self.error)
        self._on_lost(self.error)
        if self._server is not None:
            self._server.stop()
