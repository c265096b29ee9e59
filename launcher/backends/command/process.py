"""A server in its own process, under a reaper that ends it even if the launcher is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from launcher.backends.command.server_log import ServerLog
from launcher.core import reaped
from launcher.core.console import to_stderr
from launcher.core.errors import HttpError, ServerError
from launcher.core.http import authorization, fetch
from launcher.core.logs import LogFile, OutputLog, captured
from launcher.core.reaped import Reaper, described_exit

POLL_INTERVAL_S = 0.2
PROGRESS_INTERVAL_S = 30.0
"""How often to print the last line of the server's log while it starts."""
PROBE_TIMEOUT_S = 10.0
LAST_WORDS_S = 2.0
"""How long the last lines of a server that has ended may take to its log."""
READY_STATUSES = (200, 401, 403)


@contextmanager
def managed_process(
    command: list[str],
    environment: Mapping[str, str],
    log: Path,
    stop_timeout_s: float,
    key: str = "backend.command",
) -> Iterator[ManagedProcess]:
    """Yield a server that runs ``command`` and writes to ``log``; on exit all its processes have ended.

    ``key`` is the setting that errors name.
    """
    with captured(LogFile(log, "server"), environment) as (output, writer):
        start = log.stat().st_size
        reaper = reaped.start(command, environment, output, stop_timeout_s)
    try:
        yield ManagedProcess(reaper, writer, command[0], ServerLog(log, start), key)
    finally:
        reaped.end(reaper, stop_timeout_s)
        writer.join(reaped.REAPER_TIMEOUT_S)


class ManagedProcess:
    """A server that was started."""

    def __init__(self, reaper: Reaper, writer: OutputLog, program: str, log: ServerLog, key: str) -> None:
        self._reaper = reaper
        self._writer = writer
        self._program = program
        self._log = log
        self._key = key
        self._is_ready = False

    def exit_reason(self) -> str | None:
        """Return how the server exited, with the cause that its log tells; None while it runs."""
        code = self._reaper.poll()
        if code is None:
            return None
        self._writer.join(LAST_WORDS_S)
        cause = self._log.cause(recent=self._is_ready) or self._log.last_line()
        who = self._program if code >= 0 else "the process that watches it"
        return f"the server ended: {who} {described_exit(code)}{f': {cause}' if cause else ''}; see {self._log.path}"

    def wait(self, url: str, key: str | None, timeout_s: float) -> None:
        """Wait until ``url`` answers. Raises `ServerError` if the server exits first, or after the timeout."""
        start = reported = time.monotonic()
        while (status := _status(url, key)) not in READY_STATUSES:
            if (why := self.exit_reason()) is not None:
                raise ServerError(f"{self._key}: {why}")
            now = time.monotonic()
            if now - start > timeout_s:
                said = f"HTTP {status}" if status else "nothing"
                raise ServerError(f"{self._key}: {url} answered {said} within {timeout_s:g} s; see {self._log.path}")
            if now - reported > PROGRESS_INTERVAL_S:
                reported = now
                to_stderr(f"serve: {now - start:.0f} s: {self._log.last_line() or '...'}")
            time.sleep(POLL_INTERVAL_S)
        self._is_ready = True


def _status(url: str, key: str | None) -> int | None:
    try:
        return fetch("GET", url, timeout_s=PROBE_TIMEOUT_S, headers=authorization(key)).status
    except HttpError:
        return None


def free_port(host: str, port: int) -> int:
    """Return ``port``, or for 0 any free one. Raises `UserError` if it is in use."""
    from launcher.asgi.server import bind
    from launcher.backends.ports import free

    with bind(host, port):
        return port or free(host)
