"""Decides from the head of a request whether it may pass: it must be meant for this run, and bring the key."""

from __future__ import annotations

import hmac

from launcher.asgi.errors import ApiError
from launcher.proxy.head import Head
from launcher.proxy.routes import HEALTH, run_of


class Admission:
    """Admits the requests of one run that bring its ``key``; without a key, all of that run."""

    def __init__(self, run: str, key: str | None) -> None:
        self._run = run
        self._expected = None if key is None else f"Bearer {key}".encode()

    def refusal(self, head: Head) -> ApiError | None:
        """Return why a request must not pass."""
        named = head.run.decode("latin-1") if head.run is not None else run_of(head.path)
        if named is not None and named != self._run:
            message = f"this is the proxy of the run {self._run}, not of {named[:64]!r}"
            return ApiError(421, message, code="other_run")
        if self._expected is None or head.path == HEALTH or self._has_key(head.authorization):
            return None
        return ApiError(
            401,
            "the proxy's key is missing or wrong; send it as 'Authorization: Bearer <key>'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _has_key(self, sent: bytes | None) -> bool:
        return sent is not None and self._expected is not None and hmac.compare_digest(sent, self._expected)
