"""The servers under contract.

To put another backend or engine under the same tests, add a line to `SERVERS`: a name, and a function that says what to
deploy or skips. Each server starts once per session, when first asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
import pytest

from launcher.allocation import allocate
from launcher.backends.base import Backend, Deployment
from launcher.backends.inline import Inline
from launcher.core import Endpoint, resolve
from launcher.engines.base import Engine
from launcher.engines.echo import Echo
from launcher.model import Model, Optimizations, Parallelism

TINY = "package:launcher/assets/tiny"


def echo() -> tuple[Backend, Engine, Model]:
    return Inline(), Echo(context_length=1024), Model("echo")


def megatron() -> tuple[Backend, Engine, Model]:
    pytest.importorskip("megatron.core")
    if not resolve(TINY).exists():
        pytest.skip("the tiny model is not in this checkout")
    from launcher.engines.megatron import Megatron

    return Inline(), Megatron(), Model("tiny", TINY)


def pytriton(behind: Callable[[], tuple[Backend, Engine, Model]]) -> tuple[Backend, Engine, Model]:
    pytest.importorskip("pytriton")
    from launcher.backends.pytriton import PyTriton

    _, engine, model = behind()
    return PyTriton(), engine, model


def ray(behind: Callable[[], tuple[Backend, Engine, Model]]) -> tuple[Backend, Engine, Model]:
    pytest.importorskip("ray")
    from launcher.backends.ray import Ray

    _, engine, model = behind()
    return Ray(), engine, model


SERVERS: dict[str, Callable[[], tuple[Backend, Engine, Model]]] = {
    "inline-echo": echo,
    "inline-megatron": megatron,
    "pytriton-echo": lambda: pytriton(echo),
    "pytriton-megatron": lambda: pytriton(megatron),
    "ray-echo": lambda: ray(echo),
    "ray-megatron": lambda: ray(megatron),
}


class Fleet:
    """Servers by name, each started when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._running: dict[str, Endpoint] = {}

    def get(self, name: str) -> Endpoint:
        if name not in self._running:
            backend, engine, model = SERVERS[name]()
            deployment = Deployment(model, engine, Parallelism(), Optimizations(), self._folder / name)
            self._running[name] = self._stack.enter_context(backend.serve(deployment, allocate()))
        return self._running[name]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("servers"))
    yield fleet
    fleet.close()


@pytest.fixture(params=sorted(SERVERS))
def endpoint(request: pytest.FixtureRequest, fleet: Fleet) -> Endpoint:
    return fleet.get(request.param)


class Api:
    """Raw HTTP to an endpoint, with the model's name filled in."""

    def __init__(self, endpoint: Endpoint, http: httpx.AsyncClient) -> None:
        self.endpoint = endpoint
        self.http = http

    async def post(self, path: str, **body: object) -> httpx.Response:
        return await self.http.post(path, json={"model": self.endpoint.model} | body)

    async def complete(self, prompt: object = "12+34=", **body: object) -> dict:
        """Return the completion; greedy and short unless ``body`` says otherwise."""
        answer = await self.post("/v1/completions", **({"prompt": prompt, "temperature": 0, "max_tokens": 8} | body))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def tokens(self, text: str) -> list[int]:
        return (await self.post("/tokenize", prompt=text)).json()["tokens"]

    async def state(self) -> dict:
        return (await self.http.get("/health")).json()["engine"]

    async def context_length(self) -> int:
        return (await self.http.get("/v1/models")).json()["data"][0]["max_model_len"]


@pytest.fixture
async def api(endpoint: Endpoint) -> AsyncIterator[Api]:
    headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    async with httpx.AsyncClient(base_url=endpoint.root, headers=headers, timeout=60, trust_env=False) as http:
        yield Api(endpoint, http)


@pytest.fixture
async def sdk(endpoint: Endpoint) -> AsyncIterator[openai.AsyncOpenAI]:
    http = httpx.AsyncClient(trust_env=False)
    async with openai.AsyncOpenAI(
        base_url=endpoint.url, api_key=endpoint.api_key or "none", max_retries=0, timeout=60, http_client=http
    ) as client:
        yield client
