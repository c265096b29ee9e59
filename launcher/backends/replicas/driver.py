"""The process that runs the replicas: it starts them, balances between them, and replaces those that are lost."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from launcher.asgi.server import bind, serving
from launcher.backends.balancer import Balancer
from launcher.backends.replicas.config import LOOPBACK, ReplicasConfig, loaded
from launcher.backends.replicas.replica import Replica, Service
from launcher.backends.replicas.status import Status
from launcher.core.errors import ServerError

SPARE_SLOTS = 1
BACKLOG = 2048
POLL_INTERVAL_S = 1.0
DRAIN_S = 1.0
JOIN_MARGIN_S = 15.0


def main() -> None:
    """Run until SIGTERM; exit with 1 if a replica does not start at first, or if none is left."""
    config = loaded(sys.argv[1])
    with bind(config.host, config.port) as bound:
        balancer = _balancer(config, bound.fileno())
        service = Service(config, balancer, os.environ.get(config.key_env) if config.key_env else None, _say)
        signal.signal(signal.SIGTERM, lambda *_: service.stop())
        replicas = [Replica(number, service) for number in range(len(config.variables))]
        try:
            _run(service, replicas, bound.listen)
        except ServerError as error:
            _say(str(error))
            sys.exit(1)
        finally:
            _end(service, replicas)


def _balancer(config: ReplicasConfig, listener: int) -> Balancer:
    slots = len(config.variables) + SPARE_SLOTS
    return Balancer(
        Path(config.folder), listener, slots, config.routing, DRAIN_S, config.probe_timeout_s, Path(config.log)
    )


def _run(service: Service, replicas: list[Replica], listen: Callable[[int], None]) -> None:
    """Start the replicas, then serve and watch them until the end. Raises `ServerError`."""
    log = logging.Logger("launcher.replicas", logging.WARNING)
    log.addHandler(logging.StreamHandler(sys.stdout))
    with bind(LOOPBACK, 0) as bound, serving(Status(replicas, service).app(), bound, log, DRAIN_S):
        address = bound.getsockname()[:2]
        for replica in replicas:
            replica.start()
        if _all_ready(service, replicas):
            listen(BACKLOG)
            service.balancer.start(address)
            service.opened.set()
            _say(f"{len(replicas)} replicas are ready")
            _watch(service, replicas)


def _all_ready(service: Service, replicas: list[Replica]) -> bool:
    """Wait until all are ready; return False when they are to stop. Raises `ServerError` for one that fails."""
    while not all(replica.is_ready for replica in replicas):
        _wait(service)
        if service.stopping.is_set():
            return False
        for replica in replicas:
            if replica.gave_up:
                raise ServerError(f"{replica.name} did not start: {replica.state}")
    return True


def _watch(service: Service, replicas: list[Replica]) -> None:
    """Wait until the end. Raises `ServerError` when HAProxy or the last replica is lost for good."""
    while not service.stopping.is_set():
        _wait(service)
        if service.balancer.problem is not None:
            raise ServerError(service.balancer.problem)
        if all(replica.gave_up for replica in replicas):
            raise ServerError(f"no replica is left; the last one: {replicas[-1].state}")


def _wait(service: Service) -> None:
    service.changed.wait(POLL_INTERVAL_S)
    service.changed.clear()


def _end(service: Service, replicas: list[Replica]) -> None:
    service.stopping.set()
    service.balancer.stop()
    for replica in replicas:
        if replica.ident is not None:
            replica.join(service.config.stop_timeout_s + JOIN_MARGIN_S)


def _say(text: str) -> None:
    with suppress(OSError):
        print(text, flush=True)


if __name__ == "__main__":
    main()
