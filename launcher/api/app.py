"""The FastAPI app that serves one engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from launcher import __version__
from launcher.api import chat, completions, status, tokens
from launcher.api.access import Access
from launcher.api.admission import Admission
from launcher.api.auth import Auth
from launcher.api.browsers import allowed
from launcher.api.certified import Certified
from launcher.api.encode import refuse
from launcher.api.errors import ApiError, clipped, from_engine, internal
from launcher.api.front import Front
from launcher.api.metrics import Metrics
from launcher.api.ready import Readiness
from launcher.api.schema import (
    ChatRequest,
    CompletionRequest,
    ReferenceRequest,
    TokenizeRequest,
    TokensRequest,
)
from launcher.api.service import Service
from launcher.engines.base import Runner
from launcher.errors import EngineUnavailable, QueueFull

LOG = logging.getLogger("launcher.server")
Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(
    runner: Runner,
    *,
    front: Front = Front(),
    admission: Admission | None = None,
    ready_timeout_s: float = 60.0,
    log: logging.Logger = LOG,
    more_metrics: Callable[[], bytes] = bytes,
) -> FastAPI:
    """Return an OpenAI-compatible app over ``runner``.

    Until ``admission`` is open only the validator is answered; without one everybody is. ``ready_timeout_s`` bounds the
    one-token probe behind ``/ready``. ``log`` receives one line per request, with neither bodies nor headers.
    ``more_metrics`` returns what ``/metrics`` shows besides, in Prometheus' text format; it is called in a thread.
    """
    app = FastAPI(title="launcher", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    metrics = Metrics(runner, more_metrics)
    app.state.service = Service(runner, metrics, Readiness(runner, ready_timeout_s), int(time.time()), log, front)
    _add_routes(app)
    for kind in (ApiError, HTTPException, QueueFull, EngineUnavailable):
        app.add_exception_handler(kind, _refuse)
    if front.api_key is not None:
        app.add_middleware(Auth, api_key=front.api_key)
    if admission is not None:
        app.add_middleware(Certified, admission=admission)
    app.add_middleware(Access, metrics=metrics, log=log)
    if front.cors_origins:
        app.add_middleware(CORSMiddleware, **allowed(front.cors_origins))
    return app


def _add_routes(app: FastAPI) -> None:
    _post(app, "/v1/completions", completions.create_completion, CompletionRequest)
    _post(app, "/v1/chat/completions", chat.create_chat_completion, ChatRequest)
    _post(app, "/tokenize", tokens.tokenize, TokenizeRequest)
    _post(app, "/detokenize", tokens.detokenize, TokensRequest)
    _post(app, "/reference_logprobs", tokens.reference_logprobs, ReferenceRequest)
    _get(app, "/health", status.health)
    _get(app, "/ready", status.ready)
    _get(app, "/engine", status.engine)
    _get(app, "/metrics", status.metrics)
    _get(app, "/tokenizer_info", tokens.tokenizer_info)
    _get(app, "/v1/models", status.models)
    _get(app, "/v1/models/{name:path}", status.model)


def _post(app: FastAPI, path: str, endpoint: Endpoint, schema: type[BaseModel]) -> None:
    content = {"application/json": {"schema": schema.model_json_schema()}}
    described = {"requestBody": {"required": True, "content": content}}
    app.add_api_route(path, endpoint, methods=["POST"], openapi_extra=described)
    app.add_api_route(f"{path}/", endpoint, methods=["POST"], include_in_schema=False)


def _get(app: FastAPI, path: str, endpoint: Endpoint) -> None:
    app.add_api_route(path, endpoint, methods=["GET"])
    app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    app.add_api_route(f"{path}/", endpoint, methods=["GET", "HEAD"], include_in_schema=False)


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        return refuse(error)
    if isinstance(error, HTTPException):
        message = f"{request.method} {clipped(request.url.path)}: {error.detail}"
        return refuse(ApiError(error.status_code, message, headers=error.headers or {}))
    return refuse(from_engine(error) or internal(error))
