"""SLURM's own commands: a job's state, and its end."""

from __future__ import annotations

import subprocess

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


def state(job: str) -> tuple[str, str]:
    """Return the state of a job and the reason for it, which may be empty.

    Raises `UserError` without SLURM, and `OSError` while its controller does not answer.
    """
    done = _slurm("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r")
    if done.returncode == 0 and "|" in done.stdout:
        found, _, reason = done.stdout.strip().splitlines()[0].partition("|")
        return found, "" if reason == "None" else reason
    if done.returncode == 0 or "Invalid job id" in done.stderr:
        return GONE, ""
    raise OSError(done.stderr.strip())


def cancel(job: str) -> None:
    """End a job: it has SLURM's ``KillWait`` seconds to stop by itself. Raises `OSError`."""
    done = _slurm("scancel", job)
    if done.returncode:
        raise OSError(done.stderr.strip())


def _slurm(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise UserError(f"cluster=slurm: there is no {command[0]} on this machine; use a login node") from None
