"""Starts programs under a reaper, which ends them with all that they have started, even if the launcher is killed."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from signal import SIGCONT, Signals
from typing import BinaryIO

from launcher.core import processes
from launcher.core.cleanup import isolated

REAPER = "launcher.core.reaper"
REAPER_TIMEOUT_S = 10.0
"""How long a reaper may take to end, beyond the time that its program has to stop."""


TOKEN = "LAUNCHER_REAPED"
"""The environment variable by which the processes of one program are found after their reaper was killed."""


class Reaper(subprocess.Popen[bytes]):
    """A reaper; ``token`` is in the environment of every process that its program starts."""

    token: str


def start(
    words: Sequence[str], environment: Mapping[str, str], output: int | BinaryIO, stop_timeout_s: float
) -> Reaper:
    """Start a program whose output goes to a file or descriptor; return its reaper, which `end` must end."""
    token = secrets.token_hex(16)
    reaper = Reaper(
        isolated(REAPER, str(stop_timeout_s), *words),
        env={**environment, TOKEN: token},
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C must reach only the launcher
    )
    reaper.token = token
    return reaper


def end(reaper: Reaper, stop_timeout_s: float) -> None:
    """Let the reaper end its program, which has ``stop_timeout_s`` seconds to stop by itself.

    What a reaper that was killed, or that hangs, leaves behind is killed here.
    """
    assert reaper.stdin is not None
    reaper.stdin.close()
    try:
        if reaper.poll() is None:
            reaper.send_signal(SIGCONT)  # a stopped reaper ends its program once it continues
        with suppress(subprocess.TimeoutExpired):
            reaper.wait(stop_timeout_s + REAPER_TIMEOUT_S)
    finally:
        reaper.kill()
        reaper.wait()
        if reaper.returncode < 0:
            processes.kill_with_variable(TOKEN, reaper.token)


def described_exit(code: int) -> str:
    """Describe an exit code as a shell reports it; a negative one means that the reaper itself was killed."""
    try:
        return f"was killed by {Signals(-code if code < 0 else code - 128).name}"
    except ValueError:
        return f"exited with {code}"
