"""The servers under contract.

To test another backend or engine, add it to `SERVERS` with a name and its command line. Each server is a separate
process, isolated from the models of other tests. It starts once per session, at its first use.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from launcher.core.types import Endpoint
from tests.api.tool_model import tool_tokenizer

ROOT = Path(__file__).parents[3]
START_S = 180
STOP_S = 60
ECHO = ("engine=echo", "engine.context_length=1024", "model=none", "model.name=echo")
MEGATRON = ("engine=megatron", "model=tiny")

SERVERS: dict[str, tuple[str, ...]] = {
    f"{backend}-{engine[0].removeprefix('engine=')}": (f"backend={backend}", *engine)
    for backend in ("inline", "pytriton", "ray")
    for engine in (ECHO, MEGATRON)
}


class Fleet:
    """Servers by name, each started when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, tuple[subprocess.Popen[bytes], Endpoint]] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def get(self, name: str) -> Endpoint:
        if name not in self._running:
            self._running[name] = self._start(name)
        process, endpoint = self._running[name]
        assert process.poll() is None, f"{name} ended with status {process.returncode}; see {self._folder / name}"
        return endpoint

    def _start(self, name: str) -> tuple[subprocess.Popen[bytes], Endpoint]:
        folder = self._folder / name
        assert not folder.exists(), f"{name} did not start before; see {folder / 'said'}"
        folder.mkdir()
        choices = (*SERVERS[name], *self._tokenizer(name), "mode=serve", f"hydra.run.dir={folder}")
        with (folder / "said").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "launch.py"), *choices], cwd=folder, stdout=said, stderr=said
            )
        self._processes.append(process)
        deadline = time.monotonic() + START_S
        while not (folder / "endpoint.json").exists():
            assert process.poll() is None, (folder / "said").read_text()
            assert time.monotonic() < deadline, (folder / "said").read_text()
            time.sleep(0.05)
        found = json.loads((folder / "endpoint.json").read_text())
        backend, engine = name.split("-")
        return process, Endpoint(found["url"], found["model"], backend, engine)

    def _tokenizer(self, name: str) -> tuple[str, ...]:
        """Return the choice of a tokenizer whose template knows tools, for a server with a model."""
        if name.endswith("echo"):
            return ()
        folder = self._folder / "tokenizer"
        return (f"model.tokenizer={folder if folder.exists() else tool_tokenizer(folder)}",)

    def close(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        late = [process.pid for process in self._processes if not _ended(process)]
        assert not late, f"processes that did not end within {STOP_S} s: {late}"


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


@pytest.fixture(scope="package")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("servers"))
    yield fleet
    fleet.close()


@pytest.fixture(params=sorted(SERVERS))
def endpoint(request: pytest.FixtureRequest, fleet: Fleet) -> Endpoint:
    return fleet.get(request.param)


def alike(one: object, other: object) -> bool:
    """Whether two answers are the same, but for what sharing a batch may change of a float."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-4
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


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
        base_url=endpoint.url,
        api_key=endpoint.api_key or "none",
        max_retries=0,
        timeout=60,
        http_client=http,  # type: ignore[arg-type]
    ) as client:
        yield client
