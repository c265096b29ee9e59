"""Timers of which nearly all are taken back: together they need one timer of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

EARLY_S = 0.001
"""A loop's timer may come so much early, as its clock has milliseconds."""


class Timer:
    """A function that is called at a time, unless the timer is cancelled before."""

    __slots__ = ("_timers", "at", "call")

    def __init__(self, timers: Timers, at: float, call: Callable[[], None]) -> None:
        self._timers, self.at, self.call = timers, at, call

    def cancel(self) -> None:
        """Take the timer back."""
        self._timers.live.discard(self)


class Timers:
    """Timers of one event loop, which keep the precision of the loop's own.

    To set and to cancel a timer of the loop costs a tenth of a request. This sets one for the earliest of them, and
    looks for the next one only once it has come.
    """

    def __init__(self) -> None:
        self.live: set[Timer] = set()
        self._armed: asyncio.TimerHandle | None = None

    def call_at(self, at: float, call: Callable[[], None]) -> Timer:
        """Call a function at a time of the running loop's clock."""
        timer = Timer(self, at, call)
        self.live.add(timer)
        if self._armed is None or at < self._armed.when():
            self._arm(at)
        return timer

    def close(self) -> None:
        """Cancel all timers."""
        self.live.clear()
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None

    def _arm(self, at: float) -> None:
        if self._armed is not None:
            self._armed.cancel()
        self._armed = asyncio.get_running_loop().call_at(at, self._look)

    def _look(self) -> None:
        """Call what is due, after setting the loop's timer for the rest."""
        until = asyncio.get_running_loop().time() + EARLY_S
        due = sorted((timer for timer in self.live if timer.at <= until), key=lambda timer: timer.at)
        rest = self.live.difference(due)
        self._armed = None
        if rest:
            self._arm(min(timer.at for timer in rest))
        for timer in due:
            if timer in self.live:  # none before it has cancelled it
                self.live.discard(timer)
                timer.call()
