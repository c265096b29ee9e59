"""The log of a server that was started: its last line, and the cause of its end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from launcher.core.console import one_line
from launcher.core.logs import event_of

TAIL_BYTES, QUOTED_CHARACTERS = 4096, 200
RECENT_BYTES = 16 * 2**10
MOST_BYTES = 8 * 2**20
"""How much of a log is searched for a cause."""

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PROCESS = re.compile(r"^\([^()]{1,80}\)\s?")
"""The process that wrote a line, as vLLM marks it: ``(EngineCore_DP0 pid=812)``."""
LEVEL = re.compile(r"^(?:\[[^\]]{0,80}\]\s?|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\s|\d[\d:.,/-]*\s){1,6}")
"""Level, time, place and rank that a logger puts before each line, also of a traceback."""
TRACEBACK = "Traceback (most recent call last)"
EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:: .*)?$")
ELSEWHERE = re.compile(r"see (the )?(root cause|stack trace|error|logs?) above|root cause above", re.IGNORECASE)
"""An exception that only says that another process has the cause."""


@dataclass(frozen=True)
class ServerLog:
    """A log file; what stands before ``start`` is of an earlier server."""

    path: Path
    start: int = 0

    def last_line(self) -> str:
        """Return the last line that is not empty."""
        with self.path.open("rb") as file:
            file.seek(max(self.start, self.path.stat().st_size - TAIL_BYTES))
            lines = _text(file.read()).splitlines()
        return next((line.strip()[-QUOTED_CHARACTERS:] for line in reversed(lines) if line.strip()), "")

    def cause(self, recent: bool = False) -> str | None:
        """Return the first exception that ends a traceback, of any process; None without one.

        ``recent`` looks at the end only: a server that served before may have logged exceptions of requests.
        Exceptions that point to another one are left out: the process that waits for the others says so last.
        """
        with self.path.open("rb") as file:
            file.seek(max(self.start, self.path.stat().st_size - RECENT_BYTES) if recent else self.start)
            text = _text(file.read(MOST_BYTES))
        found = [line for line in exceptions(text) if not ELSEWHERE.search(line)]
        return one_line(found[0])[:QUOTED_CHARACTERS] if found else None


def _text(raw: bytes) -> str:
    """Return what the server printed, of the lines of its log."""
    return "\n".join(map(event_of, raw.splitlines()))


def exceptions(text: str) -> list[str]:
    """Return the lines that end tracebacks, in their order; several processes may write between each other."""
    found, inside = [], set()
    for line in text.splitlines():
        process, content = _parts(line)
        if TRACEBACK in content:
            inside.add(process)
        elif process in inside and content and not content[0].isspace():
            inside.discard(process)
            if EXCEPTION.match(content):
                found.append(content)
    return found


def _parts(line: str) -> tuple[str, str]:
    """Return which process wrote a line, and its text without what a logger puts in front."""
    plain = COLOURS.sub("", line).rstrip()
    process = PROCESS.match(plain)
    rest = plain[process.end() :] if process else plain
    return (process[0].strip() if process else ""), LEVEL.sub("", rest)
