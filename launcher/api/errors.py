"""Refusals in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from launcher.core.errors import EngineUnavailable, QueueFull
from launcher.core.tokenizer import TextRefused
from launcher.core.types import Json

DEAD, RESTARTING = "engine_dead", "engine_restarting"
"""What ``/health`` says of an engine that does not answer: for good, or not for long."""


QUOTED = 200
"""So many characters of a request an error quotes at most."""
LONGEST = 2000
"""So many characters a message has at most, also one that lists what is accepted."""


@dataclass
class ApiError(Exception):
    """A request that is not answered: HTTP ``status``, what is wrong, and which field is to blame."""

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


def unknown_model(name: str, served: Sequence[str]) -> ApiError:
    known = ", ".join(f"`{each}`" for each in served)
    return ApiError(
        404, f"The model `{clipped(name)}` does not exist; expected one of {known}", "model", "model_not_found"
    )


def quoted(value: Json) -> str:
    """Return a value of a request as a message may show it: its beginning if it is long, its type if it has parts."""
    if isinstance(value, dict | list):
        return f"an {json_type(value)}"
    return clipped(repr(value[:QUOTED] if isinstance(value, str) else value))


def json_type(value: Json) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "decimal"}
    return names.get(type(value), "null")


def clipped(text: str, most: int = QUOTED) -> str:
    """Return the first ``most`` characters of a text, with a mark where something is missing."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def from_engine(error: Exception) -> ApiError | None:
    """Return how to answer when the engine refuses, or None for an error that it should not raise."""
    if isinstance(error, QueueFull):
        wait = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
        return ApiError(429, str(error), code="queue_full", headers=wait)
    if isinstance(error, EngineUnavailable):
        return ApiError(503, str(error), code="engine_unavailable")
    if isinstance(error, TextRefused):
        return invalid(None, str(error), "text_refused")
    return None


def internal(error: Exception) -> ApiError:
    """Return the answer to a fault of ours; the details are in the server's log."""
    return ApiError(500, f"internal error ({type(error).__name__}); the server's log says more", code="internal_error")
