"""An embedded Ray with one Serve deployment on it: started, and watched."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from launcher.backends.ray import home
from launcher.backends.ray.assignment import Assignment
from launcher.backends.ray.rollcall import Address

OBJECT_STORE = 80 * 1024 * 1024
"""Bytes; Ray's least. Nothing of ours goes through it."""
APPLICATION = "launcher"
VITAL = frozenset({"raylet", "gcs_server"})
GIVEN = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_raylet_start_wait_time_s": "180",
    # Another program's memory must not cost a replica; the kernel still has its own limit.
    "RAY_memory_monitor_refresh_ms": "0",
    # Ray gives its workers, which the replicas are, the least share of a busy CPU (15); other servers have a usual one.
    "RAY_worker_niceness": "0",
    # Ray's switch for systems on which it runs on one host only: it then listens on loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Any free port, instead of one that two Rays on a host would both want.
    "AUTOSCALER_METRIC_PORT": "0",
    "DASHBOARD_METRIC_PORT": "0",
}


def environment(folder: Path, probe_s: float) -> dict[str, str]:
    """Return the environment for a private Ray: never another one's address, always this one's token.

    Its GCS takes a raylet that does not answer for ``probe_s`` seconds for dead; Ray's own deadline is a minute.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    own = {
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_health_check_timeout_ms": str(round(probe_s * 1e3)),
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "1",
    }
    return inherited | GIVEN | own


def start(assignment: Assignment) -> None:
    """Start Ray on this host, on loopback, with the resources that the replicas share."""
    import ray
    from ray import serve

    share, replicas = assignment.share, assignment.replicas
    ray.init(
        address="local",
        num_cpus=max(1, assignment.allocation.cpus),
        num_gpus=assignment.allocation.gpus if share.gpus else 0,
        resources={"replica": replicas},
        include_dashboard=False,
        object_store_memory=OBJECT_STORE,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _temp_dir=str(assignment.home),
        _node_ip_address="127.0.0.1",
    )
    serve.start(proxy_location="Disabled")


def deploy(assignment: Assignment, address: Address, key: bytes) -> None:
    """Ask Serve for the replicas, and for a new one whenever one is lost; return at once."""
    from ray import serve

    from launcher.backends.ray.replica import Replica

    share, patience = assignment.share, assignment.patience
    deployment = serve.deployment(
        Replica,
        name="replica",
        num_replicas=assignment.replicas,
        # A gang of processes runs inside its replica, which holds the resources of all of them on one node.
        ray_actor_options={"num_cpus": 0, "num_gpus": share.gpus, "resources": {"replica": 1}},
        health_check_period_s=2,
        health_check_timeout_s=patience.probe_s,
        graceful_shutdown_timeout_s=patience.stop_s,
    )
    target = serve.RunTarget(deployment.bind(address, key), name=APPLICATION, route_prefix=None)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def broken() -> str | None:
    """Return which part of Ray itself is gone, or None."""
    there = {home.name(pid) for pid in home.members(os.getsid(0))}
    lost = VITAL - there
    return f"Ray's {', '.join(sorted(lost))} died" if lost else None
