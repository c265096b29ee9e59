"""An endpoint beside the run's own, which tasks may ask while they score: its client, adapters and pauses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from launcher.adapters.base import Adapter
from launcher.adapters.chain import all_running, pipeline
from launcher.core.client import Client
from launcher.core.errors import ServerAway, TransportError
from launcher.core.responses import checking
from launcher.core.types import GATEWAY, Endpoint, Handler, Health, Json, Pause, Request, Response
from launcher.evaluate.breaker import CircuitBreaker, NoHealthProbes, ServerGone
from launcher.evaluate.progress import PauseDisplay
from launcher.evaluate.queue import MAX_OUTAGES

PROBE_CONNECTIONS = 1
"""A connection beside those of the requests, for the breaker's plain request."""


@dataclass(frozen=True)
class SecondEndpoint:
    """An endpoint that tasks know by ``name``, and how it is asked.

    ``folder`` is for the files of its adapters, ``deployment`` what they may know of the server, ``health`` what is
    known of how it is.
    """

    name: str
    endpoint: Endpoint
    folder: Path
    adapters: Sequence[Adapter] = ()
    concurrency: int = 16
    timeout_s: float = 600.0
    max_answer_mb: float = 64.0
    max_pause_s: float = 600.0
    deployment: Mapping[str, Json] | None = None
    health: Health = field(default_factory=NoHealthProbes)


@dataclass(frozen=True)
class Connection:
    """A `SecondEndpoint` that can be asked: ``handler`` for requests, and the name of its ``model``.

    `guard` runs beside the requests. ``pauses`` says when it was away.
    """

    name: str
    model: str
    handler: Handler
    breaker: CircuitBreaker | None = None

    async def guard(self) -> None:
        """Pause while the server is away. Raises `ServerGone`, which names the endpoint."""
        try:
            if self.breaker is not None:
                await self.breaker.guard()
        except ServerGone as gone:
            raise ServerGone(f"the {self.name}: {gone}") from None

    @property
    def pauses(self) -> list[Pause]:
        found = self.breaker.pauses if self.breaker is not None else []
        return [replace(pause, reason=f"the {self.name}: {pause.reason}") for pause in found]


@asynccontextmanager
async def connected(
    second: SecondEndpoint | None, progress: PauseDisplay, metered: Callable[[Handler, str], Handler]
) -> AsyncIterator[Mapping[str, Connection]]:
    """Yield the connection to an endpoint by its name; without one, an empty mapping.

    ``metered`` returns a handler that counts what answers of the endpoint of a name cost.
    """
    if second is None:
        yield {}
        return
    async with (
        Client(
            second.endpoint,
            timeout_s=second.timeout_s,
            concurrency=second.concurrency + PROBE_CONNECTIONS,
            max_bytes=int(second.max_answer_mb * 2**20),
        ) as client,
        all_running(second.adapters, second.folder, second.deployment) as failures,
    ):
        model, told = second.endpoint.model, _NamedProgress(progress, second.name)
        breaker = CircuitBreaker(
            metered(client, second.name), client.patient(), model, second.health, second.max_pause_s, told
        )
        handler = _limited(pipeline(second.adapters, checking(breaker), failures), second.concurrency)
        yield {second.name: Connection(second.name, model, _asked_again(handler, breaker), breaker)}


def _limited(handler: Handler, concurrency: int) -> Handler:
    """Return a handler that has at most so many requests in flight."""
    slots = asyncio.Semaphore(concurrency)

    async def handle(request: Request) -> Response:
        async with slots:
            return await handler(request)

    return handle


def _asked_again(handler: Handler, breaker: CircuitBreaker) -> Handler:
    """Return a handler that sends a request again after an outage, at most `MAX_OUTAGES` times in all.

    The sample that is scored has its answers already: only this request is to be repeated.
    """

    async def handle(request: Request) -> Response:
        for _ in range(MAX_OUTAGES - 1):
            response = await _attempt(handler, breaker, request)
            if response is not None:
                breaker.progressed()
                return response
            await breaker.closed()
        return await handler(request)

    return handle


async def _attempt(handler: Handler, breaker: CircuitBreaker, request: Request) -> Response | None:
    """Return the answer; None where an outage of the server is why there is none."""
    began = time.monotonic()
    try:
        response = await handler(request)
    except ServerAway:
        return None
    except TransportError:
        if await breaker.outage(request.path, began):
            return None
        raise
    lost = response.status in GATEWAY and await breaker.outage(request.path, began)
    return None if lost else response


@dataclass(frozen=True)
class _NamedProgress:
    """Tells of the pauses of an endpoint by its name."""

    progress: PauseDisplay
    name: str

    def paused(self, seconds: float, reason: str) -> None:
        self.progress.paused(seconds, f"the {self.name}: {reason}")

    def resumed(self, seconds: float) -> None:
        self.progress.resumed(seconds)
