"""``launcher status RUN``: show where the job of a run folder stands, or the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli.commands import folder_of
from launcher.slurm.status import status


def run(arguments: Sequence[str]) -> int:
    """Print the state; return 0, or the worst exit code of what has ended. Raises `UserError`."""
    return status(folder_of("status", arguments))
