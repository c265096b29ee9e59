"""Health and metrics of all replicas together, and the requests that come while no replica is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from launcher.asgi.responses import json_response
from launcher.backends.merged_metrics import merge
from launcher.backends.replica_status import ReplicaStatus, no_replica
from launcher.backends.replicas.replica import Replica, Service
from launcher.core.connections import Connections
from launcher.core.errors import HttpError
from launcher.core.health import Health, ReplicaHealth
from launcher.core.http import Answer, exchange, netloc

TIMEOUT_S = 5.0
LOSSES = 16
"""How many of the last losses are reported."""


class Status(ReplicaStatus):
    """Answers for the replicas together."""

    def __init__(self, replicas: Sequence[Replica], service: Service) -> None:
        self._replicas, self._service = replicas, service

    def has_replica(self) -> bool:
        return bool(self._ready())

    async def health(self, request: Request) -> Response:
        """Return the state of each replica, and the last losses; an error while none is ready."""
        if not (ready := self._ready()):
            return no_replica()
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
            return no_replica()
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
