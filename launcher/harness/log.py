"""The line of a program's log that says why it failed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from launcher.core.console import one_line
from launcher.core.logs import event_of

TAIL_BYTES = 2**16
QUOTED_CHARACTERS = 300
CAUSE = re.compile(r"(?<![\w'\"])(?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Fault)\b(?::|$)|\bERROR\b|\berror:")
"""What stands in a line that names an error."""
FRAME = re.compile(r"^[\s│╭╰╮╯─|]+|[\s│╭╰╮╯─|]+$")
"""White space and the frames that rich draws around tracebacks."""


def cause(path: Path, begin: int = 0) -> str:
    """Return the line of a log, from byte ``begin`` on, that says why a command failed; empty for an empty log.

    It is the last that names an error, with its continuation, and else the last one.
    """
    lines = _last_lines(path, begin)
    for number in range(len(lines) - 1, -1, -1):
        if CAUSE.search(lines[number]):
            return one_line(lines[number] + _continued(lines, number), QUOTED_CHARACTERS)
    return one_line(lines[-1], QUOTED_CHARACTERS) if lines else ""


def last_line(path: Path) -> str:
    """Return the last line of a log that is not empty."""
    lines = _last_lines(path, 0)
    return one_line(lines[-1], QUOTED_CHARACTERS) if lines else ""


def _continued(lines: Sequence[str], number: int) -> str:
    """Return the next line where a terminal's width cut this one."""
    follows = lines[number + 1 : number + 2]
    return f" {follows[0]}" if follows and len(lines[number]) > 70 and not CAUSE.search(follows[0]) else ""


def _last_lines(path: Path, begin: int) -> list[str]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin if begin <= size else 0, size - TAIL_BYTES))  # a file that went on in a new one is smaller
        events = map(event_of, file.read().splitlines())
    return [line for event in events for raw in re.split(r"[\r\n]+", event) if (line := FRAME.sub("", raw))]
