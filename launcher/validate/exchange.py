"""What a check sends and gets back: each exchange is kept, so that the certificate can show it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from launcher.core.client import Client
from launcher.core.console import one_line
from launcher.core.errors import Failure, TransportError
from launcher.core.redaction import redact_json
from launcher.core.types import Endpoint, Handler, Json, Request, Response

T = TypeVar("T")

SHOWN = 400
"""The most characters of a request, and of an answer, in the certificate."""


@dataclass
class Exchange:
    """A request and its answer, None as long as there is none."""

    method: str
    path: str
    body: Json = None
    response: Response | None = None
    events: list[Json] = field(default_factory=list)

    @property
    def sent(self) -> str:
        return one_line(f"{self.method} {self.path} {_json(self.body)}".strip(), SHOWN)

    @property
    def received(self) -> str:
        if self.response is None:
            return "no answer"
        shown = self.events if self.response.events is not None else self.response.body
        return one_line(f"HTTP {self.response.status} {_json(shown)}".strip(), SHOWN)


class Asking:
    """Sends requests to an endpoint, and keeps each exchange."""

    def __init__(self, endpoint: Endpoint, client: Client, handler: Handler | None = None) -> None:
        self._endpoint = endpoint
        self._client = client
        self._handler = handler or client
        self.exchanges: list[Exchange] = []

    def fresh(self, *, patient: bool = False) -> Asking:
        """Return one over the same connections that has sent nothing; a patient one waits without a timeout."""
        return Asking(self._endpoint, self._client, self._client.patient() if patient else None)

    async def __call__(self, request: Request) -> tuple[Exchange, Response]:
        """Post to a route of the API. Raises `TransportError`."""
        exchange = self._begin("POST", request.path, request.body)
        exchange.response = response = await _patient(lambda: self._handler(request))
        if response.events is not None:
            async for event in response.events:
                exchange.events.append(event)
        return exchange, response

    async def post(self, route: str, body: Mapping[str, Json]) -> Response:
        """Post to a route below the server's root, such as ``/tokenize``. Raises `TransportError`."""
        exchange = self._begin("POST", route, body)
        exchange.response = await _patient(lambda: self._client.post(f"{self._endpoint.root}{route}", body))
        return exchange.response

    async def get(self, route: str) -> Response:
        """Get a route below the server's root. Raises `TransportError`."""
        exchange = self._begin("GET", route)
        exchange.response = await _patient(lambda: self._client.get(f"{self._endpoint.root}{route}"))
        return exchange.response

    def _begin(self, method: str, path: str, body: Json = None) -> Exchange:
        self.exchanges.append(Exchange(method, path, body))
        return self.exchanges[-1]


async def _patient(send: Callable[[], Awaitable[Response]]) -> Response:
    """Send, and once more if the connection was lost: some servers close one after an error that they answered."""
    try:
        return await send()
    except TransportError as error:
        if error.failure is not Failure.connection:
            raise
    return await send()


async def together(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of calls that run at the same time; the first failure ends the others and is raised."""
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _json(value: Json) -> str:
    return "" if value is None else json.dumps(redact_json(value), ensure_ascii=False)
