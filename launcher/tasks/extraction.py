"""Finds the prediction in an answer with a regular expression that the user gives."""

from __future__ import annotations

import re

from launcher.core.errors import UserError
from launcher.tasks import bounded, numbers

NUMBER = "{number}"
"""Stands for a number in a pattern, in all forms that `numbers.PATTERN` knows."""


def check_pattern(pattern: str) -> None:
    """Raise `UserError` for a pattern that cannot be used: not a regular expression, or with several groups."""
    try:
        groups = re.compile(_expanded(pattern)).groups
    except re.error as error:
        raise UserError(f"tasks: extract={pattern!r} is not a regular expression: {error}") from None
    if groups > 1:
        raise UserError(f"tasks: extract={pattern!r} has {groups} groups; expected at most one; use (?:...)")


def find(pattern: str, text: str, last: bool) -> str | None:
    """Return the first or the last match, or its group if the pattern has one; None without a match."""
    found = None
    for match in re.finditer(_expanded(pattern), text):
        found = match[match.re.groups] or ""
        if not last:
            break
    return found


def _expanded(pattern: str) -> str:
    return pattern.replace(NUMBER, f"(?:{numbers.PATTERN})")


async def extract(pattern: str, text: str, *, last: bool) -> str | None:
    """Return what `find` returns; raises `bounded.TooSlow` for a pattern that takes too long."""
    return await bounded.run(find, pattern, text, last, inline=True)
