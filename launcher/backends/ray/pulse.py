"""Asks Ray's own services for a sign of life, with a deadline."""

from __future__ import annotations

import threading
import time
from typing import Any

PERIOD_S = 1.0
"""How often to ask."""


class Pulse:
    """Asks the GCS which nodes live. ``problem`` says that it does not answer, or has given up this host's raylet.

    The GCS asks the raylets itself, as often and with the same deadline (`cluster.environment`). Everything here waits
    for ``probe_s`` seconds at most, and in a thread of its own, so that whoever reads ``problem`` waits for nothing.
    Ray's own client stays out of it: a call that meets a dead raylet ends this process in the middle of its tidying up.
    """

    def __init__(self, probe_s: float) -> None:
        self.problem: str | None = None
        self._probe_s = probe_s

    def start(self) -> None:
        """Begin to ask the Ray that this process is connected to."""
        import ray
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        client = GcsClient(address=ray.get_runtime_context().gcs_address)
        threading.Thread(target=self._ask, args=(client,), name="pulse", daemon=True).start()

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
