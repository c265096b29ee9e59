"""The folders of runs, sweeps and watches below a folder: how large and old they are, and whether one is in use."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from launcher.core.errors import UserError
from launcher.core.files import read_json
from launcher.core.run_folder import RunFolder

RECENT_S = 600.0
"""A folder that was written to within so many seconds may be in use by what leaves no other trace."""
DAY_S = 86400.0


@dataclass(frozen=True)
class StoredRun:
    """The folder of a run, or that of a sweep or watch with all runs in it.

    ``in_use`` says by what; empty if by nothing.
    """

    path: Path
    what: str
    size_bytes: int
    changed_at_s: float
    in_use: str

    @property
    def age_s(self) -> float:
        """Seconds since a file in it was written."""
        return max(0.0, time.time() - self.changed_at_s)


def stored_runs(root: Path) -> Iterator[StoredRun]:
    """Yield what is stored below a folder, or in it, by path. Links are not followed."""
    what = _what(root)
    if what:
        yield _read(root, what)
    elif root.is_dir() and not root.is_symlink():
        with suppress(OSError):
            for folder in sorted(root.iterdir()):
                if folder.is_dir() and not folder.is_symlink():
                    yield from stored_runs(folder)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(size for size, _ in _files(folder))


def _what(folder: Path) -> str:
    run = RunFolder(folder)
    if folder.is_symlink():
        return ""
    if run.watch.is_file():
        return "watch"
    if run.multirun.is_file() or run.sweep.is_file():
        return "sweep"
    return "run" if run.hydra.is_dir() or run.lease.is_file() else ""


def _read(folder: Path, what: str) -> StoredRun:
    files = list(_files(folder))
    changed = max((changed for _, changed in files), default=folder.stat().st_mtime)
    return StoredRun(folder, what, sum(size for size, _ in files), changed, _in_use(folder, changed))


def _files(folder: Path) -> Iterator[tuple[int, float]]:
    """Yield the size in bytes and the time of change of every file, without links.

    What goes away in between is left out.
    """
    for parent, _, names in os.walk(folder):
        for file in (Path(parent) / name for name in names):
            with suppress(OSError):
                found = file.lstat()
                if stat.S_ISREG(found.st_mode):
                    yield found.st_size, found.st_mtime


def _in_use(folder: Path, changed_at_s: float) -> str:
    age_s = time.time() - changed_at_s
    for lease in folder.rglob(RunFolder.lease.name):
        if user := _holder(lease, age_s):
            return user
    for job in folder.rglob(str(RunFolder.job)):
        run = RunFolder(job.parent.parent)
        if not (run.outcome.is_file() or run.cancelled.is_file()):
            return f"its job has not ended (launcher status {run.path})"
    return f"written to {age_s:.0f} s ago" if age_s < RECENT_S else ""


def _holder(lease: Path, age_s: float) -> str:
    """Return who holds a run folder, as ``session.json`` says; empty if that process has ended."""
    try:
        session = read_json(lease)
        host, pid, began = str(session["host"]), int(session["pid"]), datetime.fromisoformat(session["began_at"])
    except (UserError, KeyError, TypeError, ValueError):
        return ""
    if host != socket.gethostname():
        return f"of host {host}, written to within a day" if age_s < DAY_S else ""
    with suppress(psutil.Error):
        if psutil.Process(pid).create_time() <= began.timestamp() + 1:
            return f"process {pid} works on it"
    return ""
