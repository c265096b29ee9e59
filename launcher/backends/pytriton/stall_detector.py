"""Whether an engine makes progress, from its counters."""

from __future__ import annotations

import time
from collections.abc import Callable

from launcher.engines.base import EngineState


class StallDetector:
    """Records when an engine last took a step, got work, or ran out of work."""

    def __init__(self, state: Callable[[], EngineState], clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._clock = clock
        self._seen: tuple[bool, int, int] | None = None
        self._since = 0.0

    def unchanged_s(self) -> float:
        """Return the seconds since the last change; 0 for an engine that reports an error itself."""
        state, now = self._state(), self._clock()
        seen = (state.running + state.queued > 0, state.steps, state.generated_tokens)
        if seen != self._seen or state.error is not None:
            self._seen, self._since = seen, now
        return now - self._since

    @property
    def busy(self) -> bool:
        """Whether the engine had requests at the last check."""
        return self._seen is not None and self._seen[0]

    @property
    def steps(self) -> tuple[int, int]:
        """The number of steps and tokens at the last check."""
        return self._seen[1:] if self._seen is not None else (0, 0)
