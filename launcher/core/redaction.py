"""Reads secrets from the environment, and keeps their values out of everything that is written."""

from __future__ import annotations

import html
import json
import os
from urllib.parse import quote

from launcher.core.errors import UserError
from launcher.core.types import Json

MIN_LENGTH = 6
"""Shorter values are not redacted: they occur in ordinary text."""

_REPLACEMENTS: dict[str, str] = {}
"""The replacement of each spelling of each known value."""


def reveal(variable: str, key: str) -> str:
    """Return the secret in an environment variable, which ``key`` names; from now on it is redacted.

    Raises `UserError` if it is not set, or empty.
    """
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"{key}={variable}: this environment variable is not set, or empty")
    hide(value, variable)
    return value


def hide(value: str, name: str = "") -> None:
    """Redact a value from now on, also its parts behind spaces (``Bearer <key>``); ``name`` says what it was."""
    mark = f"[redacted: {name}]" if name else "[redacted]"
    for part in (value, *value.split()):
        if len(part) >= MIN_LENGTH:
            _REPLACEMENTS.update(dict.fromkeys(_spellings(part), mark))


def forget() -> None:
    """Forget all values, for another command in this process."""
    _REPLACEMENTS.clear()


def has_secrets() -> bool:
    """Tell whether any value is redacted."""
    return bool(_REPLACEMENTS)


def redact(text: str) -> str:
    """Return a text without the values that are known, however JSON, HTML or a URL spells them."""
    for value in sorted(_REPLACEMENTS, key=len, reverse=True):
        text = text.replace(value, _REPLACEMENTS[value])
    return text


def redact_bytes(data: bytes) -> bytes:
    """Return UTF-8 data without the values that are known."""
    for value in sorted(_REPLACEMENTS, key=len, reverse=True):
        data = data.replace(value.encode("utf-8", "surrogateescape"), _REPLACEMENTS[value].encode())
    return data


def redact_json(value: Json) -> Json:
    """Return a JSON value whose texts are without the values that are known, keys included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_json(key): redact_json(item) for key, item in value.items()}
    return [redact_json(item) for item in value] if isinstance(value, list | tuple) else value


def _spellings(value: str) -> set[str]:
    """Return what a value looks like as it is, in a URL, in JSON, in JSON that is a text of JSON, and in HTML."""
    safe = value.encode("utf-8", "surrogateescape")
    found = {value, quote(safe), quote(safe, "")}
    for _ in range(2):
        found |= {json.dumps(one, ensure_ascii=ascii)[1:-1] for one in found for ascii in (True, False)}
    return found | {html.escape(one) for one in found}
