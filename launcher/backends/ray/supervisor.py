"""Runs a driver and restarts it, from another process."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from launcher.asgi.errors import ApiError
from launcher.asgi.responses import error_response
from launcher.asgi.server import serving
from launcher.backends.ray import cluster, existing, session_dir
from launcher.backends.ray.driver_config import ADMIT, DriverConfig
from launcher.backends.ray.nodes import Nodes
from launcher.core.cleanup import Leftovers, removed_on_exit
from launcher.core.errors import ServerError
from launcher.core.health import DEAD, LostProcess
from launcher.core.heartbeat import SilenceTimer
from launcher.core.logs import LogFile, captured
from launcher.core.restart_budget import RestartBudget
from launcher.core.run_folder import RunFolder

MAX_QUICK_LOSSES = 3
"""After so many losses in a row Ray is not started again. A loss later than the probe's timeout after all replicas were
ready starts a new row."""
DIED = f"the process that owns Ray died; see {RunFolder.ray_log}"
HANGS = "the process that owns Ray hangs: no heartbeat for {:g} s"
RAY_START_S = 90.0
"""Ray without the replicas starts within ten seconds, or within a minute on a busy machine."""
POLL_INTERVAL_S = 0.5
SHUTDOWN_TIMEOUT_S = 15.0
"""How long a driver may take to end its processes, after the timeout for requests."""


class Supervisor:
    """Runs a driver, and another one when it dies. The socket stays open: clients wait during a restart."""

    def __init__(self, config: DriverConfig, log: logging.Logger) -> None:
        self.model = ""
        self._config = config
        self._log = log
        self._settled = threading.Event()
        self._problem: str | None = DIED
        self._ray_up = False
        self._refused = False
        self._all_ready_at = math.inf
        self._silence = SilenceTimer(2 * POLL_INTERVAL_S)
        self._admitted = self._config_sent = False
        self._answers_all = threading.Event()
        self._stopping = False
        self._stopped = threading.Event()
        self._driver: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start in the background; on exit, every process of this Ray has ended."""
        thread = threading.Thread(target=self._run, name="ray-supervisor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop()
            thread.join()

    def wait(self) -> None:
        """Wait until all replicas answer. Raises `ServerError` with the reason why they do not."""
        timeouts = self._config.timeouts
        if not self._settled.wait(timeouts.start_s + SHUTDOWN_TIMEOUT_S):
            raise ServerError(f"Ray did not start within {timeouts.start_s + SHUTDOWN_TIMEOUT_S:g} s")
        if self._problem is not None:
            raise ServerError(self._problem)

    def admit(self) -> None:
        """Accept requests from every client, also under later drivers; return when the driver does.

        Raises `ServerError` if that takes longer than the timeout for a start.
        """
        with self._lock:
            self._admitted = True
            if self._config_sent:
                self._tell_driver()
        if not self._answers_all.wait(self._config.timeouts.start_s):
            raise ServerError(f"Ray was validated, but does not accept every client; see {RunFolder.ray_log}")

    def _tell_driver(self) -> None:
        assert self._driver is not None
        assert self._driver.stdin is not None
        with suppress(OSError):  # it has died; the next one reads it in its configuration
            self._driver.stdin.write(ADMIT)
            self._driver.stdin.flush()

    def _run(self) -> None:
        try:
            self._keep_running()
            if self._settled.is_set() and not self._stopping:
                self._serve_error(
                    f"Ray was lost {MAX_QUICK_LOSSES} times in a row; last error: {self._problem or DIED}"
                )
        finally:
            self._settled.set()
            with suppress(OSError):
                os.close(self._config.listener)

    def _serve_error(self, reason: str) -> None:
        """Answer every request with the reason for the failure, until the supervisor stops."""
        bound = socket.socket(fileno=os.dup(self._config.listener))
        with serving(error_response(ApiError(503, reason, code=DEAD)), bound, self._log, stop_timeout_s=1.0):
            self._stopped.wait()

    def _keep_running(self) -> None:
        budget = RestartBudget(MAX_QUICK_LOSSES, self._config.timeouts.probe_s)
        while not self._stopping and not budget.exhausted:
            self._ray_up, self._all_ready_at, self._problem = False, math.inf, DIED
            self._run_once()
            refused = (self._ray_up or self._refused) and not self._settled.is_set()
            if refused or self._stopping:
                break
            self._record_loss(self._problem or DIED)
            budget.record_failure(time.monotonic() - self._all_ready_at)

    def _record_loss(self, reason: str) -> None:
        self._log.warning("Ray was lost: %s", reason)
        loss: LostProcess = {"id": None, "pid": None, "reason": f"Ray was lost: {reason}", "time": time.time()}
        self._config = replace(self._config, lost=(*self._config.lost, loss))

    def _run_once(self) -> None:
        """Run one driver and its nodes, from its start to its end."""
        token = secrets.token_hex(32)
        nodes = Nodes(self._config, token, self._log)
        with session_dir.create(token) as folder:
            with self._lock:
                if self._stopping:
                    return
                driver = self._driver = _spawn(self._config, folder)
                self._config_sent = False
            try:
                self._supervise(driver, folder, nodes)
            finally:
                nodes.stop()

    def _supervise(self, driver: subprocess.Popen[bytes], folder: Path, nodes: Nodes) -> None:
        stopped = threading.Event()
        threading.Thread(target=self._watch_silence, args=(driver, stopped), name="ray-silence", daemon=True).start()
        with removed_on_exit(Leftovers(os.fspath(folder), session=driver.pid)):
            try:
                self._send_config(driver, folder)
                assert driver.stdout is not None
                for line in driver.stdout:
                    self._on_message(json.loads(line), nodes)
            finally:
                stopped.set()
                driver.wait()

    def _send_config(self, driver: subprocess.Popen[bytes], folder: Path) -> None:
        a = self._config
        alone = replace(a.allocation, ranks=None)
        assert driver.stdin is not None
        with self._lock, suppress(OSError, ValueError):  # it died, or `_stop` has closed the pipe
            config = replace(a, allocation=alone, session_dir=folder, application=folder.name, admitted=self._admitted)
            driver.stdin.write(pickle.dumps(config))
            driver.stdin.flush()
            self._config_sent = True

    def _on_message(self, message: dict[str, str], nodes: Nodes) -> None:
        self._silence.reset()
        if "head" in message:
            nodes.join(message["head"])
        elif "up" in message:
            self._ray_up = True
        elif "failed" in message or "refused" in message:
            self._refused = "refused" in message
            self._problem = message.get("failed") or message["refused"]
        elif "admitted" in message:
            self._answers_all.set()
        elif "model" in message:
            self.model, self._problem = message["model"], None
            self._all_ready_at = time.monotonic()
            self._settled.set()

    def _watch_silence(self, driver: subprocess.Popen[bytes], stopped: threading.Event) -> None:
        """Kill a driver that is silent for too long. A start of Ray may hang; the next one mostly does not."""
        probe_s, self._silence = self._config.timeouts.probe_s, SilenceTimer(2 * POLL_INTERVAL_S)
        while not stopped.wait(POLL_INTERVAL_S):
            if self._silence.check() > (probe_s if self._ray_up else RAY_START_S):
                late = f"Ray itself did not start within {RAY_START_S:g} s"
                self._problem = HANGS.format(probe_s) if self._ray_up else late
                driver.kill()
                return

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            self._stopped.set()
            driver = self._driver
        if driver is None or driver.stdin is None:
            return
        with suppress(OSError):
            driver.stdin.close()
        try:
            driver.wait(self._config.timeouts.stop_s + SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            driver.kill()


def _spawn(config: DriverConfig, folder: Path) -> subprocess.Popen[bytes]:
    """Start a driver with this interpreter and its import path, in a session of its own without a terminal."""
    path = os.pathsep.join(p for p in sys.path if p)
    environment = _environment(config, folder) | {"PYTHONPATH": path}
    secrets_too = environment | {"RAY_AUTH_TOKEN": (folder / "token").read_text()}
    with captured(LogFile(RunFolder(config.deployment.folder).ray_log, "ray"), secrets_too) as (output, _):
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "launcher.backends.ray.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            pass_fds=[config.listener],
            env=environment,
            start_new_session=True,
        )


def _environment(config: DriverConfig, folder: Path) -> dict[str, str]:
    if config.address is not None:
        return existing.environment()
    return cluster.environment(folder, config.timeouts.probe_s, len(config.replicas_per_node))
