"""Finds the code in an answer that is written in Markdown."""

from __future__ import annotations

import re
import textwrap
from enum import Enum

FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)[^\n`]*$")
PYTHON = {"", "python", "py", "python3", "py3", "python2", "pycon"}


class Code(Enum):
    """What of an answer is its program.

    ``all``: the answer as it is, which continues the prompt. ``first_block``, ``last_block``: the first or the last
    fenced block of Python, or without a language. An answer without one is unparsed.
    """

    all = "all"
    first_block = "first_block"
    last_block = "last_block"


def program(answer: str, code: Code) -> str | None:
    """Return the program that an answer holds; None if it has none."""
    if code is Code.all:
        return answer
    found = [block for language, block in blocks(answer) if language.lower() in PYTHON and block.strip()]
    return (found[0] if code is Code.first_block else found[-1]) if found else None


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the language and the text of every fenced block; the last may have no end, as a stop sequence removes it.

    As in CommonMark, the closing fence is at least as long as the opening one, so that a block may hold fences.
    """
    found: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.splitlines():
        fence = FENCE.match(line)
        if opened is None:
            opened, lines = fence, []
        elif fence and fence["fence"].startswith(opened["fence"]) and not fence["language"]:
            found.append((opened["language"], _plain(lines)))
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        found.append((opened["language"], _plain(lines)))
    return found


def _plain(lines: list[str]) -> str:
    """Return a block without the indentation of the list that it stands in."""
    return textwrap.dedent("\n".join(lines)) + "\n"
