"""A bearer token in front of every route but the health checks."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from launcher.api.encode import refuse
from launcher.api.errors import ApiError

OPEN = frozenset({"/health", "/ready"})


class Auth:
    """ASGI middleware that answers 401 unless the request has ``Authorization: Bearer <api_key>``."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].rstrip("/") in OPEN or self._allowed(scope):
            return await self._app(scope, receive, send)
        error = ApiError(
            401,
            "the API key is missing or wrong; send it as 'Authorization: Bearer <key>'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        return await refuse(error)(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        sent = Headers(scope=scope).get("authorization", "")
        return hmac.compare_digest(sent.encode("latin-1"), self._expected)
