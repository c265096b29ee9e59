"""The process that owns one Ray: all processes of that Ray are in its session, and end with it."""

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
from launcher.backends.balancer import Balancer
from launcher.backends.ray import application
from launcher.backends.ray.cluster import LocalRay
from launcher.backends.ray.controller import Controller
from launcher.backends.ray.driver_config import ADMIT, DriverConfig
from launcher.backends.ray.existing import ExistingRay
from launcher.backends.ray.gcs_probe import GcsProbe
from launcher.backends.ray.heartbeat import HeartbeatServer
from launcher.backends.ray.registry import ReplicaRegistry
from launcher.backends.ray.scaler import Scaler
from launcher.backends.ray.shared_secret import HEADER
from launcher.backends.ray.status import Status
from launcher.core import processes
from launcher.core.errors import ServerError, UserError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.distributed.allocation import LOOPBACK

POLL_INTERVAL_S = 0.5
"""How often to check that Ray, HAProxy and the replicas work."""
SPARE_SLOTS = 8
TRACEBACK_AFTER_S = 80.0
"""After so long a start of Ray counts as hung, and its stacks go to standard error."""
Send = Callable[[dict[str, Json]], None]
Deploy = Callable[[int], Future[None]]


def main() -> None:
    """Read a `DriverConfig` from standard input, serve until standard input ends, and leave no process behind.

    `ADMIT` may follow the configuration.

    Standard output gets JSON lines:

    - ``{"head": address}``: other nodes may join Ray.
    - ``{"up": ...}``: Ray has started, and the replicas are starting.
    - ``{"model": ...}``: all replicas answer.
    - ``{"admitted": ...}``: every client is admitted.
    - ``{"failed": reason}``: Ray is lost; ``{"refused": reason}``: it is lost, and a restart would not help.
    - ``{"alive": ...}``: the heartbeat, every `POLL_INTERVAL_S` seconds.
    """
    send = _message_writer()
    faulthandler.dump_traceback_later(TRACEBACK_AFTER_S)
    driver = Driver(pickle.load(sys.stdin.buffer))
    threading.Thread(target=driver.exit_with_parent, args=(send,), name="lifeline", daemon=True).start()
    try:
        driver.run(send)
    except ServerError as error:
        send({"failed": str(error)})
    except UserError as error:
        send({"refused": str(error)})
    except Exception as error:
        send({"failed": f"{type(error).__name__}: {error}"})
        raise
    finally:
        driver.shut_down()


def _message_writer() -> Send:
    """Reserve standard output for the messages; what libraries print there goes to standard error."""
    writer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(message: dict[str, Json]) -> None:
        writer.write(json.dumps(message) + "\n")
        writer.flush()

    return send


class Driver:
    """Starts the replicas with HAProxy in front, and keeps them running."""

    def __init__(self, config: DriverConfig) -> None:
        a = self._config = config
        self._balancer = Balancer(
            a.session_dir,
            a.listener,
            a.scale.maximum + SPARE_SLOTS,
            a.routing,
            a.timeouts.stop_s,
            a.timeouts.probe_s,
            RunFolder.ray_log,
            (HEADER, a.secret),
            a.frontend.limits,
        )
        if a.validator_token is not None and not a.admitted:
            self._balancer.require_token(a.validator_token)
        self._registry = ReplicaRegistry(self._balancer, a.timeouts, a.lost)
        self._ray = LocalRay(a) if a.address is None else ExistingRay(a)
        self._gcs_probe = GcsProbe(a.timeouts.probe_s)
        self._controller = Controller(a.application, a.timeouts.probe_s, self._registry.record_loss)
        self._pending_deployment: Future[None] | None = None
        self._scaler = Scaler(a.scale)
        self._exiting = threading.Lock()

    def run(self, send: Send) -> None:
        """Start everything, then watch it. Raises `ServerError` when a part of it fails for good."""
        a, key = self._config, secrets.token_bytes(32)
        with ExitStack() as stack:
            log, bound = (
                stack.enter_context(server_log(RunFolder(a.deployment.folder).ray_driver_log, "ray-driver")),
                bind(LOOPBACK, 0),
            )
            status = Status(self._registry, self._scaler, a.secret, a.deployment.folder).app()
            stack.enter_context(serving(with_cors(status, a.frontend.cors_origins), bound, log, 1.0))
            self._balancer.start(bound.getsockname()[:2])
            threading.Thread(target=self._watch_start, args=(send,), name="start", daemon=True).start()
            a = self._ray.start()
            send({"head": self._ray.head})
            self._gcs_probe.start()
            heartbeats = HeartbeatServer(a.host, key, a, self._registry.on_connect)
            heartbeats.start()
            deploy = partial(application.deploy, a, address=heartbeats.address, key=key)
            deploy(self._scaler.wanted).result()
            self._controller.start(self._ray.owns_serve)
            faulthandler.cancel_dump_traceback_later()
            send({"up": "ray"})
            self._wait_for_replicas(send)
            send({"model": self._registry.model})
            if a.admitted:
                send({"admitted": True})
            self._watch(send, deploy)

    def _watch_start(self, send: Send) -> None:
        """Exit if a part of Ray dies while the main thread waits for it."""
        while not self._ray.head:
            if (problem := self._ray.broken()) is not None:
                send({"failed": f"{problem} while it started"})
                self.shut_down()
            time.sleep(POLL_INTERVAL_S)

    def exit_with_parent(self, send: Send) -> None:
        """Admit every client when the parent sends `ADMIT`; exit when standard input ends, as with the parent."""
        while sys.stdin.buffer.read(len(ADMIT)):
            self._balancer.admit()
            send({"admitted": True})
        self.shut_down()

    def shut_down(self) -> None:
        """End all processes of this Ray, remove the session directory, and exit."""
        self._exiting.acquire()  # never released: a second caller waits for the exit
        for shut_down in (self._balancer.stop, self._ray.shut_down):
            with suppress(Exception):
                shut_down()
        processes.kill_session(os.getsid(0))
        shutil.rmtree(self._config.session_dir, ignore_errors=True)
        os._exit(0)

    def _wait_for_replicas(self, send: Send) -> None:
        """Wait until all replicas are ready. Raises `ServerError` with the reason of the first that fails."""
        wanted, start_s = self._scaler.wanted, self._config.timeouts.start_s
        deadline, ready = time.monotonic() + start_s, 0
        while ready < wanted:
            self._check(send)
            if time.monotonic() > deadline:
                raise ServerError(f"{ready} of {wanted} replicas were ready within {start_s:g} s")
            with suppress(queue.Empty):
                failure = self._registry.changes.get(timeout=POLL_INTERVAL_S)
                if failure:
                    raise ServerError(failure)
                ready += 1

    def _watch(self, send: Send, deploy: Deploy) -> None:
        """Replace replicas that hang, and start or stop replicas as the load changes. Raises `ServerError`."""
        while True:
            self._check(send)
            for replica in self._registry.hung():
                application.kill(replica.pid, replica.node_id)
            if not self._config.scale.fixed:
                self._rescale(deploy)
            time.sleep(POLL_INTERVAL_S)

    def _rescale(self, deploy: Deploy) -> None:
        """Deploy as many replicas as the load needs, unless HAProxy does not report the load."""
        sessions = self._balancer.sessions()
        if sessions is not None and self._scaler.see(sum(sessions.values()), time.monotonic()):
            self._pending_deployment = deploy(self._scaler.wanted)

    def _check(self, send: Send) -> None:
        """Send a heartbeat. Raises `ServerError` when a part of Ray fails for good."""
        send({"alive": True})
        problem = self._balancer.problem or self._ray.broken() or self._gcs_probe.problem or self._controller.problem
        if problem is not None:
            raise ServerError(problem)
        if self._pending_deployment is not None and self._pending_deployment.done():
            self._pending_deployment.result()


if __name__ == "__main__":
    main()
