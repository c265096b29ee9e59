"""How many replicas the load asks for."""

from __future__ import annotations

import time
from collections import deque
from math import ceil

from launcher.backends.ray.driver_config import Scale
from launcher.core.health import ScalingDecision


class Scaler:
    """Follows the number of requests under way: up when there are too many for a while, down when too few for longer.

    The number goes up to the least, and down to the most, that was asked for in that time: a burst or a pause changes
    nothing. ``decisions`` has what was decided, with the time and the number of requests.
    """

    def __init__(self, scale: Scale) -> None:
        self.wanted = scale.least
        self.decisions: list[ScalingDecision] = []
        self._scale = scale
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, requests: int, now: float) -> bool:
        """Take note of the load at a time in seconds; return whether another number of replicas is wanted now."""
        s, before = self._scale, self.wanted
        self._seen.append((now, min(s.most, max(s.least, ceil(requests / s.target)))))
        while len(self._seen) > 1 and self._seen[1][0] <= now - s.down_s:
            self._seen.popleft()
        self.wanted = max(self.wanted, min(self._lately(now, s.up_s), default=0))
        self.wanted = min(self.wanted, max(self._lately(now, s.down_s), default=s.most))
        if self.wanted != before:
            self.decisions.append({"time": time.time(), "requests": requests, "replicas": self.wanted})
        return self.wanted != before

    def _lately(self, now: float, seconds: float) -> list[int]:
        """Return what was asked for in the last so many seconds; nothing if it is not that long yet."""
        if now - self._seen[0][0] < seconds:
            return []
        return [asked for when, asked in self._seen if when >= now - seconds]
