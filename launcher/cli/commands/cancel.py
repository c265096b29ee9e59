"""``launcher cancel RUN``: cancel the job of a run folder, or all jobs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli.commands import folder_of
from launcher.slurm.cancel import cancel


def run(arguments: Sequence[str]) -> int:
    """Cancel what is in the queue; return 0. Raises `UserError`."""
    return cancel(folder_of("cancel", arguments))
