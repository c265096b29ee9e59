"""Shared-secret middleware: a replica answers only requests of its run's HAProxy and driver."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from launcher.asgi.errors import ApiError
from launcher.asgi.responses import error_response

HEADER = "x-launcher-run"
"""HAProxy replaces any value that a client sends."""


class SharedSecret:
    """ASGI middleware that answers 403 to requests without the secret."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = Headers(scope=scope).get(HEADER, "").encode("latin-1") if scope["type"] == "http" else b""
        if scope["type"] != "http" or hmac.compare_digest(sent, self._secret):
            return await self._app(scope, receive, send)
        error = ApiError(403, "a replica answers only through its run's endpoint", code="not_the_endpoint")
        return await error_response(error)(scope, receive, send)
