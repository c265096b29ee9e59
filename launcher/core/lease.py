"""Which process a run folder belongs to: the one that claimed it last."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from launcher.core.errors import TakenOver
from launcher.core.files import storing

FILE = "session.json"
"""In a run folder: where and when the session that may write to it began."""


class Lease:
    """Taken when a run begins; whoever claimed the folder before may not write to it any more.

    A node that the cluster believes to be dead may go on working: its job is queued again elsewhere, and both would
    write to the same files. Two commands may also be given the same folder by mistake.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        facts = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job_id": os.environ.get("SLURM_JOB_ID"),
            "began_at": datetime.now(UTC).isoformat(),
        }
        partial = folder / f".{FILE}.{facts['host']}.{facts['pid']}"
        with storing(folder / FILE):
            partial.write_text(json.dumps(facts) + "\n")
            self._mark = _mark(partial)
            partial.replace(folder / FILE)

    @property
    def holds(self) -> bool:
        """Tell whether no other session has claimed the folder since."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return _mark(self.folder / FILE) == self._mark
        return False

    def check(self) -> None:
        """Raise `TakenOver` unless the folder is still ours."""
        if not self.holds:
            raise TakenOver(f"{self.folder}: another session took this run over, see {FILE}; this one stops")


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns
