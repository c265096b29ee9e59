"""Keeps a driver running, from the outside."""

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
from launcher.core.files import append
from launcher.core.health import DEAD, Loss
from launcher.core.run_folder import RunFolder

QUICK_LOSSES = 3
"""After so many losses in a row another start would not help. One that comes later than the probe's deadline after all
replicas were there begins a new row."""
DIED = f"the process that owns Ray died; see {RunFolder.ray_log}"
HANGS = "the process that owns Ray hangs: no sign of life for {:g} s"
RAY_START_S = 90.0
"""Ray without the replicas is up within ten seconds, or a minute on a busy machine."""
TICK_S = 0.5
GRACE_S = 15.0
"""Beyond its deadline for requests, a stopping driver has this long to end its processes."""


class Supervisor:
    """Runs a driver, and another one when it dies: the listening socket stays open, so that clients wait meanwhile."""

    def __init__(self, assignment: DriverConfig, log: logging.Logger) -> None:
        self.model = ""
        self._assignment = assignment
        self._log = log
        self._settled = threading.Event()
        self._problem: str | None = DIED
        self._up = False
        self._refused = False
        self._whole = math.inf
        self._silent_s = 0.0
        self._admitted = self._handed_over = False
        self._answers_all = threading.Event()
        self._stopping = False
        self._stopped = threading.Event()
        self._driver: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start in the background; on leaving, every process of this Ray is gone."""
        thread = threading.Thread(target=self._run, name="ray-keeper", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop()
            thread.join()

    def wait(self) -> None:
        """Wait until all replicas answer. Raises `ServerError` with the reason if they never will."""
        patience = self._assignment.patience
        if not self._settled.wait(patience.start_s + GRACE_S):
            raise ServerError(f"Ray did not start within {patience.start_s + GRACE_S:g} s")
        if self._problem is not None:
            raise ServerError(self._problem)

    def admit(self) -> None:
        """Let everybody ask the fleet, this one and those of later drivers; return once it answers everybody.

        Raises `ServerError` if that takes longer than a start may.
        """
        with self._lock:
            self._admitted = True
            if self._handed_over:
                self._tell_driver()
        if not self._answers_all.wait(self._assignment.patience.start_s):
            raise ServerError(f"Ray was validated, but does not answer everybody; see {RunFolder.ray_log}")

    def _tell_driver(self) -> None:
        assert self._driver is not None
        assert self._driver.stdin is not None
        with suppress(OSError):  # it is gone, and the next one is told when it starts
            self._driver.stdin.write(ADMIT)
            self._driver.stdin.flush()

    def _run(self) -> None:
        try:
            self._keep()
            if self._settled.is_set() and not self._stopping:
                self._tell(f"Ray was lost {QUICK_LOSSES} times in a row, at last: {self._problem or DIED}")
        finally:
            self._settled.set()
            with suppress(OSError):
                os.close(self._assignment.listener)

    def _tell(self, reason: str) -> None:
        """Answer every client with the reason why nobody else will, until it is time to stop."""
        bound = socket.socket(fileno=os.dup(self._assignment.listener))
        with serving(error_response(ApiError(503, reason, code=DEAD)), bound, self._log, stop_timeout_s=1.0):
            self._stopped.wait()

    def _keep(self) -> None:
        losses = 0
        while not self._stopping and losses < QUICK_LOSSES:
            self._up, self._whole, self._problem = False, math.inf, DIED
            self._live()
            refused = (self._up or self._refused) and not self._settled.is_set()
            if refused or self._stopping:
                break
            self._note(self._problem or DIED)
            lasted = time.monotonic() - self._whole > self._assignment.patience.probe_s
            losses = 1 if lasted else losses + 1

    def _note(self, reason: str) -> None:
        self._log.warning("Ray was lost: %s", reason)
        loss: Loss = {"id": None, "pid": None, "reason": f"Ray was lost: {reason}", "time": time.time()}
        self._assignment = replace(self._assignment, lost=(*self._assignment.lost, loss))

    def _live(self) -> None:
        """Run one driver, and the nodes that belong to it, from its start to its end."""
        token = secrets.token_hex(32)
        nodes = Nodes(self._assignment, token, self._log)
        with session_dir.create(token) as folder:
            with self._lock:
                if self._stopping:
                    return
                driver = self._driver = _spawn(self._assignment, folder)
                self._handed_over = False
            try:
                self._follow(driver, folder, nodes)
            finally:
                nodes.leave()

    def _follow(self, driver: subprocess.Popen[bytes], folder: Path, nodes: Nodes) -> None:
        over = threading.Event()
        threading.Thread(target=self._listen, args=(driver, over), name="ray-silence", daemon=True).start()
        with removed_on_exit(Leftovers(os.fspath(folder), session=driver.pid)):
            try:
                self._hand_over(driver, folder)
                assert driver.stdout is not None
                for line in driver.stdout:
                    self._hear(json.loads(line), nodes)
            finally:
                over.set()
                driver.wait()

    def _hand_over(self, driver: subprocess.Popen[bytes], folder: Path) -> None:
        a = self._assignment
        alone = replace(a.allocation, ranks=None)
        assert driver.stdin is not None
        with self._lock, suppress(OSError, ValueError):  # it died, or `_stop` has closed the pipe
            told = replace(a, allocation=alone, home=folder, application=folder.name, admitted=self._admitted)
            driver.stdin.write(pickle.dumps(told))
            driver.stdin.flush()
            self._handed_over = True

    def _hear(self, message: dict[str, str], nodes: Nodes) -> None:
        self._silent_s = 0.0
        if "head" in message:
            nodes.join(message["head"])
        elif "up" in message:
            self._up = True
        elif "failed" in message or "refused" in message:
            self._refused = "refused" in message
            self._problem = message.get("failed") or message["refused"]
        elif "admitted" in message:
            self._answers_all.set()
        elif "model" in message:
            self.model, self._problem = message["model"], None
            self._whole = time.monotonic()
            self._settled.set()

    def _listen(self, driver: subprocess.Popen[bytes], over: threading.Event) -> None:
        """End a driver that is silent for too long: a start of Ray that hangs, and mostly another one does not.

        Seconds count one by one, so that a launcher that was itself stopped does not take the driver for hung.
        """
        probe_s, self._silent_s = self._assignment.patience.probe_s, 0.0
        while not over.wait(TICK_S):
            self._silent_s += TICK_S
            if self._silent_s > (probe_s if self._up else RAY_START_S):
                late = f"Ray itself did not start within {RAY_START_S:g} s"
                self._problem = HANGS.format(probe_s) if self._up else late
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
            driver.wait(self._assignment.patience.stop_s + GRACE_S)
        except subprocess.TimeoutExpired:
            driver.kill()


def _spawn(assignment: DriverConfig, folder: Path) -> subprocess.Popen[bytes]:
    """Start a driver with this interpreter and its import path, in a session of its own: no terminal reaches it."""
    path = os.pathsep.join(p for p in sys.path if p)
    with append(RunFolder(assignment.deployment.folder).ray_log) as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "launcher.backends.ray.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=[assignment.listener],
            env=_environment(assignment, folder) | {"PYTHONPATH": path},
            start_new_session=True,
        )


def _environment(assignment: DriverConfig, folder: Path) -> dict[str, str]:
    if assignment.address is not None:
        return existing.environment()
    return cluster.environment(folder, assignment.patience.probe_s, len(assignment.rooms))
