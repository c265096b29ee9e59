"""An app in memory over the echo engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model
from tests.api.runners import client_of


@pytest.fixture
def echo_runner() -> EchoAsyncEngine:
    return EchoAsyncEngine(Echo(), Model("echo"))


@pytest.fixture
async def client(echo_runner: EchoAsyncEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(echo_runner) as client:
        yield client
