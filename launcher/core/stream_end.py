"""What the last bytes of a stream say: that its server failed, or that the answer is whole."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from launcher.core.responses import error_message
from launcher.core.types import Json, is_object

DATA, DONE, ERROR = b"data:", b"[DONE]", b'"error"'
HEAD_BYTES = 256
"""The error of a whole answer begins within so many bytes."""


def error_in_stream(tail: bytes) -> str | None:
    """Return the error in which a stream ended, though its status was good; None for another end.

    ``tail`` has at least the last event but ``[DONE]``. Servers end a stream behind the event of an error.
    """
    for data in _last_first(tail):
        if data != DONE:
            return error_in(data) if ERROR in data else None
    return None


def error_in_body(body: bytes) -> str | None:
    """Return the error in a whole answer with a good status."""
    return error_in(body) if ERROR in body[:HEAD_BYTES] else None


def error_in(text: bytes) -> str | None:
    """Return the message of an error in JSON."""
    try:
        return error_of_event(orjson.loads(text))
    except orjson.JSONDecodeError:
        return None


def error_of_event(event: Json) -> str | None:
    """Return the message of an event, or of an answer, that says that its server failed."""
    return error_message(event) if is_object(event) and event.get("error") else None


def is_end(tail: bytes) -> bool:
    """Tell whether a stream has come to its end: to ``[DONE]``, to a finish reason, or to the count of its tokens."""
    last = next(_last_first(tail), b"")
    if last == DONE:
        return True
    try:
        event = orjson.loads(last)
        choices = event["choices"]
        return bool(event.get("usage")) or (bool(choices) and all(map(_has_ended, choices)))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return False


def is_json_end(tail: bytes) -> bool:
    """Tell whether a body may be a whole object, or a whole list, in JSON by its last bytes."""
    return tail.rstrip().endswith((b"}", b"]"))


def _last_first(tail: bytes) -> Iterator[bytes]:
    """Yield the data of the events, the last one first."""
    end = len(tail)
    while end > 0:
        start = tail.rfind(b"\ndata:", 0, end) + 1
        if start or tail.startswith(DATA):
            yield tail[start + len(DATA) : end].strip()
        end = start - 1


def _has_ended(choice: Json) -> bool:
    return bool(choice.get("finish_reason"))
