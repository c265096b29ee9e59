"""Starts programs under a reaper, which ends them with all that they have started, even if the launcher is killed."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from signal import Signals
from typing import BinaryIO

from launcher.core.cleanup import isolated

REAPER = "launcher.core.reaper"
REAPER_TIMEOUT_S = 10.0
"""How long a reaper may take to end, beyond the time that its program has to stop."""


def start(
    words: Sequence[str], environment: Mapping[str, str], output: int | BinaryIO, stop_timeout_s: float
) -> subprocess.Popen[bytes]:
    """Start a program whose output goes to a file or descriptor; return its reaper, which `end` must end."""
    return subprocess.Popen(
        isolated(REAPER, str(stop_timeout_s), *words),
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C must reach only the launcher
    )


def end(reaper: subprocess.Popen[bytes], stop_timeout_s: float) -> None:
    """Let the reaper end its program, which has ``stop_timeout_s`` seconds to stop by itself."""
    assert reaper.stdin is not None
    reaper.stdin.close()
    try:
        reaper.wait(stop_timeout_s + REAPER_TIMEOUT_S)
    finally:
        reaper.kill()
        reaper.wait()


def described_exit(code: int) -> str:
    """Describe an exit code as a shell reports it; a negative one means that the reaper itself was killed."""
    try:
        return f"was killed by {Signals(-code if code < 0 else code - 128).name}"
    except ValueError:
        return f"exited with {code}"
