"""Whether an engine works, as far as what it counts can tell."""

from __future__ import annotations

import time
from collections.abc import Callable

from launcher.engines.base import EngineState


class StallDetector:
    """Remembers when an engine last took a step, or last had something to do for the first time, or nothing more."""

    def __init__(self, state: Callable[[], EngineState], clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._clock = clock
        self._seen: tuple[bool, int, int] | None = None
        self._since = 0.0

    def quiet_s(self) -> float:
        """Return for how many seconds nothing has changed; 0 for an engine that says itself that it is broken."""
        state, now = self._state(), self._clock()
        seen = (state.running + state.queued > 0, state.steps, state.generated_tokens)
        if seen != self._seen or state.error is not None:
            self._seen, self._since = seen, now
        return now - self._since

    @property
    def busy(self) -> bool:
        """Whether anything was under way when it was looked at."""
        return self._seen is not None and self._seen[0]

    @property
    def steps(self) -> tuple[int, int]:
        """How many steps and tokens there were when it was looked at."""
        return self._seen[1:] if self._seen is not None else (0, 0)
