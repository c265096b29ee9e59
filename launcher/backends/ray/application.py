"""The replicas as an application of Ray Serve, which restarts them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from launcher.backends.ray.driver_config import DriverConfig
from launcher.backends.ray.heartbeat import Address
from launcher.core import processes

if TYPE_CHECKING:
    from ray import serve

REPLICA = "replica"
"""The name of the deployment. On a local Ray also a resource: each node has one for each replica that it holds."""

CODE_VERSION = "1"
"""Serve's private version of the code; without it, Serve replaces all replicas to change their number."""
DRAIN_S = 600.0
"""How long a replica that is not needed any more may take to finish its requests."""

_serve_thread = ThreadPoolExecutor(1, "serve")
"""Serve's client is not thread-safe, because it toggles cloudpickle's by-value registration: all calls go through one
thread. A controller that hangs blocks only that thread."""


def deploy(config: DriverConfig, replicas: int, address: Address, key: bytes) -> Future[None]:
    """Deploy ``replicas`` replicas, which Serve replaces when they are lost.

    A later call with another number starts or stops the difference and leaves the other replicas running.
    """
    return _serve_thread.submit(_deploy, config, replicas, address, key)


def _deploy(config: DriverConfig, replicas: int, address: Address, key: bytes) -> None:
    from ray import serve

    asked = _application(config, replicas, address, key)
    target = serve.RunTarget(asked, name=config.application, route_prefix=None)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _application(config: DriverConfig, replicas: int, address: Address, key: bytes) -> serve.Application:
    from ray import serve

    from launcher.backends.ray.replica import Replica

    share, timeouts = config.share, config.timeouts
    local = config.address is None
    deployment = serve.deployment(
        Replica,
        name=REPLICA,
        num_replicas=replicas,
        # All ranks run inside their replica's process tree, so the actor reserves their resources on one node.
        ray_actor_options={
            "num_cpus": 0 if local else share.cpus,
            "num_gpus": share.gpus,
            "resources": {REPLICA: 1} if local else {},
        },
        health_check_period_s=2,
        health_check_timeout_s=timeouts.probe_s,
        graceful_shutdown_timeout_s=DRAIN_S,
    )
    return deployment.options(version=CODE_VERSION, _internal=True).bind(address, key)


def delete(name: str, serve_too: bool) -> Future[None]:
    """Delete the application ``name``; with ``serve_too`` also shut down Serve if no other application is left."""
    return _serve_thread.submit(_delete, name, serve_too)


def _delete(name: str, serve_too: bool) -> None:
    from ray import serve

    serve.delete(name)
    if serve_too and not serve.status().applications:
        serve.shutdown()


def kill(pid: int, node: str) -> None:
    """Kill a replica and its ranks; ``node`` is the id of its node, which may be another host."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if node == ray.get_runtime_context().get_node_id():
        processes.kill_with_children(pid)
        return
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.remote(num_cpus=0, scheduling_strategy=there)(processes.kill_with_children).remote(pid)
