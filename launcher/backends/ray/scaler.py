"""Autoscaling: the number of replicas for the load."""

from __future__ import annotations

import time
from collections import deque
from math import ceil

from launcher.backends.ray.driver_config import Scale
from launcher.core.health import ScalingDecision


class Scaler:
    """Follows the number of open requests.

    The number goes up to the minimum of the last ``up_s`` seconds, and down to the maximum of the last ``down_s``. So a
    burst or a pause changes nothing. ``decisions`` records each change with its time and the number of requests.
    """

    def __init__(self, scale: Scale) -> None:
        self.wanted = scale.minimum
        self.decisions: list[ScalingDecision] = []
        self._scale = scale
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, requests: int, now: float) -> bool:
        """Record the load at ``now``, in seconds; return whether the number of wanted replicas changes."""
        s, before = self._scale, self.wanted
        self._seen.append((now, min(s.maximum, max(s.minimum, ceil(requests / s.target)))))
        while len(self._seen) > 1 and self._seen[1][0] <= now - s.down_s:
            self._seen.popleft()
        self.wanted = max(self.wanted, min(self._wanted_within(now, s.up_s), default=0))
        self.wanted = min(self.wanted, max(self._wanted_within(now, s.down_s), default=s.maximum))
        if self.wanted != before:
            self.decisions.append({"time": time.time(), "requests": requests, "replicas": self.wanted})
        return self.wanted != before

    def _wanted_within(self, now: float, seconds: float) -> list[int]:
        """Return the numbers that were needed in the last ``seconds``; none if less time has passed."""
        if now - self._seen[0][0] < seconds:
            return []
        return [asked for when, asked in self._seen if when >= now - seconds]
