"""A server whose engine fails on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from launcher.backends.pytriton import PyTriton
from launcher.core.admission import REASON, Admission
from launcher.core.types import Endpoint
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment, GenerationRequest, TokenOutput
from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model, Optimizations, Parallelism


class Trouble(EchoAsyncEngine):
    """An echo engine that raises for prompts that begin with ``raise``, and blocks its loop for those with ``block``.

    While it is ``stalled`` it produces no token, like an engine whose step thread hangs; its loop continues.
    ``waiting`` counts the open requests.
    """

    def __init__(self, engine: Echo, model: Model) -> None:
        super().__init__(engine, model)
        self.blocked = threading.Event()
        self.released = threading.Event()
        self.stalled = False
        self.waiting = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        prompt = bytes(token for token in request.prompt if token < 256)
        if prompt.startswith(b"raise"):
            raise RuntimeError("trouble")
        if prompt.startswith(b"block"):
            self.blocked.set()
            self.released.wait(60)
        self.waiting += 1
        try:
            await self._stall()
            async for event in super().generate(request):
                yield event
                await self._stall()
        finally:
            self.waiting -= 1

    async def _stall(self) -> None:
        while self.stalled:
            await asyncio.sleep(0.02)


@dataclass
class Running:
    """A server under test, with its engine and its run folder."""

    endpoint: Endpoint
    engine: Trouble
    folder: Path
    http: httpx.Client

    def complete(self, prompt: str, **body: object) -> httpx.Response:
        asked = {"model": self.endpoint.model, "prompt": prompt, "temperature": 0, "max_tokens": 8} | body
        return self.http.post("/v1/completions", json=asked)

    def kserve(self, text: str) -> httpx.Response:
        """Ask Triton itself, with the token that clients may need."""
        headers = {"triton-access-token": self.triton["access_token"]}
        url = f"http://{self.triton['http']}/v2/models/generate/generate"
        return self.http.post(url, json={"text": text, "max_tokens": 1}, headers=headers)

    @property
    def triton(self) -> dict[str, str]:
        return json.loads((self.folder / "triton.json").read_text())


@contextmanager
def start(folder: Path, backend: PyTriton, **pace: float) -> Iterator[Running]:
    """Serve the troublesome echo, to everybody."""
    model, admission = Model("echo"), Admission()
    echo = Echo(context_length=512, **pace)  # type: ignore[arg-type]
    engine = Trouble(echo, model)

    @contextmanager
    def load(*_: object) -> Iterator[Trouble]:
        try:
            yield engine
        finally:
            engine.close()

    echo.load = load  # type: ignore[method-assign, assignment]
    folder.mkdir(parents=True, exist_ok=True)
    deployment = Deployment(model, echo, Parallelism(), Optimizations(), folder, admission)
    with (
        backend.serve(deployment, allocate()) as endpoint,
        httpx.Client(base_url=endpoint.root, timeout=60, trust_env=False) as http,
    ):
        running = Running(endpoint, engine, folder, http)
        assert running.complete("a").status_code == 503, "only the validator is admitted"
        assert REASON in running.kserve("a").text, "a client of Triton is not admitted either"
        admission.open()
        yield running
