"""Finds the prediction in an answer with a regular expression that the user gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.tasks import bounded, numbers

NUMBER = "{number}"
"""Stands for a number in a pattern, in all forms that `numbers.PATTERN` knows."""
KEYS = ("regex", "pick", "fallback")


class Pick(Enum):
    """Which match of ``extract`` is the prediction."""

    first = "first"
    last = "last"


@dataclass(frozen=True)
class Extraction:
    """One way to read an answer; without a ``regex`` the prediction is the whole answer.

    ``fallback`` is the prediction where nothing is found; None leaves the sample unparsed.
    """

    name: str
    regex: str
    pick: Pick
    fallback: str | None


def extractions(given: Json, pick: Pick, fallback: str | None) -> tuple[Extraction, ...]:
    """Return what ``extract`` says: one regular expression, or several by name.

    Each of several is a regular expression, or a mapping of ``regex``, ``pick`` and ``fallback``. Raises `UserError`
    for anything else.
    """
    if isinstance(given, str):
        _check(given, "extract")
        return (Extraction("", given, pick, fallback),)
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"tasks: extract={given!r}; expected a regular expression, or a mapping of names to such")
    return tuple(_named(name, value, Extraction(name, "", pick, fallback)) for name, value in given.items())


def _named(name: Json, value: Json, usual: Extraction) -> Extraction:
    key = f"extract.{name}"
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"tasks: {key}: a name has letters, digits, '-', '_' and '.' only")
    fields = {"regex": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or "regex" not in fields or set(fields) - set(KEYS):
        raise UserError(f"tasks: {key}={value!r}; expected a regular expression, or regex with pick and fallback")
    regex, pick, fallback = (fields.get(part, getattr(usual, part)) for part in KEYS)
    if not isinstance(regex, str) or not isinstance(fallback, str | None):
        raise UserError(f"tasks: {key}={value!r}: regex and fallback are texts")
    _check(regex, key)
    return Extraction(name, regex, _picked(pick, key), fallback)


def _picked(value: Json, key: str) -> Pick:
    try:
        return value if isinstance(value, Pick) else Pick(value)
    except ValueError:
        raise UserError(f"tasks: {key}.pick={value!r}; expected one of first, last") from None


def _check(pattern: str, key: str) -> None:
    try:
        re.compile(_expanded(pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"tasks: {key}={pattern!r} is not a regular expression: {error}") from None


def find(pattern: str, text: str, last: bool) -> str | None:
    """Return the first or the last match; None without one.

    Of a pattern with groups, it is the first group that is not empty, and empty if all are.
    """
    found = None
    for match in re.finditer(_expanded(pattern), text):
        found = next((group for group in match.groups() if group), "") if match.re.groups else match[0]
        if not last:
            break
    return found


def _expanded(pattern: str) -> str:
    return pattern.replace(NUMBER, f"(?:{numbers.PATTERN})")


async def extract(how: Extraction, text: str) -> str | None:
    """Return what `find` returns; raises `bounded.TooSlow` for a pattern that takes too long."""
    return await bounded.run(find, how.regex, text, how.pick is Pick.last, inline=True)
