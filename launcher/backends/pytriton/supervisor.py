"""Keeps a Triton alive: starts it, watches it, and replaces it when it dies."""

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
from launcher.backends.pytriton.server import Server, Settings
from launcher.backends.pytriton.stall_detector import StallDetector
from launcher.core.errors import ServerError, UserError
from launcher.core.files import install
from launcher.core.http import netloc
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.engines.base import AsyncEngine, EngineState

LOG = logging.getLogger("pytriton.supervisor")
PERIOD_S = 0.25
"""How often to look whether the processes are there."""
PROBE_S = 2.0
"""How often to ask for an answer, when none came by itself."""
STUCK = 6
"""How many times longer than an answer a step of the engine may take: it may be one over a long prompt."""
ATTEMPTS = 2
"""About one start in seventy-five crashes."""
STABLE_S = 30.0
QUICK_DEATHS = 3
"""After this many deaths in a row, each within `STABLE_S` seconds of a start, another start would not help."""


@dataclass(frozen=True)
class Timeouts:
    """How many seconds a start may take, and an answer of a Triton that runs."""

    start_s: float
    probe_s: float


class Supervisor:
    """Runs in a thread of its own.

    ``error`` is None while Triton answers, else why not; ``restarting`` says that another one is on its way.
    """

    def __init__(
        self, settings: Settings, wanted: Ports, folder: Path, served: RequestHandler, patience: Timeouts
    ) -> None:
        self.error: str | None = "Triton is starting"
        self.restarting = True
        self._settings = settings
        self._wanted = wanted
        self._folder = folder
        self._served = served
        self._patience = patience
        self._ports = choose(settings.host, wanted)
        self._server: Server | None = None
        self._starts = 0
        self._down: Callable[[str], None] = lambda reason: None
        self._traffic: Callable[[], int] = lambda: 0
        self._pulse = StallDetector(EngineState)
        self._probe: dict[str, Json] = {}
        self._probe_name = f"probe-{secrets.token_hex(16)}"
        served.know(self._probe_name)
        self._loaded = threading.Event()
        self._stop = threading.Event()
        self._settled = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start Triton in the background; on leaving it is gone."""
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

    def attach(self, engine: AsyncEngine, down: Callable[[str], None], traffic: Callable[[], int]) -> None:
        """Say that the engine is loaded.

        A start is a success when Triton has continued a token. ``down`` is called with the reason when Triton is lost.
        ``traffic`` counts its answers: while that grows, Triton needs no probe.
        """
        first = next(iter(engine.tokenizer.encode("a")), 0)
        self._pulse = StallDetector(engine.state)
        self._probe = {"tokens": [first], "max_tokens": 1, "temperature": 0.0}
        self._down, self._traffic = down, traffic
        self._loaded.set()

    def wait(self) -> None:
        """Wait until a token came through Triton. Raises `ServerError` if all that was tried has failed."""
        self._settled.wait()
        if self.error is not None:
            raise ServerError(f"{self.error}; see {self._settings.log_file} and {RunFolder.server_log} beside it")

    def grpc(self) -> tuple[str, str]:
        """Return the address of KServe over gRPC, and the access token, of the Triton that runs."""
        assert self._server is not None
        return netloc(self._settings.host, self._ports.grpc), self._server.token

    def metrics(self) -> bytes:
        """Return Triton's metrics in Prometheus' text format; nothing while it is down. Blocks for a moment."""
        return self._server.metrics() if self._server is not None and self.error is None else b""

    def facts(self) -> dict[str, Json]:
        """Return where Triton listens, and how many times it was started."""
        addresses = {name: netloc(self._settings.host, port) for name, port in asdict(self._ports).items()}
        return addresses | {"starts": self._starts}

    def _run(self) -> None:
        problem = ""
        try:
            problem = self._keep()
        except Exception as error:  # nobody else would hear of it, and who waits would wait for ever
            LOG.exception("Triton is not kept any more")
            problem = f"{type(error).__name__}: {error}"
            self._lost(problem)
        finally:
            if not self._stop.is_set():
                self.error, self.restarting = f"Triton does not run: {problem}", False
            self._settled.set()

    def _keep(self) -> str:
        """Start Triton, and another one whenever it is lost; return why one more would not help."""
        deaths, problem = 0, ""
        while deaths < QUICK_DEATHS and not self._stop.is_set():
            failure = self._started()
            if failure is not None or self._server is None:
                return failure or problem
            began = time.monotonic()
            with self._announced(self._server.token):
                self.error, self.restarting = None, False
                self._settled.set()
                problem = self._watch(self._server)
            self._lost(problem)
            deaths = deaths + 1 if time.monotonic() - began < STABLE_S else 1
        return problem

    @contextmanager
    def _announced(self, token: str) -> Iterator[None]:
        """Tell this user's other programs, in a file that only they can read, where Triton is."""
        path = self._settings.announcement
        path.unlink(missing_ok=True)
        install(path, json.dumps(self.facts() | {"access_token": token}, indent=2), private=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    def _started(self) -> str | None:
        """Start a Triton; if that fails, once more. Return why it does not answer, or None."""
        problem = None
        for _ in range(ATTEMPTS):
            problem = self._start()
            if problem is None:
                return None
            LOG.warning("Triton did not start: %s", problem)
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
        problem = server.wait(self._patience.start_s)
        if problem is None:
            self._loaded.wait()
            first = self._starts == 1
            problem = self._ask_token(server, self._patience.start_s if first else self._patience.probe_s)
            problem = problem and f"no token came: {problem}"
        return problem

    def _ask_token(self, server: Server, timeout_s: float) -> str | None:
        """Ask for one token under a name that is always served; return what is wrong, or None."""
        return server.ask(timeout_s, id=f"{self._probe_name}-{time.monotonic_ns()}", **self._probe)

    def _watch(self, server: Server) -> str:
        """Return why Triton, or what it serves, had to be given up."""
        asked, traffic = time.monotonic(), self._traffic()
        while not self._stop.wait(PERIOD_S):
            problem = server.lost()
            if problem is None and time.monotonic() - asked > PROBE_S:
                if self._traffic() == traffic:
                    problem = server.ask(self._patience.probe_s, ping=True)
                problem = problem or self._stuck(server)
                asked, traffic = time.monotonic(), self._traffic()
            if problem is not None:
                return problem
        return "the server is stopping"

    def _stuck(self, server: Server) -> str | None:
        """Return why the engine does not work although its process answers, or None.

        One that is idle is asked for a token when it has made none for as long as an answer may take.
        """
        quiet_s, patience_s, before = self._pulse.quiet_s(), self._patience.probe_s, self._pulse.steps
        if self._pulse.busy:
            return f"the engine took no step for {quiet_s:.0f} s" if quiet_s > STUCK * patience_s else None
        problem = self._ask_token(server, patience_s) if quiet_s > patience_s else None
        self._pulse.quiet_s()
        return f"the engine made no token: {problem}" if problem and self._pulse.steps == before else None

    def _lost(self, problem: str) -> None:
        self.error, self.restarting = f"Triton is restarting: {problem}", True
        if not self._stop.is_set():
            LOG.warning("Triton is given up: %s", problem)
        self._served.reset(self.error)
        self._down(self.error)
        if self._server is not None:
            self._server.stop()
