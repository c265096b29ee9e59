"""The log of a server that was started: its last line, and the cause of its end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from launcher.core.console import one_line
from launcher.core.logs import event_of

TAIL_BYTES, QUOTED_CHARACTERS = 4096, 200
CAUSE_CHARACTERS, CAUSE_LINES = 400, 6
"""How much of an exception is quoted; its message may have several lines, of which the first may say nothing."""
RECENT_BYTES = 16 * 2**10
MOST_BYTES = 8 * 2**20
"""How much of a log is searched for a cause."""

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PROCESS = re.compile(r"^(?:\((?:(?:[^()]{1,80} )?pid=\d+(?:, ip=[\w.:]+)?|replica \d+)\)\s?|\[rank\d+\]:(?: |$))+")
"""The process that wrote a line: vLLM's ``(EngineCore_DP0 pid=812)``, Ray's with an address, torch's ``[rank0]:``.

A replica's mark is before it.
"""
LEVEL = re.compile(r"^(?:\[(?!Errno)[^\]]{0,80}\]\s?|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):?\s+|\d[\d:.,/-]*\s){1,6}")
"""Level, time, place and rank that a logger puts before each line, also of a traceback."""
FAILED = re.compile(r"\bERROR\b|\bCRITICAL\b|\[E\]")
"""The level of an error, in what a logger puts before a line; ``[E]`` is TensorRT-LLM's."""
SAID = re.compile(
    r"^docker: |^[\w. -]{1,40}: error: |^Error: |^\s*what\(\): |scheduler is dead"
    r"|^llama_\w+: error loading|^gguf_init\w+: (?:invalid|failed)"
)
"""Errors without a level: of docker, of parsers of arguments, of C++, of a killed SGLang, and of llama.cpp."""
TRACEBACK = "Traceback (most recent call last)"
EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:: .*)?$")
OVER = re.compile(r"^(?:\s*For further information|During handling of|The above exception|\S+\.py:\d+:|\s*$)")
"""What ends the message of an exception: a link, another exception, a warning, or nothing."""
DETAIL = re.compile(r"^\t\w+: ")
"""What Ray says of an actor in the midst of a message: its class, its address, its process."""
INPUT = re.compile(r" \[type=\w+, input_value=.*")
"""What pydantic puts behind a message: the arguments, in Python's words."""
HELP = re.compile(r"^(?:run|see|try) ['\"`].*--help\b", re.IGNORECASE)
"""A line behind an error that only says how to get help, as docker's."""
ELSEWHERE = re.compile(
    r"see (?:the )?(?:root cause|stack trace|error(?: message)?s?|logs?) (?:above|for root cause)|root cause above"
    r"|check the logs for more|^EOFError$|executor worker returned error|error raised in subprocess"
    r"|failed to load model from file|CalledProcessError|there are other ranks that didn't finish",
    re.IGNORECASE,
)
"""An exception that only says that something else failed, which has the cause."""
REMOTE = re.compile(r"^ray\.exceptions\.\w+(?:\(\w+\))?: .*\bray::")
"""Ray's exception, behind which the traceback of another process stands without its first line."""


@dataclass(frozen=True)
class ServerLog:
    """A log file; what stands before ``start`` is of an earlier server."""

    path: Path
    start: int = 0

    def last_line(self) -> str:
        """Return the last line that says something."""
        with self.path.open("rb") as file:
            file.seek(max(self.start, self.path.stat().st_size - TAIL_BYTES))
            lines = _text(file.read()).splitlines()
        said = [text for line in lines if (text := _parts(line).text.strip())]
        found = (text for text in reversed(said) if not HELP.match(text))
        return next(found, said[-1] if said else "")[:QUOTED_CHARACTERS]

    def cause(self, recent: bool = False) -> str | None:
        """Return the first exception that ends a traceback, of any process, or else the first error; None without one.

        ``recent`` looks at the end only, and at exceptions: a server that served before may have logged errors of
        requests. An exception that points to another one comes last: the process that waits for the others says so.
        """
        with self.path.open("rb") as file:
            file.seek(max(self.start, self.path.stat().st_size - RECENT_BYTES) if recent else self.start)
            text = _text(file.read(MOST_BYTES))
        raised = exceptions(text)
        found = [line for line in raised if not ELSEWHERE.search(line)] or ([] if recent else errors(text)) or raised
        return one_line(found[0], CAUSE_CHARACTERS) if found else None


def _text(raw: bytes) -> str:
    """Return what the server printed, of the lines of its log."""
    return "\n".join(map(event_of, raw.splitlines()))


def exceptions(text: str) -> list[str]:
    """Return the exceptions that end tracebacks, in their order; several processes may write between each other."""
    found: list[list[str]] = []
    inside, open_ = set[str](), dict[str, tuple[_Parts, list[str]]]()
    for part in map(_parts, text.splitlines()):
        if TRACEBACK in part.text:
            inside.add(part.process)
            open_.pop(part.process, None)
        elif part.process in inside:
            if part.text and not part.text[0].isspace() and not REMOTE.match(part.text):
                inside.discard(part.process)
                if EXCEPTION.match(part.text):
                    found.append([part.text])
                    open_[part.process] = part, found[-1]
        elif (begun := open_.get(part.process)) is not None and not _continues(*begun, part):
            del open_[part.process]
    return [" ".join(line.strip() for line in lines) for lines in found]


def errors(text: str) -> list[str]:
    """Return the lines that say an error without a traceback."""
    parts = [part for part in map(_parts, text.splitlines()) if part.text.strip() and TRACEBACK not in part.text]
    return [part.text.strip() for part in parts if FAILED.search(part.place) or SAID.search(part.text)]


def _continues(first: _Parts, lines: list[str], part: _Parts) -> bool:
    """Add a line to the exception that ``first`` begins, unless its message ends before."""
    if DETAIL.match(part.text):
        return True
    if part.place != first.place or len(lines) == CAUSE_LINES or OVER.match(part.text):
        return False
    lines.append(INPUT.sub("", part.text))
    return True


class _Parts(NamedTuple):
    """Which process wrote a line, what a logger put in front, and its text."""

    process: str
    place: str
    text: str


def _parts(line: str) -> _Parts:
    plain = COLOURS.sub("", line).rstrip()
    process = PROCESS.match(plain)
    rest = plain[process.end() :] if process else plain
    level = LEVEL.match(rest)
    return _Parts(process[0].strip() if process else "", level[0] if level else "", rest[level.end() if level else 0 :])
