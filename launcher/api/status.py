"""Routes about the server: models, health, readiness, the engine, and metrics."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from launcher.api.service import Service, service_of
from launcher.asgi.errors import ApiError
from launcher.asgi.responses import json_response
from launcher.core.health import DEAD, RESTARTING, Health
from launcher.core.types import Json


async def models(request: Request) -> Response:
    """List the served model once for each of its names."""
    service = service_of(request)
    return json_response({"object": "list", "data": [_card(service, name) for name in service.names]})


async def model(request: Request) -> Response:
    """Describe a model by its name, which may have slashes."""
    service = service_of(request)
    return json_response(_card(service, service.name(request.path_params["name"].rstrip("/"))))


async def health(request: Request) -> Response:
    """Report the engine's counters; 503 while the engine restarts, or after a permanent failure."""
    state = service_of(request).engine.state()
    if state.error is not None:
        raise ApiError(503, state.error, code=RESTARTING if state.restarting else DEAD)
    live: Health = {"status": "live", "engine": asdict(state)}
    return json_response(live)


async def ready(request: Request) -> Response:
    """Answer 200 if the engine produced a token recently or does so now; else 503 with the reason."""
    service = service_of(request)
    problem = await service.readiness.problem()
    if problem is not None:
        raise ApiError(503, problem, code="not_ready")
    return json_response({"status": "ready", "model": service.engine.model})


async def engine(request: Request) -> Response:
    """Describe the engine: parameters, dtype, layout, optimizations as resolved."""
    return json_response(service_of(request).engine.describe())


async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    text = await asyncio.to_thread(service_of(request).metrics.text)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _card(service: Service, name: str) -> Json:
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "launcher",
        "root": service.engine.model,
        "max_model_len": service.engine.context_length,
    }
