"""How long the other end has sent no heartbeat."""

from __future__ import annotations

import time


class SilenceTimer:
    """Adds up the watcher's own waits since the last heartbeat.

    Each wait counts as at most ``longest_wait_s`` seconds. So a watcher that was itself suspended, together with the
    process that it watches, does not take that time for silence.
    """

    def __init__(self, longest_wait_s: float) -> None:
        self.seconds = 0.0
        self._longest_wait_s = longest_wait_s
        self._checked = time.monotonic()

    def reset(self) -> None:
        """Note a heartbeat."""
        self.seconds, self._checked = 0.0, time.monotonic()

    def check(self) -> float:
        """Add the time since the last check; return the seconds of silence."""
        now = time.monotonic()
        self.seconds += min(now - self._checked, self._longest_wait_s)
        self._checked = now
        return self.seconds
