"""The replicas as an application of Ray Serve, which keeps them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from launcher.backends.ray.driver_config import DriverConfig
from launcher.backends.ray.heartbeat import Address
from launcher.core import processes

if TYPE_CHECKING:
    from ray import serve

REPLICA = "replica"
"""The deployment, and on a Ray of our own a resource of its nodes: one for each replica that is to be there."""


SAME = "1"
"""Serve's private mark of a deployment's code, without which it would replace all replicas to change their number."""
DRAIN_S = 600.0
"""How long a replica that is not needed any more may take for the requests that it has."""

_turns = ThreadPoolExecutor(1, "serve")
"""Serve's client is not for several threads: what one has marked to be pickled by value, another unmarks. And nobody
else is to wait for a controller that hangs."""


def deploy(assignment: DriverConfig, replicas: int, address: Address, key: bytes) -> Future[None]:
    """Ask Serve, in its turn, for so many replicas, and for a new one whenever one is lost.

    Asked again with another number, it starts or stops as many as that takes, and leaves the others as they are.
    """
    return _turns.submit(_deploy, assignment, replicas, address, key)


def _deploy(assignment: DriverConfig, replicas: int, address: Address, key: bytes) -> None:
    from ray import serve

    asked = _application(assignment, replicas, address, key)
    target = serve.RunTarget(asked, name=assignment.application, route_prefix=None)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _application(assignment: DriverConfig, replicas: int, address: Address, key: bytes) -> serve.Application:
    from ray import serve

    from launcher.backends.ray.replica import Replica

    share, patience = assignment.share, assignment.patience
    ours = assignment.address is None
    deployment = serve.deployment(
        Replica,
        name=REPLICA,
        num_replicas=replicas,
        # A gang of processes runs inside its replica, which holds the resources of all of them on one node.
        ray_actor_options={
            "num_cpus": 0 if ours else share.cpus,
            "num_gpus": share.gpus,
            "resources": {REPLICA: 1} if ours else {},
        },
        health_check_period_s=2,
        health_check_timeout_s=patience.probe_s,
        graceful_shutdown_timeout_s=DRAIN_S,
    )
    return deployment.options(version=SAME, _internal=True).bind(address, key)


def delete(name: str, serve_too: bool) -> Future[None]:
    """Delete the application ``name`` in its turn; with ``serve_too`` also Serve, unless it has another one."""
    return _turns.submit(_delete, name, serve_too)


def _delete(name: str, serve_too: bool) -> None:
    from ray import serve

    serve.delete(name)
    if serve_too and not serve.status().applications:
        serve.shutdown()


def kill(pid: int, node: str) -> None:
    """Kill a replica and its ranks; ``node`` is the id of its node, which may be another one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if node == ray.get_runtime_context().get_node_id():
        processes.kill_with_children(pid)
        return
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.remote(num_cpus=0, scheduling_strategy=there)(processes.kill_with_children).remote(pid)
