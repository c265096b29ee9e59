"""Probes Serve's controller, which replaces lost replicas."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from launcher.backends.ray import application
from launcher.core.types import Json

CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")
"""The name and the namespace of its actor."""
PROBE_INTERVAL_S = 2.0
RecordLoss = Callable[[int, str], None]


class Controller:
    """Kills a controller that hangs; Ray then starts another one, which takes over the running replicas.

    ``record_loss`` is called for each lost controller. ``problem`` is set when the application has been deleted, which
    no other controller repairs.
    """

    def __init__(self, name: str, probe_s: float, record_loss: RecordLoss) -> None:
        self.problem: str | None = None
        self._application = name
        self._probe_s = probe_s
        self._owns_serve = False
        self._record_loss = record_loss
        self._pid = 0
        self._unanswered_pid = 0
        self._seen = False
        self._is_silent = False

    def start(self, owns_serve: bool) -> None:
        """Start to probe the controller of this process's Ray; with ``owns_serve``, kill one that hangs."""
        import ray

        self._owns_serve = owns_serve
        given = (ray.get_actor(*CONTROLLER),)
        threading.Thread(target=self._watch, args=given, name="serve-controller", daemon=True).start()

    def _watch(self, controller: Any) -> None:
        from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

        while self.problem is None:
            try:
                self._ask(controller)
            except GetTimeoutError:
                self._unanswered(controller)
            except ActorDiedError:
                self.problem = "Serve was shut down"
            except RayError:
                pass  # the controller restarts, or Ray is lost, which the driver notices
            time.sleep(PROBE_INTERVAL_S)

    def _ask(self, controller: Any) -> None:
        import ray
        from ray.serve.generated.serve_pb2 import StatusOverview

        requests = [controller.get_pid.remote(), controller.list_serve_statuses.remote()]
        pid, statuses = ray.get(requests, timeout=self._probe_s)
        if self._pid not in (0, pid) and not self._is_silent:
            self._record_loss(self._pid, "Serve's controller died")
        self._pid, self._is_silent = pid, False
        there = self._application in {StatusOverview.FromString(status).name for status in statuses}
        if self._seen and not there:
            self.problem = f"Serve does not have the application {self._application} any more"
        self._seen = self._seen or there

    def _unanswered(self, controller: Any) -> None:
        """Kill the controller, unless it is starting: one that has never answered gets a second timeout."""
        from ray._private.state import actors

        actor: dict[str, Json] = actors(controller._actor_id.hex())
        if self._is_silent or actor["State"] != "ALIVE":
            return
        if actor["Pid"] not in (self._pid, self._unanswered_pid):
            self._unanswered_pid = actor["Pid"]
            return
        self._is_silent = True
        self._record_loss(actor["Pid"], f"Serve's controller hangs: no answer within {self._probe_s:g} s")
        if self._owns_serve:
            application.kill(actor["Pid"], actor["Address"]["NodeID"])
