"""The access log and the request metrics: method, path, status and milliseconds, never a body."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launcher.api.disconnect import Disconnected
from launcher.api.encode import refuse
from launcher.api.errors import clipped, internal
from launcher.api.metrics import Metrics

GONE = 499
"""The status noted for a client that did not wait for its answer."""


REQUEST_ID = "x-request-id"
"""The header by which a client, a proxy and the log call one request; OpenAI's clients show it with an error."""
GOOD_ID = re.compile(r"[!-~]{1,128}")


class Access:
    """ASGI middleware around everything: it also answers for errors that nobody expected."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: logging.Logger) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, seen = time.perf_counter(), _Answer(send, _id(scope))
        try:
            await self._app(scope, receive, seen)
        except (Disconnected, ClientDisconnect):
            seen.status = GONE
        except Exception as error:
            self._log.exception("%s %s failed %s", scope["method"], _path(scope), seen.id)
            if seen.status is None:
                await refuse(internal(error))(scope, receive, seen)
        finally:
            self._note(scope, seen, time.perf_counter() - start)
        return None

    def _note(self, scope: Scope, seen: _Answer, seconds: float) -> None:
        route, status = getattr(scope.get("route"), "path", "unknown"), seen.status or GONE
        self._metrics.answered(route.rstrip("/"), status, seconds)
        self._log.info("%s %s %d %.1f ms %s", scope["method"], _path(scope), status, seconds * 1e3, seen.id)


def _id(scope: Scope) -> str:
    """Return the client's name for its request if that can stand in a header and a log, else a new one."""
    sent = Headers(scope=scope).get(REQUEST_ID, "")
    return sent if GOOD_ID.fullmatch(sent) else f"req_{secrets.token_hex(16)}"


def _path(scope: Scope) -> str:
    """Return the path as it was sent: with percent signs, it has no control characters."""
    return clipped(scope.get("raw_path", b"").decode("ascii", "replace") or repr(scope["path"])[1:-1])


class _Answer:
    """Puts the request's ``id`` into the answer, and remembers the status that was sent."""

    def __init__(self, send: Send, id: str) -> None:
        self._send = send
        self.id = id
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            named = (REQUEST_ID.encode(), self.id.encode())
            message = {**message, "headers": [*message.get("headers", ()), named]}
        await self._send(message)
