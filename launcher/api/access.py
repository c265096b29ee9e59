"""The access log and the request metrics: method, path, status and milliseconds, never a body."""

from __future__ import annotations

import logging
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launcher.api.disconnect import Disconnected
from launcher.api.encode import refuse
from launcher.api.errors import internal
from launcher.api.metrics import Metrics

GONE = 499
"""The status noted for a client that did not wait for its answer."""


class Access:
    """ASGI middleware around everything: it also answers for errors that nobody expected."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: logging.Logger) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, seen = time.perf_counter(), _Status(send)
        try:
            await self._app(scope, receive, seen)
        except (Disconnected, ClientDisconnect):
            seen.status = GONE
        except Exception as error:
            self._log.exception("%s %s failed", scope["method"], scope["path"])
            if seen.status is None:
                await refuse(internal(error))(scope, receive, seen)
        finally:
            self._note(scope, seen.status or GONE, time.perf_counter() - start)
        return None

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.answered(route.rstrip("/"), status, seconds)
        self._log.info("%s %s %d %.1f ms", scope["method"], scope["path"], status, seconds * 1e3)


class _Status:
    """Remembers the status that was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
