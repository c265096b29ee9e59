"""Holds requests back so that a server gets no more than it allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import ClassVar

from launcher.adapters.base import Adapter, Part
from launcher.core.errors import UserError
from launcher.core.ranges import Count, Positive
from launcher.core.responses import token_count
from launcher.core.types import Handler, Request, Response
from launcher.settings.component import component

MINUTE_S = 60.0
ROUNDING = 1e-9
"""A bucket that misses less than this is full enough."""


@component("adapters/rate_limit")
class RateLimit(Adapter):
    """Delays requests so that at most ``requests_per_minute`` are sent, and ``tokens_per_minute`` used.

    ``burst`` requests may go out at once after a quiet time; over any longer time the rate holds. Tokens are those that
    the answers report in ``usage``. Their number is known only afterwards, so the requests in flight may exceed the
    limit. The next ones then wait. An answer without ``usage`` counts no tokens, and neither does a stream.

    Beside a proxy (``proxy.port`` with ``mode=run``), the evaluation and the proxy have a limit each. The endpoint then
    gets up to twice as much, and a line says so.

    Use it for endpoints with a quota, behind ``retry``, so that repeated requests count too.

    Example: ``python launch.py 'adapters=[retry,rate_limit]' adapters.rate_limit.requests_per_minute=60``
    """

    changes_answers: ClassVar[bool] = False
    sees_all: ClassVar[bool] = True
    needs_task = False
    rewrites = Part.none

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    burst: Count = 1

    def __post_init__(self) -> None:
        if self.requests_per_minute is None and self.tokens_per_minute is None:
            raise UserError("adapters.rate_limit: set requests_per_minute, tokens_per_minute, or both")
        self.reads = Part.none if self.tokens_per_minute is None else Part.answer
        self._requests = self._tokens = None
        if self.requests_per_minute is not None:
            self._requests = TokenBucket(self.requests_per_minute / MINUTE_S, self.burst)
        if self.tokens_per_minute is not None:
            self._tokens = TokenBucket(self.tokens_per_minute / MINUTE_S, self.tokens_per_minute)

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        for bucket, cost in ((self._requests, 1.0), (self._tokens, 0.0)):
            if bucket is not None:
                await bucket.take(cost)
        response = await call_next(request)
        if self._tokens is not None and response.events is None and not response.cached:
            usage = response.body.get("usage") if isinstance(response.body, Mapping) else None
            self._tokens.spend(token_count(usage, "total_tokens") or 0)
        return response


class TokenBucket:
    """A bucket that fills with ``rate`` units per second, up to ``size``; spending may leave a debt.

    Callers of `take` go on in the order of their calls.
    """

    def __init__(self, rate: float, size: float, clock: Callable[[], float] | None = None) -> None:
        self._rate, self._size = rate, size
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._level, self._at = size, -1.0
        self._turn = asyncio.Lock()

    async def take(self, cost: float) -> None:
        """Wait until the bucket holds ``cost`` and no debt, and take it."""
        async with self._turn:
            while (missing := cost - self._filled()) > ROUNDING:
                await asyncio.sleep(missing / self._rate)
            self.spend(cost)

    def spend(self, cost: float) -> None:
        """Take ``cost`` at once."""
        self._level = self._filled() - cost

    def _filled(self) -> float:
        now = self._clock()
        if self._at >= 0:
            self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now
        return self._level
