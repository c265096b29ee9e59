"""What every route needs: the engine, and what is known about it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from launcher.api.body import Schema, read
from launcher.api.errors import unknown_model
from launcher.api.front import Front
from launcher.api.metrics import Metrics
from launcher.api.ready import Readiness
from launcher.engines.base import AsyncEngine


@dataclass(frozen=True)
class Service:
    """One app's engine with its metrics. ``created`` is when it was started, in seconds since 1970."""

    runner: AsyncEngine
    metrics: Metrics
    readiness: Readiness
    created: int
    log: logging.Logger
    front: Front = Front()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the model: its own first, then its aliases."""
        return tuple(dict.fromkeys((self.runner.model, *self.front.aliases)))

    def name(self, asked: str | None) -> str:
        """Return the name by which an answer calls the model: the one that was asked for, None is its own.

        Raises `ApiError` 404 for any other.
        """
        if asked is None:
            return self.runner.model
        if asked not in self.names:
            raise unknown_model(asked, self.names)
        return asked

    async def read(self, request: Request, schema: type[Schema]) -> Schema:
        """Read the body of a request. Raises `ApiError`."""
        return await read(request, schema, self.front.limits.body_bytes)


def service_of(request: Request) -> Service:
    return cast(Service, request.app.state.service)
