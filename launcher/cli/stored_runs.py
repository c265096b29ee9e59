"""The folders of runs, sweeps and watches below a folder: how large and old they are, and whether one is in use."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from launcher.core.errors import UserError
from launcher.core.files import read_json
from launcher.core.kinds import kind_of
from launcher.core.run_folder import RunFolder

RECENT_S = 600.0
"""A folder that was written to within so many seconds may be in use by what leaves no other trace."""
DAY_S = 86400.0


@dataclass(frozen=True)
class StoredRun:
    """The folder of a run, or that of a sweep, a watch, a race or a check of servers with all runs in it.

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


def _what(folder: Path) -> str:
    """Say what a folder holds; empty if it is none of ours. A race and a check of several servers have runs in them."""
    if kind := kind_of(folder, strict=True):
        return kind.value
    if folder.is_symlink() or not folder.is_dir():
        return ""
    for what, file in (("race", RunFolder.race), ("check", RunFolder.servers)):
        if (folder / str(file)).is_file() and any(kind_of(inner, strict=True) for inner in folder.iterdir()):
            return what
    return ""


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(size for _, files in _walked(folder) for size, _ in files)


def _read(folder: Path, what: str) -> StoredRun:
    """Look at each file of a folder once."""
    size, changed = 0, 0.0
    holders: list[RunFolder] = []
    for parent, files in _walked(folder):
        size += sum(bytes_ for bytes_, _ in files)
        changed = max([changed, *(time_ for _, time_ in files)])
        inside = RunFolder(parent)
        if inside.lease.exists() or inside.job.exists():
            holders.append(inside)
    changed = changed or folder.stat().st_mtime
    return StoredRun(folder, what, size, changed, _in_use(holders, time.time() - changed))


def _walked(folder: Path) -> Iterator[tuple[Path, list[tuple[int, float]]]]:
    """Yield each folder in it with the size in bytes and the time of change of its files, without links.

    What goes away in between is left out.
    """
    for parent, _, names in os.walk(folder):
        found = []
        for name in names:
            with suppress(OSError):
                file = Path(parent, name).lstat()
                if stat.S_ISREG(file.st_mode):
                    found.append((file.st_size, file.st_mtime))
        yield Path(parent), found


def _in_use(holders: Sequence[RunFolder], age_s: float) -> str:
    """Say what uses one of the run folders with a session or a job, or has written just now; empty if nothing."""
    for run in holders:
        if run.lease.exists() and (user := _holder(run.lease, age_s)):
            return user
    for run in holders:
        if run.job.exists() and not (run.outcome.is_file() or run.cancelled.is_file()):
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
