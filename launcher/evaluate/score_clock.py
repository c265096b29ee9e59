"""Bounds the time of a scoring, without that in which it waits for requests of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class ScoreClock:
    """A clock for one scoring of at most ``limit_s`` seconds (None: no limit)."""

    def __init__(self, limit_s: float | None = None) -> None:
        self._limit_s = limit_s
        self._left_s = limit_s
        self._deadline: asyncio.Timeout | None = None
        self._waiting = 0
        self._over = False

    @property
    def fault(self) -> str | None:
        """Why the scoring was ended; None if it was not."""
        if self._deadline is None or not self._deadline.expired():
            return None
        return f"it took more than evaluate.score_timeout_s={self._limit_s:g}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the clock run. Raises `TimeoutError` once the time is over."""
        async with asyncio.timeout(self._limit_s) as self._deadline:
            try:
                yield
            finally:
                self._over = True

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the clock while at least one request is in flight."""
        self._waiting += 1
        if self._waiting == 1:
            self._stop()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._go_on()

    def _stop(self) -> None:
        when = self._deadline.when() if self._deadline and not self._over else None
        if self._deadline is not None and when is not None and not self._deadline.expired():
            self._left_s = max(0.0, when - asyncio.get_running_loop().time())
            self._deadline.reschedule(None)

    def _go_on(self) -> None:
        running = self._deadline is not None and not self._over and not self._deadline.expired()
        if self._deadline is not None and running and self._left_s is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._left_s)
