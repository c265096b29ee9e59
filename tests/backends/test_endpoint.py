"""The URLs of servers, also those with IPv6 addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.backends.base import Backend
from launcher.backends.command import Command
from launcher.backends.endpoint import base_url, planned_url, root_url
from launcher.backends.inline import Inline
from launcher.backends.pytriton import PyTriton
from launcher.backends.ray import Ray
from launcher.core.http import fetch
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment
from launcher.engines.echo import Echo
from launcher.settings.model import Model, Optimizations, Parallelism
from tests.backends.ipv6 import has_ipv6


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("::", "http://[::1]:80"),
        ("fe80::2", "http://[fe80::2]:80"),
        ("node-1", "http://node-1:80"),
    ],
)
def test_the_url_of_a_server_is_one_that_this_machine_reaches(host: str, expected: str) -> None:
    assert root_url(host, 80) == expected
    assert base_url(host, 80) == f"{expected}/v1"


@pytest.mark.parametrize(("port", "shown"), [(0, "<any free port>"), (80, "80")])
def test_a_plan_shows_where_the_server_is_to_listen(port: int, shown: str) -> None:
    assert planned_url("::", port) == f"http://[::]:{shown}/v1"


@pytest.mark.parametrize(
    "backend",
    [
        Inline(host="::1", port=8000),
        PyTriton(host="::1", port=8000),
        Ray(host="::1", port=8000),
        Command("server {port} {host}", host="::1", port=8000),
    ],
    ids=lambda backend: type(backend).__name__,
)
def test_every_backend_plans_an_ipv6_address_in_brackets(backend: Backend, tmp_path: Path) -> None:
    deployment = Deployment(Model("m"), Echo(), Parallelism(), Optimizations(), tmp_path)
    assert backend.plan(deployment, allocate())["server"] == "http://[::1]:8000/v1"


def test_triton_plans_an_ipv6_address_in_brackets(tmp_path: Path) -> None:
    deployment = Deployment(Model("m"), Echo(), Parallelism(), Optimizations(), tmp_path)
    planned = PyTriton(triton_host="::1", grpc_port=8001).plan(deployment, allocate())
    assert planned["triton"]["grpc"] == "[::1]:8001"
    assert planned["triton"]["http"] == "[::1]:<any free port>"


@pytest.mark.parametrize("host", ["::1", "::"])
def test_a_server_answers_on_ipv6(host: str, tmp_path: Path) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    deployment = Deployment(Model("m"), Echo(), Parallelism(), Optimizations(), tmp_path)
    with Inline(host=host).serve(deployment, allocate()) as endpoint:
        assert endpoint.url.startswith("http://[::1]:")
        assert fetch("GET", f"{endpoint.url}/models", timeout_s=30).status == 200
