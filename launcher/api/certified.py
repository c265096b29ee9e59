"""Keeps everybody but the validator out of a server that has no valid certificate yet."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from launcher.api.encode import refuse
from launcher.api.errors import ApiError
from launcher.core.admission import ALWAYS_OPEN, CODE, REASON, RETRY_AFTER_S, Admission
from launcher.core.types import VALIDATOR_HEADER


class Certified:
    """ASGI middleware that answers 503 with ``Retry-After`` until ``admission`` is open.

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
        return await refuse(error)(scope, receive, send)

    def _passes(self, scope: Scope) -> bool:
        if scope["path"].rstrip("/") in ALWAYS_OPEN:
            return True
        sent = Headers(scope=scope).get(VALIDATOR_HEADER, "")
        return hmac.compare_digest(sent.encode("latin-1"), self._token)
