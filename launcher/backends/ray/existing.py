"""A Ray that runs already, of which a run uses a part and leaves the rest alone."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from launcher.backends.ray import application
from launcher.backends.ray.controller import CONTROLLER
from launcher.backends.ray.driver_config import DriverConfig
from launcher.backends.ray.resources import Node, count
from launcher.core.errors import UserError
from launcher.core.types import Json

REACH_S = 5.0
LEAVE_S = 10.0
"""So long Serve may take to delete the application."""
CARRIED = {"HF_HUB_OFFLINE", "HF_HOME", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"}
"""Environment variables that the replicas get from here; the others are those of the running Ray."""


def environment() -> dict[str, str]:
    """Return the environment of a driver: the user's own, which holds the token of the running Ray if that has one."""
    return dict(os.environ) | {"RAY_USAGE_STATS_ENABLED": "0"}


class ExistingRay:
    """This run's part of a running Ray: one application of Serve, whose requests pass by Serve's own proxies."""

    def __init__(self, assignment: DriverConfig) -> None:
        assert assignment.address is not None
        self._assignment = assignment
        self._address = self.head = assignment.address
        self.keeps_serve = False
        self._connected = False

    def start(self) -> DriverConfig:
        """Connect; count what is free there. Raises `UserError` with the reason why the run cannot use this Ray."""
        import ray

        a, address = self._assignment, self._address
        found = resolved(address)
        with _told(address):
            ray.init(
                address=found,
                runtime_env={"env_vars": _carried()},
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        nodes = _nodes()
        # There others have their share, too, so that ours is counted.
        demand = a.demand if a.demand.cpus is not None else replace(a.demand, cpus=1.0)
        share = count(demand, nodes, self._facts(nodes), f"the Ray at {found}")
        self._start_serve()
        return replace(a, demand=demand, share=share, host=ray.util.get_node_ip_address())

    def broken(self) -> str | None:
        """Return None: whoever keeps this Ray sees to its processes."""
        return None

    def leave(self) -> None:
        """Delete our application, and Serve if it was begun for that and nobody else uses it."""
        if self._connected:
            application.delete(self._assignment.application, self.keeps_serve).result(LEAVE_S)

    def _facts(self, nodes: list[Node]) -> Mapping[str, Json]:
        """Return what the engine plans on the best of the nodes."""
        d, best = self._assignment.deployment, max(nodes, key=lambda node: (node.gpus, node.cpus))
        there = replace(self._assignment.allocation, gpus=int(best.gpus), cpus=max(1, int(best.cpus)))
        return d.engine.plan(d, there)

    def _start_serve(self) -> None:
        """Use the Serve that is there, whatever proxies it has, or begin one without any."""
        import ray
        from ray import serve

        try:
            ray.get_actor(*CONTROLLER)
        except ValueError:
            self.keeps_serve = True
        serve.start(proxy_location="Disabled")
        self._connected = True


def _carried() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | {
        k: os.environ[k] for k in CARRIED & os.environ.keys()
    }


def resolved(address: str) -> str:
    """Return ``<host>:<port>`` of the GCS, as Ray finds it. Raises `UserError`."""
    from ray._private.services import canonicalize_bootstrap_address

    with _told(address):
        found = canonicalize_bootstrap_address(address)
    if found is None:
        raise UserError(f"backend.address={address}: no Ray runs on this host; accepted is <host>:<port> of its GCS")
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"backend.address={address}: nothing answers at {found}: {error}") from None
    return str(found)


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Make one line of why Ray refuses: another version, a token that is missing or wrong, no raylet on this host."""
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, RuntimeError, ConnectionError, TimeoutError, ValueError) as error:
        raise UserError(f"backend.address={address}: {' '.join(str(_root(error)).split())}") from None


def _root(error: BaseException) -> BaseException:
    """Return the first of the errors that led to this one."""
    return error if error.__cause__ is None else _root(error.__cause__)


def _nodes() -> list[Node]:
    """Return what is free on each living node."""
    from ray._private.state import available_resources_per_node

    return [Node(free.get("CPU", 0.0), free.get("GPU", 0.0)) for free in available_resources_per_node().values()]
