"""Whether an endpoint answers all clients, or only the validator until its certificate is valid."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

RETRY_AFTER_S = 5
"""The ``Retry-After`` of any other client."""
REASON = "the endpoint is being validated; it answers once its certificate is valid"
CODE = "not_certified"
ALWAYS_OPEN = frozenset({"/health", "/metrics"})
"""Paths that report the state of a server, which does not depend on correct answers."""


@dataclass(eq=False)
class Admission:
    """Closed at first. ``token`` belongs to one run; only the launcher and its servers have it."""

    token: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    is_open: bool = False
    _callbacks: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def on_open(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the thread that opens the admission."""
        self._callbacks.append(callback)

    def open(self) -> None:
        """Admit all clients from now on."""
        if not self.is_open:
            self.is_open = True
            for callback in self._callbacks:
                callback()
