"""The process that owns one Ray: everything else of it lives in this process's session, and ends with it."""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import queue
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import partial

from launcher.asgi.middleware import with_cors
from launcher.asgi.server import bind, server_log, serving
from launcher.backends.ray import application
from launcher.backends.ray.balancer import Balancer
from launcher.backends.ray.cluster import LocalRay
from launcher.backends.ray.controller import Controller
from launcher.backends.ray.driver_config import ADMIT, DriverConfig
from launcher.backends.ray.existing import ExistingRay
from launcher.backends.ray.gcs_probe import GcsProbe
from launcher.backends.ray.heartbeat import HeartbeatServer
from launcher.backends.ray.registry import ReplicaRegistry
from launcher.backends.ray.scaler import Scaler
from launcher.backends.ray.status import Status
from launcher.core import processes
from launcher.core.errors import ServerError, UserError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json

PERIOD_S = 0.5
"""How often to look whether all that should live does."""
SPARE_SLOTS = 8
LATE_S = 80.0
"""A start of Ray that takes longer is taken for hung, and standard error then has where."""
Say = Callable[[dict[str, Json]], None]
Deploy = Callable[[int], Future[None]]


def main() -> None:
    """Read an `DriverConfig` from standard input, carry it out until standard input ends, and leave nothing behind.

    `ADMIT` may follow it there.

    Standard output gets JSON lines: ``{"head": address}`` when other nodes may join Ray, ``{"up": ...}`` when it is
    asked for replicas, ``{"model": ...}`` when all of them answer, ``{"admitted": ...}`` when everybody is answered,
    ``{"failed": reason}``, or ``{"refused": reason}`` for what another try would not change; and from the first on
    ``{"alive": ...}`` every `PERIOD_S` seconds.
    """
    say = _speaker()
    faulthandler.dump_traceback_later(LATE_S)
    driver = Driver(pickle.load(sys.stdin.buffer))
    threading.Thread(target=driver.leave_with_parent, args=(say,), name="lifeline", daemon=True).start()
    try:
        driver.run(say)
    except ServerError as error:
        say({"failed": str(error)})
    except UserError as error:
        say({"refused": str(error)})
    except Exception as error:
        say({"failed": f"{type(error).__name__}: {error}"})
        raise
    finally:
        driver.leave()


def _speaker() -> Say:
    """Keep standard output for our own messages; whatever else is printed here goes to standard error."""
    ours = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(message: dict[str, Json]) -> None:
        ours.write(json.dumps(message) + "\n")
        ours.flush()

    return say


class Driver:
    """Brings up a fleet and keeps it."""

    def __init__(self, assignment: DriverConfig) -> None:
        a = self._assignment = assignment
        self._balancer = Balancer(
            a.home, a.listener, a.scale.most + SPARE_SLOTS, a.routing, a.patience, a.secret, a.frontend.limits
        )
        if a.validator_token is not None and not a.admitted:
            self._balancer.keep_out(a.validator_token)
        self._fleet = ReplicaRegistry(self._balancer, a.patience, a.lost)
        self._ray = LocalRay(a) if a.address is None else ExistingRay(a)
        self._pulse = GcsProbe(a.patience.probe_s)
        self._controller = Controller(a.application, a.patience.probe_s, self._fleet.note)
        self._asked: Future[None] | None = None
        self._scaler = Scaler(a.scale)
        self._leaving = threading.Lock()

    def run(self, say: Say) -> None:
        """Start everything; then watch. Raises `ServerError` when something cannot be kept up."""
        a, key = self._assignment, secrets.token_bytes(32)
        with ExitStack() as stack:
            log, bound = (
                stack.enter_context(server_log(RunFolder(a.deployment.folder).server_log)),
                bind("127.0.0.1", 0),
            )
            status = Status(self._fleet, self._scaler, a.secret).app()
            stack.enter_context(serving(with_cors(status, a.frontend.cors_origins), bound, log, 1.0))
            self._balancer.start(bound.getsockname()[:2])
            threading.Thread(target=self._mind_start, args=(say,), name="start", daemon=True).start()
            a = self._ray.start()
            say({"head": self._ray.head})
            self._pulse.start()
            calls = HeartbeatServer(a.host, key, a, self._fleet.came)
            calls.start()
            deploy = partial(application.deploy, a, address=calls.address, key=key)
            deploy(self._scaler.wanted).result()
            self._controller.start(self._ray.keeps_serve)
            faulthandler.cancel_dump_traceback_later()
            say({"up": "ray"})
            self._all_there(say)
            say({"model": self._fleet.model})
            if a.admitted:
                say({"admitted": True})
            self._watch(say, deploy)

    def _mind_start(self, say: Say) -> None:
        """Leave if a part of Ray dies while the main thread waits for it."""
        while not self._ray.head:
            if (problem := self._ray.broken()) is not None:
                say({"failed": f"{problem} while it started"})
                self.leave()
            time.sleep(PERIOD_S)

    def leave_with_parent(self, say: Say) -> None:
        """Admit everybody when the parent says so; leave when it closes standard input, on purpose or by dying."""
        while sys.stdin.buffer.read(len(ADMIT)):
            self._balancer.admit()
            say({"admitted": True})
        self.leave()

    def leave(self) -> None:
        """End all that was started, remove the private folder, and end this process."""
        self._leaving.acquire()  # never given back: who comes second waits for the end
        for leave in (self._balancer.stop, self._ray.leave):
            with suppress(Exception):
                leave()
        processes.kill_session(os.getsid(0))
        shutil.rmtree(self._assignment.home, ignore_errors=True)
        os._exit(0)

    def _all_there(self, say: Say) -> None:
        """Wait for every replica. Raises `ServerError` with the reason of the first that fails."""
        wanted, start_s = self._scaler.wanted, self._assignment.patience.start_s
        deadline, there = time.monotonic() + start_s, 0
        while there < wanted:
            self._look(say)
            if time.monotonic() > deadline:
                raise ServerError(f"{there} of {wanted} replicas were ready within {start_s:g} s")
            with suppress(queue.Empty):
                news = self._fleet.news.get(timeout=PERIOD_S)
                if news:
                    raise ServerError(news)
                there += 1

    def _watch(self, say: Say, deploy: Deploy) -> None:
        """Give up replicas that hang, and ask for as many as the load needs. Raises `ServerError`."""
        while True:
            self._look(say)
            for member in self._fleet.hung():
                application.kill(member.pid, member.node_id)
            if not self._assignment.scale.fixed:
                self._rescale(deploy)
            time.sleep(PERIOD_S)

    def _rescale(self, deploy: Deploy) -> None:
        """Ask for as many replicas as the load needs, unless nobody knows the load."""
        sessions = self._balancer.sessions()
        if sessions is not None and self._scaler.see(sum(sessions.values()), time.monotonic()):
            self._asked = deploy(self._scaler.wanted)

    def _look(self, say: Say) -> None:
        """Say that this process lives. Raises `ServerError` when something cannot be kept up."""
        say({"alive": True})
        problem = self._balancer.problem or self._ray.broken() or self._pulse.problem or self._controller.problem
        if problem is not None:
            raise ServerError(problem)
        if self._asked is not None and self._asked.done():
            self._asked.result()


if __name__ == "__main__":
    main()
