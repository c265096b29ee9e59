"""Probes Ray's GCS and this host's raylet."""

from __future__ import annotations

import threading
import time
from typing import Any

PROBE_INTERVAL_S = 1.0


class GcsProbe:
    """Asks the GCS whether this host's raylet lives. ``problem`` is set when it does not, or when the GCS is silent.

    The GCS probes the raylets itself, with the same interval and timeout (`cluster.environment`). Each call has a
    timeout of ``probe_s`` seconds and runs in a thread, so that reading ``problem`` never blocks. It does not use Ray's
    own client, because a call of that to a dead raylet exits this process during clean-up.
    """

    def __init__(self, probe_s: float) -> None:
        self.problem: str | None = None
        self._probe_s = probe_s

    def start(self) -> None:
        """Start to probe the Ray that this process is connected to."""
        import ray
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        context = ray.get_runtime_context()
        client, here = GcsClient(address=context.gcs_address), context.get_node_id()
        threading.Thread(target=self._ask, args=(client, here), name="gcs-probe", daemon=True).start()

    def _ask(self, client: Any, here: str) -> None:
        while self.problem is None:
            self.problem = self._diagnose(client, here)
            time.sleep(PROBE_INTERVAL_S)

    def _diagnose(self, client: Any, here: str) -> str | None:
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
