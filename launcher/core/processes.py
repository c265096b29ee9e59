"""Find processes in ``/proc`` and kill them; processes without the launcher's packages use it, too."""

# The reaper and the cleanup process run this file in a Python without site-packages: standard library only.
from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
POLL_INTERVAL_S = 0.02


class Process(NamedTuple):
    """A line of ``/proc/<pid>/stat`` (proc(5)); ``running`` is false for a zombie."""

    pid: int
    parent: int
    session: int
    running: bool


def find(pid: int) -> Process | None:
    """Return a process, or None if there is none."""
    try:
        # The second field is the name in parentheses, which may itself contain spaces and parentheses.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Process(pid, int(fields[1]), int(fields[3]), fields[0] not in "ZX") if fields else None


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    found = find(pid)
    return found is not None and found.running


def every_process() -> Iterator[Process]:
    """Yield all processes, zombies included."""
    for pid in sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()):
        if (found := find(pid)) is not None:
            yield found


def children(parent: int) -> list[int]:
    """Return the processes that ``parent`` started, zombies included."""
    return [process.pid for process in every_process() if process.parent == parent]


def descendants(ancestor: int) -> list[int]:
    """Return the children of ``ancestor``, and theirs, zombies included."""
    by_parent: dict[int, list[int]] = {}
    for process in every_process():
        by_parent.setdefault(process.parent, []).append(process.pid)
    found = list(by_parent.get(ancestor, ()))
    for pid in found:  # which grows while it is read
        found += by_parent.get(pid, ())
    return found


def in_session(session: int) -> list[int]:
    """Return the running processes of a session, without this one."""
    return [p.pid for p in every_process() if p.session == session and p.running and p.pid != os.getpid()]


def started_from(folder: Path, program: str = "") -> list[int]:
    """Return the running processes whose program is in ``folder``, youngest first; ``program`` selects by name."""
    start, end = os.fsencode(folder) + b"/", b"/" + os.fsencode(program) if program else b""
    pids = [process.pid for process in every_process() if process.running]
    paths = ((pid, _program(pid)) for pid in reversed(pids))
    return [pid for pid, path in paths if path.startswith(start) and path.endswith(end)]


def _program(pid: int) -> bytes:
    """Return the first argument of a process; empty for a process that has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().partition(b"\0")[0]
    except OSError:
        return b""


def name(pid: int) -> str:
    """Return the short name of a process; empty if there is none."""
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def kill(pids: Iterable[int]) -> None:
    """Send SIGKILL to the processes that still exist."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_with_children(pid: int) -> None:
    """Kill a process and those that it started."""
    kill([*children(pid), pid])


def kill_session(session: int, timeout_s: float = 10.0) -> None:
    """Kill all processes of a session but this one, and wait until they are gone.

    The kernel does not reuse the number of a session while one of its processes exists.
    """
    _kill_all(lambda: in_session(session), timeout_s)


def kill_started_from(folder: Path, timeout_s: float = 10.0) -> None:
    """Kill all processes whose program is in ``folder``, and wait until they are gone."""
    _kill_all(lambda: started_from(folder), timeout_s)


def kill_with_variable(name: str, value: str, timeout_s: float = 10.0) -> None:
    """Kill all processes that were started with an environment variable, and wait until they are gone."""
    entry = f"{name}={value}".encode()
    _kill_all(lambda: [p.pid for p in every_process() if p.running and entry in _environment(p.pid)], timeout_s)


def _environment(pid: int) -> list[bytes]:
    """Return the environment that a process was started with; none of another user's, or of one that has ended."""
    try:
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _kill_all(remaining: Callable[[], list[int]], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while (pids := remaining()) and time.monotonic() < deadline:
        kill(pids)
        time.sleep(POLL_INTERVAL_S)


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll ``condition``; return whether it became true within ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True
