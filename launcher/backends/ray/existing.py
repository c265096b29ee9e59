"""A Ray that exists already, of which a run uses a part."""

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

CONNECT_TIMEOUT_S = 5.0
DELETE_TIMEOUT_S = 10.0
"""How long Serve may take to delete the application."""
FORWARDED_VARIABLES = {"HF_HUB_OFFLINE", "HF_HOME", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"}
"""Environment variables that the replicas get from here; the others are those of the existing Ray."""


def environment() -> dict[str, str]:
    """Return the environment of a driver: the user's own, which holds the token of the existing Ray, if any."""
    return dict(os.environ) | {"RAY_USAGE_STATS_ENABLED": "0"}


class ExistingRay:
    """This run's part of an existing Ray: one application of Serve, whose requests bypass Serve's own proxies."""

    def __init__(self, config: DriverConfig) -> None:
        assert config.address is not None
        self._config = config
        self._address = self.head = config.address
        self.owns_serve = False
        self._connected = False

    def start(self) -> DriverConfig:
        """Connect and count the free resources. Raises `UserError` with the reason why the run cannot use this Ray."""
        import ray

        a, address = self._config, self._address
        found = resolved(address)
        with _as_user_error(address):
            ray.init(
                address=found,
                runtime_env={"env_vars": _forwarded_environment()},
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        nodes = _nodes()
        # Other applications share this Ray, so the CPUs are reserved.
        request = a.request if a.request.cpus is not None else replace(a.request, cpus=1.0)
        share = count(request, nodes, self._facts(nodes), f"the Ray at {found}")
        self._start_serve()
        return replace(a, request=request, share=share, host=ray.util.get_node_ip_address())

    def broken(self) -> str | None:
        """Return None: the owner of this Ray watches its processes."""
        return None

    def shut_down(self) -> None:
        """Delete the application, and Serve if this run started it and no other application uses it."""
        if self._connected:
            application.delete(self._config.application, self.owns_serve).result(DELETE_TIMEOUT_S)

    def _facts(self, nodes: list[Node]) -> Mapping[str, Json]:
        """Return the engine's plan for the node with the most resources."""
        d, best = self._config.deployment, max(nodes, key=lambda node: (node.gpus, node.cpus))
        there = replace(self._config.allocation, gpus=int(best.gpus), cpus=max(1, int(best.cpus)))
        return d.engine.plan(d, there)

    def _start_serve(self) -> None:
        """Use the existing Serve with its proxies, or start one without a proxy."""
        import ray
        from ray import serve

        try:
            ray.get_actor(*CONTROLLER)
        except ValueError:
            self.owns_serve = True
        serve.start(proxy_location="Disabled")
        self._connected = True


def _forwarded_environment() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | {
        k: os.environ[k] for k in FORWARDED_VARIABLES & os.environ.keys()
    }


def resolved(address: str) -> str:
    """Return ``<host>:<port>`` of the GCS, as Ray finds it. Raises `UserError`."""
    from ray._private.services import canonicalize_bootstrap_address

    with _as_user_error(address):
        found = canonicalize_bootstrap_address(address)
    if found is None:
        raise UserError(f"backend.address={address}: no Ray runs on this host; it must be the <host>:<port> of a GCS")
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"backend.address={address}: nothing answers at {found}: {error}") from None
    return str(found)


@contextmanager
def _as_user_error(address: str) -> Iterator[None]:
    """Raise one line for an error of Ray: another version, a missing or wrong token, no raylet on this host."""
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, RuntimeError, ConnectionError, TimeoutError, ValueError) as error:
        raise UserError(f"backend.address={address}: {' '.join(str(_root(error)).split())}") from None


def _root(error: BaseException) -> BaseException:
    """Return the first error of a chain of causes."""
    return error if error.__cause__ is None else _root(error.__cause__)


def _nodes() -> list[Node]:
    """Return the free resources of each living node."""
    from ray._private.state import available_resources_per_node

    return [Node(free.get("CPU", 0.0), free.get("GPU", 0.0)) for free in available_resources_per_node().values()]
