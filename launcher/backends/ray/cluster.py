"""An embedded Ray: started, and watched."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from launcher.backends.ray import session_dir
from launcher.backends.ray.application import REPLICA
from launcher.backends.ray.driver_config import DriverConfig
from launcher.core import processes

OBJECT_STORE = 80 * 1024 * 1024
"""Bytes; Ray's least. Nothing of ours goes through it."""
VITAL = frozenset({"raylet", "gcs_server"})
GIVEN = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_raylet_start_wait_time_s": "180",
    # Another program's memory must not cost a replica; the kernel still has its own limit.
    "RAY_memory_monitor_refresh_ms": "0",
    # Ray gives its workers, which the replicas are, the least share of a busy CPU (15); other servers have a usual one.
    "RAY_worker_niceness": "0",
    # Nobody reads what Ray counts of itself: without that, and with a slower look for lost replicas, an idle Ray takes
    # 52 ms of CPU time in a second instead of 91.
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "3600000",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # Any free port, instead of one that two Rays on a host would both want.
    "AUTOSCALER_METRIC_PORT": "0",
    "DASHBOARD_METRIC_PORT": "0",
}


def environment(folder: Path, probe_s: float, nodes: int) -> dict[str, str]:
    """Return the environment for a private Ray: never another one's address, always this one's token.

    Its GCS takes a raylet that does not answer for ``probe_s`` seconds for dead; Ray's own deadline is a minute.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    own = {
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        # Ray's switch for systems on which it runs on one host only: it then listens on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": str(int(nodes > 1)),
        "RAY_health_check_timeout_ms": str(round(probe_s * 1e3)),
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "1",
    }
    return inherited | GIVEN | own


class LocalRay:
    """A Ray of this run's own, on this host, which other nodes may join at ``head``."""

    keeps_serve = True

    def __init__(self, assignment: DriverConfig) -> None:
        self._assignment = assignment
        self._vital: dict[str, int] = {}
        self.head = ""

    def start(self) -> DriverConfig:
        """Start Ray, on loopback unless there are other nodes, with the resources that the replicas share."""
        import ray
        from ray import serve

        a = self._assignment
        ray.init(
            address="local",
            num_cpus=max(1, a.allocation.cpus),
            num_gpus=a.allocation.gpus if a.share.gpus else 0,
            resources={REPLICA: a.rooms[0]},
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _temp_dir=str(a.home / session_dir.RAY_SUBDIR),
            _node_ip_address=a.host,
        )
        self.head = str(ray.get_runtime_context().gcs_address)
        serve.start(proxy_location="Disabled")
        return a

    def broken(self) -> str | None:
        """Return which part of Ray itself is gone, or None.

        A raylet ends 15 s after it was started if its agents did not come, as on a machine that is very busy; there is
        no setting for that, and who waits for it in `start` is not told.
        """
        session = os.getsid(0)
        if len(self._vital) < len(VITAL):
            self._vital |= {
                processes.name(pid): pid for pid in processes.in_session(session) if processes.name(pid) in VITAL
            }
        lost = sorted(name for name, pid in self._vital.items() if not _belongs(pid, session))
        return f"Ray's {', '.join(lost)} died" if lost else None

    def leave(self) -> None:
        """Nothing: every process of this Ray belongs to the driver's session, and ends with it."""


def _belongs(pid: int, session: int) -> bool:
    """Return whether a process runs and belongs to this session."""
    found = processes.find(pid)
    return found is not None and found.running and found.session == session
