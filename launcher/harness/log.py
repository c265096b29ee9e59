"""The log of a command: what it prints, without secrets, and the line of it that says why it failed."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from launcher.core.console import one_line
from launcher.core.errors import StorageError
from launcher.core.files import append, storing
from launcher.core.redaction import redact_bytes

READ_BYTES = 2**16
HELD_BYTES = 2**16
"""A line without an end is written in parts of this size."""
TAIL_BYTES = 2**16
QUOTED_CHARACTERS = 300
CAUSE = re.compile(r"(?<![\w'\"])(?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Fault)\b(?::|$)|\bERROR\b|\berror:")
"""What stands in a line that names an error."""
FRAME = re.compile(r"^[\s│╭╰╮╯─|]+|[\s│╭╰╮╯─|]+$")
"""White space and the frames that rich draws around tracebacks."""


class LogWriter(threading.Thread):
    """Copies a pipe to the log until its end, without the secrets that are known; `fault` says why it could not."""

    def __init__(self, pipe: int, path: Path) -> None:
        super().__init__(name=f"log {path}", daemon=True)
        self._pipe, self._path = pipe, path
        self.fault: StorageError | None = None
        self._file = append(path)

    def run(self) -> None:
        held = b""
        with self._file:
            while data := os.read(self._pipe, READ_BYTES):
                *lines, held = re.split(rb"(?<=[\r\n])", held + data)
                if len(held) > HELD_BYTES:
                    lines, held = [*lines, held], b""
                self._write(b"".join(lines))
            self._write(held)
        os.close(self._pipe)

    def _write(self, data: bytes) -> None:
        if not data or self.fault is not None:  # the command must not wait for a full disk
            return
        try:
            with storing(self._path):
                self._file.write(redact_bytes(data))
        except StorageError as error:
            self.fault = error


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
        file.seek(max(begin, size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return [line for raw in re.split(r"[\r\n]+", text) if (line := FRAME.sub("", raw))]
