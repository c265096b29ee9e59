"""Bounds the time of a scoring, without that in which it waits for requests of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


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

    async def run(self, scoring: Awaitable[T]) -> T:
        """Return what a scoring gives. Raises `TimeoutError` once the time is over.

        Most scorings never wait: nothing can end them, so that they need no deadline, which costs more than they do.
        """
        steps = _awaited(scoring)
        began = asyncio.get_running_loop().time()
        try:
            waits_for = steps.send(None)
        except StopIteration as ended:
            result: T = ended.value
            return result
        finally:
            self._over = True
        self._over = False
        async with asyncio.timeout(None) as self._deadline:
            try:
                self._spend(asyncio.get_running_loop().time() - began)
                rest: T = await _Rest(steps, waits_for)
                return rest
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

    def _spend(self, seconds: float) -> None:
        """Start with what is left after the first step of a scoring."""
        if self._left_s is not None:
            self._left_s = max(0.0, self._left_s - seconds)
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


async def _awaited(scoring: Awaitable[T]) -> T:
    return await scoring


class _Rest:
    """Goes on with a coroutine that has begun, and ``waits_for`` what it gave then."""

    def __init__(self, steps: Any, waits_for: Any) -> None:
        self._steps, self._waits_for = steps, waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for, step, given = self._waits_for, self._steps.send, None
        while True:
            try:
                given = yield waits_for
                step = self._steps.send
            except GeneratorExit:
                self._steps.close()
                raise
            except BaseException as error:
                step, given = self._steps.throw, error
            try:
                waits_for = step(given)
            except StopIteration as ended:
                return ended.value
