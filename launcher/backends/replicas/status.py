"""Health and metrics of all replicas together, and the requests that come while no replica is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from launcher.asgi.errors import ApiError
from launcher.asgi.responses import error_response, json_response
from launcher.backends.balancer import NO_REPLICA, RETRY_AFTER_S
from launcher.backends.merged_metrics import merge
from launcher.backends.replicas.replica import Replica, Service
from launcher.core.connections import Connections
from launcher.core.errors import HttpError
from launcher.core.health import Health, ReplicaHealth
from launcher.core.http import Answer, exchange, netloc

TIMEOUT_S = 5.0
REPLICA_TIMEOUT_S = 60.0
"""How long a request waits for a replica."""
POLL_INTERVAL_S = 0.05
LOSSES = 16
"""How many of the last losses are reported."""


class Status:
    """Answers for the replicas together."""

    def __init__(self, replicas: Sequence[Replica], service: Service) -> None:
        self._replicas, self._service = replicas, service

    def app(self) -> Starlette:
        """Return the app that answers ``/health`` and ``/metrics``, and holds all other requests."""
        routes = [Route(f"/health{end}", self.health) for end in ("", "/")]
        routes += [Route(f"/metrics{end}", self.metrics) for end in ("", "/")]
        return Starlette(routes=[*routes, Route("/{path:path}", self.wait, methods=["GET", "POST"])])

    async def wait(self, request: Request) -> Response:
        """Hold a request until a replica is ready; HAProxy then sends it again because of the status 503."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REPLICA_TIMEOUT_S):
                while not self._ready():
                    await asyncio.sleep(POLL_INTERVAL_S)
        return _no_replica()

    async def health(self, request: Request) -> Response:
        """Return the state of each replica, and the last losses; an error while none is ready."""
        if not (ready := self._ready()):
            return _no_replica()
        sessions = self._service.balancer.sessions() or {}
        answer: Health = {
            "status": "live" if len(ready) == len(self._replicas) else "replacing",
            "engine": {},
            "replicas": [_described(each, sessions.get(each.slot or 0, 0)) for each in self._replicas],
            "wanted": len(self._replicas),
            "lost": self._service.losses[-LOSSES:],
        }
        return json_response(answer)

    async def metrics(self, request: Request) -> Response:
        """Return the sum of the replicas' metrics; the refusal of one that refuses."""
        sent = {name: value for name, value in request.headers.items() if name == "authorization"}
        async with Connections() as connections:
            asked = [_metrics(connections, replica, sent) for replica in self._ready()]
            answers = [answer for answer in await asyncio.gather(*asked) if answer is not None]
        if refused := [answer for answer in answers if answer.status != 200]:
            return Response(refused[0].body, refused[0].status)
        if not answers:
            return _no_replica()
        return Response(merge([answer.body.decode() for answer in answers]), media_type=CONTENT_TYPE_LATEST)

    def _ready(self) -> list[Replica]:
        return [replica for replica in self._replicas if replica.is_ready and self._service.opened.is_set()]


def _described(replica: Replica, requests: int) -> ReplicaHealth:
    """Return the line of a replica; how it generates stands in its own metrics."""
    return {
        "id": str(replica.number + 1),
        "pid": replica.pid,
        "node": "localhost",
        "state": replica.state,
        "requests": requests,
        "running": 0,
        "queued": 0,
        "generated_tokens": 0,
        "tokens_per_s": 0.0,
    }


async def _metrics(connections: Connections, replica: Replica, headers: dict[str, str]) -> Answer | None:
    assert replica.address is not None
    with suppress(HttpError):
        url = f"http://{netloc(*replica.address)}/metrics"
        return await exchange(connections, "GET", url, timeout_s=TIMEOUT_S, headers=headers, max_bytes=2**26)
    return None


def _no_replica() -> Response:
    return error_response(ApiError(503, NO_REPLICA, code="no_replica", headers={"Retry-After": str(RETRY_AFTER_S)}))
