"""Which process a run folder belongs to: the one that took the lease last."""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from launcher.core import files
from launcher.core.errors import TakenOver
from launcher.core.run_folder import RunFolder


class Session(TypedDict):
    """``session.json``: where and when the session that may write to a run folder began."""

    host: str
    pid: int
    job_id: str | None
    began_at: str


class Lease:
    """Taken when a run begins; the process that held it before may not write to the folder any more.

    SLURM queues the job of a node again that it believes to be dead. The node may go on working, and both would write
    to the same files. Two commands may also be given the same folder by mistake.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        session = Session(
            host=socket.gethostname(),
            pid=os.getpid(),
            job_id=os.environ.get("SLURM_JOB_ID"),
            began_at=datetime.now(UTC).isoformat(),
        )
        self._token = files.install(RunFolder(folder).lease, json.dumps(session) + "\n")
        self._held_at_s = time.monotonic()

    @property
    def holds(self) -> bool:
        """Tell whether no other session has taken the lease since."""
        return files.identity(RunFolder(self.folder).lease) == self._token

    def check(self, max_age_s: float = 0.0) -> None:
        """Raise `TakenOver` unless this session holds the lease, or held it less than ``max_age_s`` seconds ago."""
        now_s = time.monotonic()
        if now_s - self._held_at_s < max_age_s:
            return
        if self.holds:
            self._held_at_s = now_s
        else:
            raise TakenOver(
                f"{self.folder}: another session took this run over{self._other()}; this one stops, the other goes on; "
                "a folder of its own for each run: hydra.run.dir=<folder>"
            )

    def _other(self) -> str:
        """Return what is known of the session that has the folder now."""
        found = files.read_json(RunFolder(self.folder).lease)
        known = isinstance(found, dict) and {"pid", "host", "began_at"} <= found.keys()
        return f" (process {found['pid']} on {found['host']}, begun at {found['began_at'][:19]} UTC)" if known else ""
