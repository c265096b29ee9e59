"""The FastAPI app that serves one engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from launcher import __version__
from launcher.api import chat, completions, replies, status, tokens
from launcher.api.access import Access
from launcher.api.auth import Auth
from launcher.api.browsers import allowed
from launcher.api.certified import Certified
from launcher.api.description import Operation, described
from launcher.api.encode import refuse, respond
from launcher.api.errors import ApiError, clipped, from_engine, internal
from launcher.api.front import Front
from launcher.api.metrics import Metrics
from launcher.api.ready import Readiness
from launcher.api.schema import ChatRequest, CompletionRequest, ReferenceRequest, TokenizeRequest, TokensRequest
from launcher.api.service import Service
from launcher.core.admission import Admission
from launcher.core.errors import EngineUnavailable, QueueFull
from launcher.core.tokenizer import TextRefused
from launcher.engines.base import AsyncEngine

LOG = logging.getLogger("launcher.server")


def create_app(
    runner: AsyncEngine,
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
    app = FastAPI(title="launcher", version=__version__, openapi_url=None, redirect_slashes=False)
    metrics = Metrics(runner, more_metrics)
    app.state.service = Service(runner, metrics, Readiness(runner, ready_timeout_s), int(time.time()), log, front)
    _add_routes(app, keyed=front.api_key is not None)
    for kind in (ApiError, HTTPException, QueueFull, EngineUnavailable, TextRefused):
        app.add_exception_handler(kind, _refuse)
    if front.api_key is not None:
        app.add_middleware(Auth, api_key=front.api_key)
    if admission is not None:
        app.add_middleware(Certified, admission=admission)
    app.add_middleware(Access, metrics=metrics, log=log)
    if front.cors_origins:
        app.add_middleware(CORSMiddleware, **allowed(front.cors_origins))
    return app


def _add_routes(app: FastAPI, *, keyed: bool) -> None:
    document = described(OPERATIONS, keyed=keyed)

    async def openapi(request: Request) -> Response:
        return respond(document)

    for operation in OPERATIONS:
        methods = ["POST"] if operation.method == "post" else ["GET", "HEAD"]
        for path in (operation.path, f"{operation.path}/"):
            app.add_api_route(path, operation.endpoint, methods=methods)
    app.add_api_route("/openapi.json", openapi, methods=["GET", "HEAD"])


OPERATIONS = (
    Operation(
        "post", "/v1/completions", completions.create_completion, replies.Completion, CompletionRequest,
        event=replies.Completion, errors=(429,),
    ),
    Operation(
        "post", "/v1/chat/completions", chat.create_chat_completion, replies.ChatCompletion, ChatRequest,
        event=replies.ChatCompletionChunk, errors=(429,),
    ),
    Operation("post", "/tokenize", tokens.tokenize, replies.Tokenization, TokenizeRequest),
    Operation("post", "/detokenize", tokens.detokenize, replies.Detokenization, TokensRequest),
    Operation(
        "post", "/reference_logprobs", tokens.reference_logprobs, replies.ReferenceLogprobs, ReferenceRequest,
        errors=(501,),
    ),
    Operation("get", "/health", status.health, replies.Health, open=True),
    Operation("get", "/ready", status.ready, replies.Ready, open=True),
    Operation("get", "/engine", status.engine, replies.Engine),
    Operation("get", "/metrics", status.metrics, media=CONTENT_TYPE_LATEST.partition(";")[0]),
    Operation("get", "/tokenizer_info", tokens.tokenizer_info, replies.TokenizerInfo),
    Operation("get", "/v1/models", status.models, replies.ModelList),
    Operation("get", "/v1/models/{name:path}", status.model, replies.ModelCard, errors=(404,)),
)  # fmt: skip
"""All routes but ``/openapi.json``; each answers with a trailing slash, too, and ``GET`` also to ``HEAD``."""


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        return refuse(error)
    if isinstance(error, HTTPException):
        message = f"{request.method} {clipped(request.url.path)}: {error.detail}"
        return refuse(ApiError(error.status_code, message, headers=error.headers or {}))
    return refuse(from_engine(error) or internal(error))
