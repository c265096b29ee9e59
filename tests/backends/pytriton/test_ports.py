from __future__ import annotations

import socket

import pytest

from launcher.backends.pytriton.ports import Ports, choose
from launcher.core.errors import UserError


def test_free_ports_differ_and_stay() -> None:
    first = choose("127.0.0.1", Ports())
    assert len({first.http, first.grpc, first.metrics}) == 3
    assert choose("127.0.0.1", Ports(), first) == first


def test_a_port_that_was_taken_since_is_replaced() -> None:
    first = choose("127.0.0.1", Ports())
    with socket.create_server(("127.0.0.1", first.grpc)):
        second = choose("127.0.0.1", Ports(), first)
    assert second.http == first.http
    assert second.grpc not in (0, first.grpc)


@pytest.mark.parametrize("name", ["http", "grpc", "metrics"])
def test_a_port_that_is_asked_for_and_taken_is_refused(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"backend.{name}_port={port}: cannot listen there"):
            choose("127.0.0.1", Ports(**{name: port}))


def test_the_same_port_twice_is_refused() -> None:
    free = choose("127.0.0.1", Ports()).http
    with pytest.raises(UserError, match=f"backend.grpc_port={free}"):
        choose("127.0.0.1", Ports(http=free, grpc=free))


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_no_interface_is_refused_by_its_name(host: str) -> None:
    with pytest.raises(UserError, match=rf"^backend.triton_host={host}: cannot listen there \(.+\); must be"):
        choose(host, Ports())
