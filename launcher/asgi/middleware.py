"""ASGI middleware: access log and request ids, API keys, the certificate, and CORS."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launcher.asgi.errors import ApiError, clipped, internal
from launcher.asgi.responses import Disconnected, error_response
from launcher.core import logs
from launcher.core.admission import ALWAYS_OPEN, CODE, REASON, RETRY_AFTER_S, Admission
from launcher.core.types import VALIDATOR_HEADER

CLIENT_CLOSED_REQUEST = 499
"""The status logged for a client that closed the connection before its answer (nginx's code)."""
REQUEST_ID = "x-request-id"
"""The header by which a client, a proxy and the log call one request; OpenAI's clients show it with an error."""
GOOD_ID = re.compile(r"[!-~]{1,128}")
PUBLIC_PATHS = frozenset({"/health", "/ready"})
"""These need no API key."""

OnResponse = Callable[[str, int, float], None]
"""Receives the route, the status and the seconds of each request."""


class AccessLog:
    """The outermost middleware: gives each request its id, logs its line, and answers unexpected errors.

    A line has method, path, status, milliseconds and id, never a body.
    """

    def __init__(self, app: ASGIApp, log: logging.Logger, on_response: OnResponse) -> None:
        self._app = app
        self._log = log
        self._on_response = on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, response = time.perf_counter(), _ResponseObserver(send, request_id(Headers(scope=scope)))
        logs.bind(request_id=response.id)
        try:
            await self._app(scope, receive, response)
        except (Disconnected, ClientDisconnect):
            response.status = CLIENT_CLOSED_REQUEST
        except Exception as error:
            self._log.exception("%s %s failed", scope["method"], _path(scope))
            if response.status is None:
                await error_response(internal(error))(scope, receive, response)
        finally:
            self._note(scope, response, time.perf_counter() - start)
        return None

    def _note(self, scope: Scope, response: _ResponseObserver, seconds: float) -> None:
        route, status = getattr(scope.get("route"), "path", "unknown"), response.status or CLIENT_CLOSED_REQUEST
        self._on_response(route.rstrip("/"), status, seconds)
        called, extra = (scope["method"], _path(scope), status, seconds * 1e3), {"request_id": response.id}
        self._log.info("%s %s %d %.1f ms", *called, extra=extra)


def request_id(headers: Headers) -> str:
    """Return the id that the client sent if a header and a log line can carry it, else a new one."""
    sent = headers.get(REQUEST_ID, "")
    return sent if GOOD_ID.fullmatch(sent) else new_request_id()


def new_request_id() -> str:
    return f"req_{secrets.token_hex(16)}"


def _path(scope: Scope) -> str:
    """Return the path as it was sent: with percent signs, it has no control characters."""
    return clipped(scope.get("raw_path", b"").decode("ascii", "replace") or repr(scope["path"])[1:-1])


class _ResponseObserver:
    """A ``send`` that adds the request's ``id`` to the response and records its status."""

    def __init__(self, send: Send, id: str) -> None:
        self._send = send
        self.id = id
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            header = (REQUEST_ID.encode(), self.id.encode())
            message = {**message, "headers": [*message.get("headers", ()), header]}
        await self._send(message)


class RequireApiKey:
    """Answers 401 unless the request has ``Authorization: Bearer <api_key>``; `PUBLIC_PATHS` pass without a key."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].rstrip("/") in PUBLIC_PATHS or self._allowed(scope):
            return await self._app(scope, receive, send)
        error = ApiError(
            401,
            "the API key is missing or wrong; send it as 'Authorization: Bearer <key>'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        return await error_response(error)(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        sent = Headers(scope=scope).get("authorization", "")
        return hmac.compare_digest(sent.encode("latin-1"), self._expected)


class RequireCertificate:
    """Answers 503 with ``Retry-After`` until ``admission`` is open.

    The paths of `ALWAYS_OPEN` and requests with the admission's token pass.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission
        self._token = admission.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._admission.is_open or scope["type"] != "http" or self._passes(scope):
            return await self._app(scope, receive, send)
        error = ApiError(503, REASON, code=CODE, headers={"Retry-After": str(RETRY_AFTER_S)})
        return await error_response(error)(scope, receive, send)

    def _passes(self, scope: Scope) -> bool:
        if scope["path"].rstrip("/") in ALWAYS_OPEN:
            return True
        sent = Headers(scope=scope).get(VALIDATOR_HEADER, "")
        return hmac.compare_digest(sent.encode("latin-1"), self._token)


class Cors(CORSMiddleware):
    """Starlette's CORS for pages of ``origins``. It answers a preflight, which never has a key."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=tuple(origins),
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=(REQUEST_ID, "Retry-After"),
            max_age=600,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight with the request's id; a refusal is an error in OpenAI's shape."""
        answer = super().preflight_response(request_headers)
        if answer.status_code >= 400:
            origin, method = request_headers["origin"], request_headers["access-control-request-method"]
            message = (
                f"{clipped(method)} from the origin {clipped(origin)} is not allowed; "
                "expected GET, HEAD or POST from an origin of backend.cors_origins"
            )
            refused = error_response(ApiError(answer.status_code, message, code="cors_refused"))
            kept = [header for header in answer.raw_headers if header[0] not in (b"content-length", b"content-type")]
            refused.raw_headers += kept
            answer = refused
        MutableHeaders(raw=answer.raw_headers)[REQUEST_ID] = request_id(request_headers)
        return answer


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return an app that pages from ``origins`` may call; without any, the app itself."""
    return Cors(app, origins) if origins else app
