"""What every route needs: the engine, and what is known about it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from launcher.api.errors import unknown_model
from launcher.api.metrics import Metrics
from launcher.api.ready import Readiness
from launcher.engines.base import Runner


@dataclass(frozen=True)
class Service:
    """One app's engine with its metrics. ``created`` is when it was started, in seconds since 1970."""

    runner: Runner
    metrics: Metrics
    readiness: Readiness
    created: int
    log: logging.Logger

    def check_model(self, name: str | None) -> None:
        """Raise `ApiError` 404 for any model but the served one; None is whatever is served."""
        if name not in (None, self.runner.model):
            raise unknown_model(str(name), [self.runner.model])


def service_of(request: Request) -> Service:
    return cast(Service, request.app.state.service)
