"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher.core.errors import EngineUnavailable, QueueFull
from launcher.core.responses import json_type
from launcher.core.tokenizer import TextRefused
from launcher.core.types import Json

QUOTED = 200
"""The most characters of a request that an error quotes."""
LONGEST = 2000
"""The most characters of a message."""


@dataclass
class ApiError(Exception):
    """An error response: HTTP ``status``, the message, and the field that causes it."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def body(self) -> Json:
        message, param = clipped(self.message, LONGEST), self.param and clipped(self.param)
        return {"error": {"message": message, "type": self.kind, "param": param, "code": self.code}}

    @property
    def kind(self) -> str:
        """OpenAI's ``type`` for the status."""
        if self.status in _KINDS:
            return _KINDS[self.status]
        return "server_error" if self.status >= 500 else "invalid_request_error"


_KINDS = {401: "authentication_error", 429: "rate_limit_error", 503: "service_unavailable"}


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """Return a 400 that names the field."""
    return ApiError(400, message, param, code)


def quoted(value: Json) -> str:
    """Return a value of a request for a message: the beginning of a long one, the type of an object or array."""
    if isinstance(value, dict | list):
        return f"an {json_type(value)}"
    return clipped(repr(value[:QUOTED] if isinstance(value, str) else value))


def clipped(text: str, most: int = QUOTED) -> str:
    """Return the first ``most`` characters of a text; an ellipsis marks a cut."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def from_engine(error: Exception) -> ApiError | None:
    """Return the response to an error that an engine may raise, or that has its response; None for any other error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        wait = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
        return ApiError(429, str(error), code="queue_full", headers=wait)
    if isinstance(error, EngineUnavailable):
        return ApiError(503, str(error), code="engine_unavailable")
    if isinstance(error, TextRefused):
        return invalid(None, str(error), "text_refused")
    return None


def internal(error: Exception) -> ApiError:
    """Return the response to a bug of this program; the server's log has the details."""
    return ApiError(500, f"internal error ({type(error).__name__}); the server's log says more", code="internal_error")
