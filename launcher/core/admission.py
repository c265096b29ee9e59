"""Whether an endpoint answers everybody, or only who validates it: until its certificate is valid."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

RETRY_AFTER_S = 5
"""So long everybody else is told to wait."""
REASON = "the endpoint is being validated; it answers once its certificate is valid"
CODE = "not_certified"
ALWAYS_OPEN = frozenset({"/health", "/metrics"})
"""These say that a server lives and how it fares, not that it answers correctly."""


@dataclass(eq=False)
class Admission:
    """Closed at first. Only the launcher and its servers know ``token``, which is new in each run."""

    token: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    is_open: bool = False
    _callbacks: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def on_open(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when it opens, from the thread that opens it."""
        self._callbacks.append(callback)

    def open(self) -> None:
        """Let everybody in from now on."""
        if not self.is_open:
            self.is_open = True
            for callback in self._callbacks:
                callback()
