"""Services that several tests share: each is whole again when a test leaves it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from backends.ray.ray_service import Service, served

from launcher.backends.ray.assignment import Routing
from launcher.engines.echo import Echo
from launcher.model import Model, Parallelism

PROBE_S = 6.0
"""The deadline for a sign of life. Shorter is quicker, but a busy machine must not look like a hang."""


@pytest.fixture(scope="session")
def gangs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two replicas of two ranks."""
    pytest.importorskip("megatron.core")
    from launcher.engines.megatron import Megatron

    folder, model = tmp_path_factory.mktemp("gangs"), Model("tiny", "package:launcher/assets/tiny")
    with served(folder, Megatron(), model, Parallelism(tensor=2), probe_timeout_s=PROBE_S) as service:
        yield service


@pytest.fixture(scope="session")
def echoes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two replicas of an engine without a model; the same beginning of a prompt goes to the same one."""
    folder, engine = tmp_path_factory.mktemp("echoes"), Echo(latency_s=0.1)
    ray = {"probe_timeout_s": PROBE_S, "routing": Routing.prefix}
    with served(folder, engine, Model("echo"), Parallelism(), **ray) as service:
        yield service
