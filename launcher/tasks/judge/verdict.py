"""Reads the verdict in a judge's reply: it is the reply's last line, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping

from launcher.core.console import one_line
from launcher.core.errors import UserError
from launcher.core.types import Response, Score, Status
from launcher.tasks import bounded
from launcher.tasks.answer import text_of

LINE = r"(?:[A-Za-z ]{0,30}:)?\s*\[\[([^\[\]]{1,60})\]\]"
"""The line of a verdict: ``Verdict: [[7]]``."""
EMPHASIS = "*_`# \t"
"""Characters around a line that only emphasize it."""
WORDS = 400
"""Characters of a reply that a reason quotes."""


def check_line(pattern: str) -> None:
    """Raise `UserError` unless ``pattern`` is a regular expression with one group."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"tasks: verdict={pattern!r} is not a regular expression: {error}") from None
    if groups != 1:
        raise UserError(f"tasks: verdict={pattern!r} has {groups} groups; expected one, which holds the verdict")


def find(pattern: str, reply: str) -> str | None:
    """Return the group of ``pattern`` where it is all of the last line that is not empty; else None.

    A verdict that the judge quotes from an answer stands in another line, or within one.
    """
    lines = [line.strip(EMPHASIS) for line in reply.splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    found = re.fullmatch(pattern, last)
    return None if found is None or found[1] is None else found[1].strip(EMPHASIS)


async def verdict_of(response: Response, pattern: str) -> str | Score:
    """Return the verdict of a judge's reply, or how the sample ends without one.

    A reply that is cut at its limit of tokens is ``unparsed``: the answer is complete, and its verdict is not known.
    """
    reply = text_of(response)
    if isinstance(reply, Score):
        status = Status.unparsed if reply.status is Status.truncated else reply.status
        return Score(status, reason=f"judge: {reply.reason}")
    said = without_reasoning(reply)
    if said is None:
        return Score(Status.unparsed, reason="judge: its reasoning was not finished")
    try:
        found = await bounded.run(find, pattern, said, inline=True)
    except bounded.TooSlow as error:
        return Score(Status.unparsed, reason=f"judge: verdict={pattern!r} took {error} on its reply")
    return unread(said) if found is None else found


def unread(reply: str) -> Score:
    """Return how a sample ends whose verdict cannot be read, with the end of what the judge said."""
    return Score(Status.unparsed, reason=f"judge: its last line is no verdict: {one_line(reply[-WORDS:], WORDS)!r}")


def without_reasoning(reply: str) -> str | None:
    """Return what follows the judge's reasoning; None where that was not finished."""
    _, tag, rest = reply.rpartition("</think>")
    if tag:
        return rest
    return None if reply.lstrip().startswith("<think>") else reply


def number_of(verdict: str, low: float, high: float) -> float | None:
    """Return the number of a verdict, ``7``, ``7.5`` or ``7/10``; None if it is none from ``low`` to ``high``."""
    found = re.fullmatch(rf"(-?\d{{1,6}}(?:\.\d{{1,6}})?)(?:\s*/\s*{re.escape(f'{high:g}')})?", verdict)
    value = float(found[1]) if found else None
    return value if value is not None and low <= value <= high else None


def label_of(verdict: str, labels: Mapping[str, float]) -> str | None:
    """Return the label that a verdict is, in upper or lower case; None if it is none."""
    return next((label for label in labels if label.casefold() == verdict.casefold()), None)
