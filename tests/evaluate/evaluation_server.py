"""A server on loopback that is told what to answer, and tasks held in memory.

``python evaluation_server.py PORT`` is one that answers with the prompt; at the prompt "dies", its process ends, and
at SIGTERM it says so.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from aiohttp import web

from launcher.core.types import Ask, Endpoint, Json, Record, Request, Response, Sample, Score, Status
from launcher.stats.metric import Metric
from launcher.tasks.base import Task

Answer = Callable[[Json, web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    """A running server: where it is, the bodies it was asked, and how many of those at the same time."""

    url: str
    runner: web.AppRunner
    asked: list[Json] = field(default_factory=list)
    now: int = 0
    most: int = 0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.url, "m", "external", "none")

    @property
    def prompts(self) -> list[str]:
        return [body["prompt"] for body in self.asked]


def said(text: Json, finish: str = "stop", **more: Json) -> web.Response:
    choice = {"index": 0, "text": text, "finish_reason": finish}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return web.json_response({"choices": [choice], "usage": usage, **more})


async def echo(body: Json, request: web.Request) -> web.Response:
    """Answer with the prompt."""
    return said(body["prompt"])


@asynccontextmanager
async def serving(
    answer: Answer = echo,
    health: int = 200,
    port: int = 0,
    alive: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None,
    models: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None,
) -> AsyncIterator[Server]:
    """Serve until the block ends; a request in flight is cut off then."""
    app = web.Application()
    runner = web.AppRunner(app, shutdown_timeout=0.01)

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        server.asked.append(body)
        server.now += 1
        server.most = max(server.most, server.now)
        try:
            return await answer(body, request)
        finally:
            server.now -= 1

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(status=health)

    app.router.add_post("/v1/{rest:.*}", handle)

    async def one_model(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    app.router.add_get("/v1/models", models or one_model)
    app.router.add_get("/health", alive or healthy)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    server = Server(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", runner)
    try:
        yield server
    finally:
        await runner.cleanup()


@dataclass
class Echoes(Task):
    """Asks for the texts "0", "1", ...; an answer that is the prompt is right."""

    count: int = 5
    made: int = 0
    knows_size: bool = True
    metrics: ClassVar[Sequence[Metric]] = (Metric("exact_match"),)

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        for i in range(self.count):
            self.made += 1
            yield Sample(name, str(i), (Request("/v1/completions", {"model": model, "prompt": str(i)}),), str(i))

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        text = responses[0].body["choices"][0]["text"]
        return Score(Status.scored, text, {"exact_match": float(text == sample.target)})

    def size(self) -> int | None:
        return self.count if self.knows_size else None


@dataclass
class Watch:
    """A `Progress` that remembers, and sets an event after so many samples."""

    after: int = 10**9
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    records: list[Record] = field(default_factory=list)
    begun: tuple[int | None, int] | None = None
    ended: bool = False
    paused_s: list[tuple[float, str]] = field(default_factory=list)
    resumed_s: list[float] = field(default_factory=list)
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    spent: Callable[[], str] = str

    def started(self, totals: Mapping[str, int | None], done: int) -> None:
        self.begun = (None if None in totals.values() else sum(size or 0 for size in totals.values()), done)

    def measured(self, speed: Callable[[], Mapping[str, Json]]) -> None:
        pass

    def metered(self, describe: Callable[[], str]) -> None:
        self.spent = describe

    def advanced(self, record: Record) -> None:
        self.records.append(record)
        if len(self.records) >= self.after:
            self.reached.set()

    def corrected(self, record: Record) -> None:
        self.records = [record if one.key == record.key else one for one in self.records]

    def paused(self, seconds: float, reason: str) -> None:
        self.paused_s.append((seconds, reason))
        self.holding.set()

    def resumed(self, seconds: float) -> None:
        self.resumed_s.append(seconds)
        self.holding.clear()

    def finished(self) -> None:
        self.ended = True


async def _main(port: int) -> None:
    async def answer(body: Json, request: web.Request) -> web.Response:
        if body["prompt"] == "dies":
            os._exit(1)
        await asyncio.sleep(0.01)
        return said(body["prompt"])

    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with serving(answer, port=port):
        await ended.wait()
    print("ended in order", flush=True)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
