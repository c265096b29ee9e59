"""Asks Ray's own services for a sign of life, with a deadline."""

from __future__ import annotations

import threading
import time
from typing import Any

PERIOD_S = 1.0
"""How often to ask."""


class GcsProbe:
    """Asks the GCS whether this host's raylet lives. ``problem`` says that it does not, or that the GCS is silent.

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

        context = ray.get_runtime_context()
        client, here = GcsClient(address=context.gcs_address), context.get_node_id()
        threading.Thread(target=self._ask, args=(client, here), name="pulse", daemon=True).start()

    def _ask(self, client: Any, here: str) -> None:
        while self.problem is None:
            self.problem = self._diagnosis(client, here)
            time.sleep(PERIOD_S)

    def _diagnosis(self, client: Any, here: str) -> str | None:
        from ray.core.generated.gcs_pb2 import GcsNodeInfo
        from ray.exceptions import RayError

        try:
            nodes = client.get_all_node_info(timeout=self._probe_s)
        except RayError:
            return f"Ray's GCS hangs: no answer within {self._probe_s:g} s"
        # A node that is lost takes its replicas along; the others go on.
        if all(node.state == GcsNodeInfo.ALIVE for id, node in nodes.items() if id.hex() == here):
            return None
        return f"Ray's raylet hangs: no answer to the GCS within {self._probe_s:g} s"
