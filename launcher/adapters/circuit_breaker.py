"""Refuses requests at once while the server behind them does not work."""

from __future__ import annotations

import asyncio
import math
from typing import ClassVar

from launcher.adapters.base import Adapter, Part
from launcher.core.errors import TransportError
from launcher.core.ranges import Count, Seconds
from launcher.core.types import GATEWAY, Handler, Request, Response
from launcher.settings.component import component


@component("adapters/circuit_breaker")
class CircuitBreaker(Adapter):
    """Answers HTTP 503 with ``Retry-After`` after ``failures`` requests in a row got no answer from a server.

    A failure is a transport error, or a status that says that nothing is behind a gateway (502 to 504 and similar).
    After ``reset_s`` seconds one request goes through: its answer closes the circuit, and its failure opens it again.
    An evaluation has pauses of its own, so this is for other clients of the proxy.

    Use it in front of clients that would send thousands of requests to a server that is down, each with its own
    timeout.

    Example: ``python launch.py 'adapters=[circuit_breaker]' adapters.circuit_breaker.failures=3``
    """

    changes_answers: ClassVar[bool] = False
    needs_task = False
    reads = Part.none
    rewrites = Part.none

    failures: Count = 5
    reset_s: Seconds = 10.0

    def __post_init__(self) -> None:
        self._row = 0
        self._open_until = -math.inf
        self._probing = False

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        left_s = self._open_until - asyncio.get_running_loop().time()
        if self._row >= self.failures and (left_s > 0 or self._probing):
            return self._refusal(max(left_s, 0.0))
        if self._row < self.failures:
            return await self._passed(request, call_next)
        self._probing = True
        try:
            return await self._passed(request, call_next)
        finally:
            self._probing = False

    async def _passed(self, request: Request, call_next: Handler) -> Response:
        try:
            response = await call_next(request)
        except TransportError:
            self._failed()
            raise
        if response.status in GATEWAY:
            self._failed()
        else:
            self._row = 0
        return response

    def _failed(self) -> None:
        self._row += 1
        if self._row >= self.failures:
            self._open_until = asyncio.get_running_loop().time() + self.reset_s

    def _refusal(self, left_s: float) -> Response:
        message = f"circuit_breaker: the last {self._row} requests got no answer; the next one goes out soon"
        error = {"message": message, "type": "service_unavailable", "code": "circuit_open"}
        return Response(503, {"error": error}, {"Retry-After": str(max(1, math.ceil(left_s)))})
