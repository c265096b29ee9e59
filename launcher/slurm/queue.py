"""SLURM's own commands: a job's state, and cancelling it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from launcher.core.console import to_stderr
from launcher.core.errors import UserError

OVER = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
        *("TIMEOUT", "REVOKED"),
    }
)
"""The states that a job does not leave."""

GONE = "GONE"
"""The state of a job that SLURM has forgotten."""


@dataclass(frozen=True)
class JobState:
    """The state of a job, such as ``PENDING``, and SLURM's reason for it, which may be empty."""

    name: str
    reason: str = ""

    @property
    def is_over(self) -> bool:
        return self.name in OVER or self.name == GONE

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def state(job: str) -> JobState:
    """Return the state of a job.

    Raises `UserError` on a machine without SLURM, and `OSError` while SLURM's controller does not answer.
    """
    done = _slurm("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r")
    if done.returncode == 0 and "|" in done.stdout:
        name, _, reason = done.stdout.strip().splitlines()[0].partition("|")
        return JobState(name, "" if reason == "None" else reason)
    if done.returncode == 0 or "Invalid job id" in done.stderr:
        return JobState(GONE)
    raise OSError(done.stderr.strip())


def state_if_known(job: str) -> JobState | None:
    """Return the state of a job; while SLURM's controller does not answer, print why and return None."""
    try:
        return state(job)
    except OSError as error:
        to_stderr(f"slurm: {error}")
        return None


def cancel(job: str) -> None:
    """Cancel a job: its processes have SLURM's ``KillWait`` seconds to stop. Raises `OSError`."""
    done = _slurm("scancel", job)
    if done.returncode:
        raise OSError(done.stderr.strip())


def _slurm(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise UserError(f"cluster=slurm: there is no {command[0]} on this machine; use a login node") from None
