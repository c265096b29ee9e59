"""The FastAPI app that serves one engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from launcher import __version__
from launcher.api import chat, completions, status, tokenization
from launcher.api import response_schema as responses
from launcher.api.metrics import Metrics
from launcher.api.openapi import Operation, openapi_document
from launcher.api.request_schema import ChatRequest, CompletionRequest, ReferenceRequest, TokenizeRequest, TokensRequest
from launcher.api.service import Readiness, Service
from launcher.asgi.config import FrontendConfig
from launcher.asgi.errors import ApiError, clipped, from_engine, internal
from launcher.asgi.middleware import AccessLog, Cors, RequireApiKey, RequireCertificate
from launcher.asgi.responses import error_response, json_response
from launcher.core.admission import Admission
from launcher.core.errors import EngineUnavailable, QueueFull
from launcher.core.tokenizer import TextRefused
from launcher.engines.base import AsyncEngine

LOG = logging.getLogger("launcher.server")


def create_app(
    engine: AsyncEngine,
    *,
    frontend: FrontendConfig = FrontendConfig(),
    admission: Admission | None = None,
    ready_timeout_s: float = 60.0,
    log: logging.Logger = LOG,
    more_metrics: Callable[[], bytes] = bytes,
) -> FastAPI:
    """Return an OpenAI-compatible app over ``engine``.

    Until ``admission`` is open the app answers only the validator; None answers all clients. ``ready_timeout_s`` bounds
    the one-token probe behind ``/ready``. ``log`` receives one line per request, with neither bodies nor headers.
    ``more_metrics`` returns further metrics for ``/metrics``, in Prometheus' text format; it is called in a thread.
    """
    app = FastAPI(title="launcher", version=__version__, openapi_url=None, redirect_slashes=False)
    metrics = Metrics(engine, more_metrics)
    app.state.service = Service(engine, metrics, Readiness(engine, ready_timeout_s), int(time.time()), log, frontend)
    _add_routes(app, keyed=frontend.api_key is not None)
    for kind in (ApiError, HTTPException, QueueFull, EngineUnavailable, TextRefused):
        app.add_exception_handler(kind, _on_error)
    if frontend.api_key is not None:
        app.add_middleware(RequireApiKey, api_key=frontend.api_key)
    if admission is not None:
        app.add_middleware(RequireCertificate, admission=admission)
    app.add_middleware(AccessLog, log=log, on_response=metrics.on_response)
    if frontend.cors_origins:
        app.add_middleware(Cors, origins=frontend.cors_origins)
    return app


def _add_routes(app: FastAPI, *, keyed: bool) -> None:
    document = openapi_document(OPERATIONS, keyed=keyed)

    async def openapi(request: Request) -> Response:
        return json_response(document)

    for operation in OPERATIONS:
        methods = ["POST"] if operation.method == "post" else ["GET", "HEAD"]
        for path in (operation.path, f"{operation.path}/"):
            app.add_api_route(path, operation.endpoint, methods=methods)
    app.add_api_route("/openapi.json", openapi, methods=["GET", "HEAD"])


OPERATIONS = (
    Operation(
        "post", "/v1/completions", completions.create_completion, responses.Completion, CompletionRequest,
        event=responses.Completion, errors=(429,),
    ),
    Operation(
        "post", "/v1/chat/completions", chat.create_chat_completion, responses.ChatCompletion, ChatRequest,
        event=responses.ChatCompletionChunk, errors=(429,),
    ),
    Operation("post", "/tokenize", tokenization.tokenize, responses.Tokenization, TokenizeRequest),
    Operation("post", "/detokenize", tokenization.detokenize, responses.Detokenization, TokensRequest),
    Operation(
        "post", "/reference_logprobs", tokenization.reference_logprobs, responses.ReferenceLogprobs,
        ReferenceRequest, errors=(501,),
    ),
    Operation("get", "/health", status.health, responses.Health, open=True),
    Operation("get", "/ready", status.ready, responses.Ready, open=True),
    Operation("get", "/engine", status.engine, responses.Engine),
    Operation("get", "/metrics", status.metrics, media=CONTENT_TYPE_LATEST.partition(";")[0]),
    Operation("get", "/tokenizer_info", tokenization.tokenizer_info, responses.TokenizerInfo),
    Operation("get", "/v1/models", status.models, responses.ModelList),
    Operation("get", "/v1/models/{name:path}", status.model, responses.ModelCard, errors=(404,)),
)  # fmt: skip
"""All routes but ``/openapi.json``; each answers with a trailing slash, too, and ``GET`` also to ``HEAD``."""


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        return error_response(error)
    if isinstance(error, HTTPException):
        message = f"{request.method} {clipped(request.url.path)}: {error.detail}"
        return error_response(ApiError(error.status_code, message, headers=error.headers or {}))
    return error_response(from_engine(error) or internal(error))
