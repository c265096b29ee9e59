"""What the proxy says of itself: its health, and its metrics."""

from __future__ import annotations

import os
from collections.abc import Callable

from launcher.asgi.errors import ApiError
from launcher.proxy.head import Head
from launcher.proxy.metrics import Counters
from launcher.proxy.reply import Reply, dumped
from launcher.proxy.routes import HEALTH, METRICS


class OwnPages:
    """The pages of a proxy's own."""

    def __init__(self, run: str, counters: Counters, is_draining: Callable[[], bool]) -> None:
        self._run = run
        self._counters = counters
        self._is_draining = is_draining
        self.health: Callable[[], bytes] = bytes
        """Returns the metrics of the run's health."""

    def answer(self, head: Head, reply: Reply) -> None:
        """Answer a request to a path of the proxy. Raises `ApiError`."""
        if head.method not in ("GET", "HEAD"):
            raise ApiError(405, f"{head.method} {head.path}: expected GET", code="method_not_allowed")
        if head.path == HEALTH:
            draining = self._is_draining()
            state = {"status": "draining" if draining else "ok", "run": self._run, "pid": os.getpid()}
            reply.whole(503 if draining else 200, b"Content-Type: application/json\r\n", dumped(state))
        elif head.path == METRICS:
            kind = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            reply.whole(200, kind, self._counters.text(self._run) + self.health())
        else:
            raise ApiError(404, f"{head.path}: the proxy has {HEALTH} and {METRICS}", code="not_found")
