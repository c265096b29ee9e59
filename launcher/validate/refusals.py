"""Checks of how the server says no: errors in OpenAI's form, never as generated text, and keys."""

from __future__ import annotations

import re
from dataclasses import replace

from launcher.core.client import Client
from launcher.core.responses import error_message
from launcher.core.types import Json, Request, Response, Severity
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Doubt,
    Failure,
    Family,
    NotApplicable,
    text_of,
)
from launcher.validate.routes import COMPLETIONS, Route, on_both

MISTAKES: tuple[dict[str, Json], ...] = (
    {"temperature": "hot"},
    {"max_tokens": "many"},
    {"top_p": 7},
    {"n": 0},
)
"""Requests that no server can follow."""
LOOKS_LIKE_AN_ERROR = re.compile(r"\b(error|exception|traceback|invalid|must be)\b", re.IGNORECASE)


async def errors(context: CheckContext, route: Route) -> str:
    """A wrong parameter must be refused with a 4xx status and a message, never answered with the error as text."""
    statuses, doubts = [], []
    for mistake in MISTAKES:
        response = await route.attempt(context, "7+5=", **mistake)
        statuses.append(str(response.status))
        if (doubt := _doubt(mistake, response)) is not None:
            doubts.append(doubt)
    if doubts:
        raise Doubt("; ".join(doubts))
    return f"HTTP {', '.join(statuses)}, each with a message"


def _doubt(mistake: dict[str, Json], response: Response) -> str | None:
    """Return what is odd about the answer to a wrong request. Raises `Failure` for an error as generated text."""
    if response.ok:
        text = _text(response.body)
        if LOOKS_LIKE_AN_ERROR.search(text):
            raise Failure(f"{mistake} is answered with HTTP {response.status} and the error as text: {text[:200]!r}")
        return f"{mistake} is answered as if it were right"
    if response.status >= 500:
        return f"{mistake} is answered with HTTP {response.status}, expected 400"
    return None if error_message(response.body) else f"the refusal of {mistake} has no error.message"


def _text(body: Json) -> str:
    try:
        return text_of(body)
    except (LookupError, TypeError, AttributeError):
        return str(body)


async def key_needed(context: CheckContext) -> str:
    """A server with a key must refuse requests without it, and with a wrong one."""
    if context.endpoint.api_key is None:
        raise NotApplicable("no key is sent")
    for key in (None, "not-the-key"):
        async with Client(replace(context.endpoint, api_key=key), timeout_s=context.settings.timeout_s) as client:
            body = {"model": context.endpoint.model, **COMPLETIONS.body("a", max_tokens=1)}
            response = await client(Request(COMPLETIONS.path, body))
        if response.ok:
            raise Failure(f"a request with {'no' if key is None else 'a wrong'} key is answered")
    return f"refused with HTTP {response.status}"


CHECKS = (
    *on_both(
        "errors",
        "errors",
        errors,
        Family.errors,
        "a wrong parameter is refused with a 4xx status and a message, never answered with the error as text",
        "errors are scored as answers",
        "another server; the adapter validate_response",
    ),
    CheckDefinition(
        "key_needed",
        "key needed",
        Capability.serving,
        key_needed,
        Family.errors,
        expected="a server with a key refuses requests without it, and with a wrong one",
        effect="none; anybody can use the server",
        remedy="the server's option for its key",
        severity=Severity.warning,
    ),
)
