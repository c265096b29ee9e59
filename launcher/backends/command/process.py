"""A server in a process of its own, behind a keeper that outlives the launcher for as long as it takes to end it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import Signals

from launcher.core.console import to_stderr
from launcher.core.errors import ServerError
from launcher.core.files import append
from launcher.core.http import HttpError, authorization, fetch

REAPER = Path(__file__).with_name("reaper.py")
LOOK_S = 0.2
TELL_S = 30.0
"""How often to say what the server logs while it starts."""
CALL_S = 10.0
TAIL, QUOTED = 4096, 200
AFTERWARDS_S = 10.0
READY = (200, 401, 403)


@contextmanager
def kept(command: list[str], environment: Mapping[str, str], log: Path, grace_s: float) -> Iterator[ManagedProcess]:
    """Yield a server that runs ``command`` and writes to ``log``; on leaving, nothing of it is left."""
    with append(log) as file:
        keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", REAPER, str(grace_s), *command],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C is for the launcher
        )
    try:
        yield ManagedProcess(keeper, command[0], log)
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        try:
            keeper.wait(grace_s + AFTERWARDS_S)
        finally:
            keeper.kill()
            keeper.wait()


class ManagedProcess:
    """A server that was started, whether or not it still runs."""

    def __init__(self, keeper: subprocess.Popen[bytes], program: str, log: Path) -> None:
        self._keeper = keeper
        self._program = program
        self._log = log

    def ended(self) -> str | None:
        """Return how the server ended, and its last words; None while it runs."""
        code = self._keeper.poll()
        if code is None:
            return None
        last = self._last_words()
        return f"the server ended: {self._program} {_how(code)}{f': {last}' if last else ''}; see {self._log}"

    def wait(self, url: str, key: str | None, timeout_s: float) -> None:
        """Wait until ``url`` answers. Raises `ServerError` if the server ends first, or takes too long."""
        start = told = time.monotonic()
        while (status := _status(url, key)) not in READY:
            if (why := self.ended()) is not None:
                raise ServerError(f"backend.command: {why}")
            now = time.monotonic()
            if now - start > timeout_s:
                said = f"HTTP {status}" if status else "nothing"
                raise ServerError(f"backend.command: {url} answered {said} within {timeout_s:g} s; see {self._log}")
            if now - told > TELL_S:
                told = now
                to_stderr(f"serve: {now - start:.0f} s: {self._last_words() or '...'}")
            time.sleep(LOOK_S)

    def _last_words(self) -> str:
        """Return the last line of the log that says something."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
        return next((line.strip()[-QUOTED:] for line in reversed(lines) if line.strip()), "")


def _how(code: int) -> str:
    """Say what an exit code as a shell gives it means; a negative one is that of a keeper that was killed."""
    try:
        return f"was killed by {Signals(-code if code < 0 else code - 128).name}"
    except ValueError:
        return f"exited with {code}"


def _status(url: str, key: str | None) -> int | None:
    try:
        return fetch("GET", url, timeout_s=CALL_S, headers=authorization(key)).status
    except HttpError:
        return None
