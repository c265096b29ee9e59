"""The app behind a balancer that answers for all replicas, and holds the requests that come while none is ready."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from launcher.asgi.errors import ApiError
from launcher.asgi.responses import error_response
from launcher.backends.balancer import NO_REPLICA, RETRY_AFTER_S

REPLICA_TIMEOUT_S = 60.0
"""How long a request waits for a replica. A client with five attempts then outlasts most replacements."""
POLL_INTERVAL_S = 0.05


class ReplicaStatus(ABC):
    """Answers for the replicas together."""

    def app(self) -> Starlette:
        """Return the app that answers ``/health`` and ``/metrics``, and holds all other requests."""
        routes = [Route(f"/health{end}", self.health) for end in ("", "/")]
        routes += [Route(f"/metrics{end}", self.metrics) for end in ("", "/")]
        return Starlette(routes=[*routes, Route("/{path:path}", self.wait, methods=["GET", "POST"])])

    async def wait(self, request: Request) -> Response:
        """Hold a request until a replica is ready; HAProxy then sends it again because of the status 503."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REPLICA_TIMEOUT_S):
                while not self.has_replica():
                    await asyncio.sleep(POLL_INTERVAL_S)
        return no_replica()

    @abstractmethod
    def has_replica(self) -> bool:
        """Tell whether a replica can answer now."""

    @abstractmethod
    async def health(self, request: Request) -> Response:
        """Return the state of the replicas."""

    @abstractmethod
    async def metrics(self, request: Request) -> Response:
        """Return the sum of the replicas' metrics."""


def no_replica() -> Response:
    """Return the answer while no replica is ready."""
    return error_response(ApiError(503, NO_REPLICA, code="no_replica", headers={"Retry-After": str(RETRY_AFTER_S)}))
