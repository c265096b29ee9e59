"""Asks Serve's controller, which starts a replica for each that is lost, for a sign of life."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from launcher.backends.ray import application
from launcher.core.types import Json

CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")
"""The name of its actor, and the namespace."""
PERIOD_S = 2.0
"""How often to ask."""
Note = Callable[[int, str], None]


class Controller:
    """Has a controller that hangs killed: Ray then starts another one, which takes over the replicas as they are.

    ``note`` is told of each that was lost. ``problem`` says what no other controller would mend: the application is
    not there any more.
    """

    def __init__(self, name: str, probe_s: float, note: Note) -> None:
        self.problem: str | None = None
        self._application = name
        self._probe_s = probe_s
        self._ours = False
        self._note = note
        self._pid = 0
        self._late = 0
        self._seen = False
        self._silent = False

    def start(self, ours: bool) -> None:
        """Begin to ask the Serve of this process's Ray, which is ``ours``, or somebody else's to kill."""
        import ray

        self._ours = ours
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
                pass  # one that comes back, or a Ray that is lost, which others notice
            time.sleep(PERIOD_S)

    def _ask(self, controller: Any) -> None:
        import ray
        from ray.serve.generated.serve_pb2 import StatusOverview

        asked = [controller.get_pid.remote(), controller.list_serve_statuses.remote()]
        pid, statuses = ray.get(asked, timeout=self._probe_s)
        if self._pid not in (0, pid) and not self._silent:
            self._note(self._pid, "Serve's controller died")
        self._pid, self._silent = pid, False
        there = self._application in {StatusOverview.FromString(status).name for status in statuses}
        if self._seen and not there:
            self.problem = f"Serve does not have the application {self._application} any more"
        self._seen = self._seen or there

    def _unanswered(self, controller: Any) -> None:
        """Have it killed, unless it is only being started: what has never answered has a second deadline."""
        from ray._private.state import actors

        actor: dict[str, Json] = actors(controller._actor_id.hex())
        if self._silent or actor["State"] != "ALIVE":
            return
        if actor["Pid"] not in (self._pid, self._late):
            self._late = actor["Pid"]
            return
        self._silent = True
        self._note(actor["Pid"], f"Serve's controller hangs: no answer within {self._probe_s:g} s")
        if self._ours:
            application.kill(actor["Pid"], actor["Address"]["NodeID"])
