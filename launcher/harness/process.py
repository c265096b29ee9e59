"""Runs one command to its end, under a reaper that ends it with all that it has started."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.core import reaped
from launcher.core.files import append, storing
from launcher.core.logs import LogFile, captured, line
from launcher.core.reaped import REAPER_TIMEOUT_S, Reaper, described_exit
from launcher.core.redaction import redact
from launcher.harness.log import cause

POLL_INTERVAL_S = 0.1


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code as a shell reports it, or why it was ended; ``said`` is the line of the cause.

    A negative code means that the reaper itself was killed.
    """

    code: int
    seconds: float
    stopped: str = ""
    said: str = ""

    @property
    def fault(self) -> str | None:
        """Say why the command failed, None for one that did not."""
        if not self.stopped and self.code == 0:
            return None
        how = self.stopped or f"it {described_exit(self.code)}"
        return f"{how}: {self.said}" if self.said else how


def run(
    words: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    stop_timeout_s: float,
    stop: Callable[[float], str | None],
) -> Ended:
    """Run a command and return how it ended; ``stop`` gets the seconds so far, and returns why it must end, or None.

    What ``stop`` raises ends the command too. Raises `StorageError` for a log that cannot be written.
    """
    begin, start = _begin(log, words), time.monotonic()
    with _running(words, environment, log, stop_timeout_s) as reaper:
        why = None
        while (code := reaper.poll()) is None and why is None:
            time.sleep(POLL_INTERVAL_S)
            why = stop(time.monotonic() - start)
    code = reaper.returncode
    said = cause(log, begin) if code or why else ""
    return Ended(code, round(time.monotonic() - start, 3), why or "", said)


@contextmanager
def _running(
    words: Sequence[str], environment: Mapping[str, str], log: Path, stop_timeout_s: float
) -> Iterator[Reaper]:
    with captured(LogFile(log, _name(log)), environment) as (output, writer):
        reaper = reaped.start(words, environment, output, stop_timeout_s)
    try:
        yield reaper
    finally:
        reaped.end(reaper, stop_timeout_s)
        writer.join(REAPER_TIMEOUT_S)
    if writer.fault is not None:
        raise writer.fault


def _begin(log: Path, words: Sequence[str]) -> int:
    """Write the command into the log; return where what it prints begins."""
    values = line(f"$ {shlex.join(words)}", _name(log), "info", time.time(), {})
    with append(log) as file, storing(log):
        file.write(f"{redact(json.dumps(values, ensure_ascii=False))}\n".encode("utf-8", "backslashreplace"))
        return file.tell()


def _name(log: Path) -> str:
    return f"harness-{log.parent.name}"
