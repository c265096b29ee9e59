"""A Ray of this run: its environment, its start and its vital processes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from launcher.backends.ray import session_dir
from launcher.backends.ray.application import REPLICA
from launcher.backends.ray.driver_config import DriverConfig
from launcher.core import processes

OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Ray's minimum; the launcher stores no objects."""
VITAL_PROCESSES = frozenset({"raylet", "gcs_server"})
FIXED_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_raylet_start_wait_time_s": "180",
    # Ray must not kill a replica because another program uses memory; the kernel's own limit still holds.
    "RAY_memory_monitor_refresh_ms": "0",
    # Ray's workers, which the replicas are, have niceness 15 by default; other servers have 0.
    "RAY_worker_niceness": "0",
    # No program reads Ray's metrics of itself. Without them, and with a slower control loop, an idle Ray takes 52 ms of
    # CPU time per second instead of 91.
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "3600000",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # Any free port: two Rays on a host would both bind the default one.
    "AUTOSCALER_METRIC_PORT": "0",
    "DASHBOARD_METRIC_PORT": "0",
}


def environment(folder: Path, probe_s: float, nodes: int) -> dict[str, str]:
    """Return the environment of a private Ray, with its own token and without another Ray's address.

    Its GCS declares a raylet dead that does not answer for ``probe_s`` seconds; Ray's default is a minute.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    private = {
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        # Ray's switch for systems on which it runs on one host only: Ray then listens on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": str(int(nodes > 1)),
        "RAY_health_check_timeout_ms": str(round(probe_s * 1e3)),
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "1",
    }
    return inherited | FIXED_ENVIRONMENT | private


class LocalRay:
    """A Ray of this run alone, on this host; other nodes join it at ``head``."""

    owns_serve = True

    def __init__(self, config: DriverConfig) -> None:
        self._config = config
        self._vital_pids: dict[str, int] = {}
        self.head = ""

    def start(self) -> DriverConfig:
        """Start Ray with the resources that the replicas share, on loopback unless other nodes join."""
        import ray
        from ray import serve

        a = self._config
        ray.init(
            address="local",
            num_cpus=max(1, a.allocation.cpus),
            num_gpus=a.allocation.gpus if a.share.gpus else 0,
            resources={REPLICA: a.replicas_per_node[0]},
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _temp_dir=str(a.session_dir / session_dir.RAY_SUBDIR),
            _node_ip_address=a.host,
        )
        self.head = str(ray.get_runtime_context().gcs_address)
        serve.start(proxy_location="Disabled")
        return a

    def broken(self) -> str | None:
        """Return which vital process of Ray has died, or None.

        On a very busy machine a raylet exits 15 s after its start, because its agents were too slow. Ray has no setting
        for that, and `start` would wait for it without an error.
        """
        session = os.getsid(0)
        if len(self._vital_pids) < len(VITAL_PROCESSES):
            self._vital_pids |= {
                processes.name(pid): pid
                for pid in processes.in_session(session)
                if processes.name(pid) in VITAL_PROCESSES
            }
        lost = sorted(name for name, pid in self._vital_pids.items() if not _belongs(pid, session))
        return f"Ray's {', '.join(lost)} died" if lost else None

    def shut_down(self) -> None:
        """Do nothing: all processes of this Ray are in the driver's session, and end with it."""


def _belongs(pid: int, session: int) -> bool:
    """Return whether a process runs and belongs to this session."""
    found = processes.find(pid)
    return found is not None and found.running and found.session == session
