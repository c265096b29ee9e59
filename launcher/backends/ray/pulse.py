"""Asks Ray's own services for a sign of life, with a deadline."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from launcher.backends.ray import home

PERIOD_S = 1.0
"""How often to ask."""
CONTROLLER = "ray::ServeContr"
"""The short name of the process that Serve starts replicas from, as proc(5) cuts it."""


class Pulse:
    """Asks the GCS which nodes live. ``problem`` says that it does not answer, or has given up this host's raylet.

    The GCS asks the raylets itself, as often and with the same deadline (`cluster.environment`). Serve's controller is
    asked too; when it hangs it is killed, and Ray starts another one, which takes over the replicas. Everything here
    waits for ``probe_s`` seconds at most, in threads of their own, so that whoever reads ``problem`` waits for nothing.
    """

    def __init__(self, probe_s: float) -> None:
        self.problem: str | None = None
        self._probe_s = probe_s

    def start(self) -> None:
        """Begin to ask the Ray that this process is connected to, on which Serve runs."""
        import ray
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        # A client of its own: that of Ray's worker would end this process when the GCS is gone for a minute.
        client = GcsClient(address=ray.get_runtime_context().gcs_address)
        controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        threading.Thread(target=self._ask, args=(client,), name="pulse", daemon=True).start()
        threading.Thread(target=self._ask_serve, args=(controller,), name="pulse-serve", daemon=True).start()

    def _ask(self, client: Any) -> None:
        while self.problem is None:
            self.problem = self._diagnosis(client)
            time.sleep(PERIOD_S)

    def _diagnosis(self, client: Any) -> str | None:
        from ray.core.generated.gcs_pb2 import GcsNodeInfo
        from ray.exceptions import RayError

        try:
            nodes = client.get_all_node_info(timeout=self._probe_s)
        except RayError:
            return f"Ray's GCS hangs: no answer within {self._probe_s:g} s"
        if all(node.state == GcsNodeInfo.ALIVE for node in nodes.values()):
            return None
        return f"Ray's raylet hangs: no answer to the GCS within {self._probe_s:g} s"

    def _ask_serve(self, controller: Any) -> None:
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        while self.problem is None:
            try:
                ray.get(controller.check_alive.remote(), timeout=self._probe_s)
            except GetTimeoutError:
                home.kill(pid for pid in home.members(os.getsid(0)) if home.name(pid) == CONTROLLER)
            except RayActorError:
                pass  # it is being started again
            time.sleep(PERIOD_S)
