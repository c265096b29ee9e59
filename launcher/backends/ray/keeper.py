"""Keeps a driver running, from the outside."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from launcher.backends.ray import cluster, home
from launcher.backends.ray.assignment import Assignment
from launcher.errors import ServerError

STABLE_S = 60.0
QUICK_DEATHS = 3
"""After so many deaths in a row, each within `STABLE_S` seconds of a start, another start would not help."""
DIED = "the process that owns Ray died; see ray.log"
RAY_START_S = 120.0
"""Ray without the replicas is up within ten seconds, or a minute on a busy machine."""
GRACE_S = 15.0
"""Beyond its deadline for requests, a stopping driver has this long to end its processes."""


class Keeper:
    """Runs a driver, and another one when it dies: the listening socket stays open, so that clients wait meanwhile."""

    def __init__(self, assignment: Assignment, log: logging.Logger) -> None:
        self.model = ""
        self._assignment = assignment
        self._log = log
        self._settled = threading.Event()
        self._problem: str | None = "it is starting"
        self._up = False
        self._stopping = False
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

    def _run(self) -> None:
        try:
            self._keep()
        finally:
            self._settled.set()
            with suppress(OSError):
                os.close(self._assignment.listener)

    def _keep(self) -> None:
        deaths = 0
        while not self._stopping and deaths < QUICK_DEATHS:
            began, self._up = time.monotonic(), False
            with home.home() as folder:
                self._live(folder)
            refused = self._up and not self._settled.is_set()
            if refused or self._stopping:
                break
            self._log.warning("Ray was lost: %s; starting another one", self._problem or DIED)
            deaths = 1 if self._up and time.monotonic() - began > STABLE_S else deaths + 1

    def _live(self, folder: Path) -> None:
        """Run one driver from its start to its end."""
        with self._lock:
            if self._stopping:
                return
            driver = self._driver = _spawn(self._assignment.listener, folder, self._assignment.deployment.folder)
        impatience = threading.Timer(RAY_START_S, self._give_up, (driver,))
        impatience.start()
        try:
            self._hand_over(driver, replace(self._assignment, home=folder))
            assert driver.stdout is not None
            for line in driver.stdout:
                self._hear(json.loads(line))
        finally:
            impatience.cancel()
            driver.wait()
            home.end(driver.pid)

    def _hand_over(self, driver: subprocess.Popen[bytes], assignment: Assignment) -> None:
        assert driver.stdin is not None
        with suppress(BrokenPipeError):
            driver.stdin.write(pickle.dumps(assignment))
            driver.stdin.flush()

    def _hear(self, message: dict[str, str]) -> None:
        if "up" in message:
            self._up, self._problem = True, DIED
        elif "failed" in message:
            self._problem = message["failed"]
        else:
            self.model, self._problem = message["model"], None
            self._settled.set()

    def _give_up(self, driver: subprocess.Popen[bytes]) -> None:
        """End a start of Ray that hangs: it happens, and another one mostly does not."""
        if not self._up:
            self._problem = f"Ray itself did not start within {RAY_START_S:g} s"
            driver.kill()

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            driver = self._driver
        if driver is None or driver.stdin is None:
            return
        with suppress(OSError):
            driver.stdin.close()
        try:
            driver.wait(self._assignment.patience.stop_s + GRACE_S)
        except subprocess.TimeoutExpired:
            driver.kill()


def _spawn(listener: int, folder: Path, log_folder: Path) -> subprocess.Popen[bytes]:
    """Start a driver with this interpreter and its import path, in a session of its own: no terminal reaches it."""
    path = os.pathsep.join(p for p in sys.path if p)
    with (log_folder / "ray.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "launcher.backends.ray.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=[listener],
            env=cluster.environment(folder) | {"PYTHONPATH": path},
            start_new_session=True,
        )
