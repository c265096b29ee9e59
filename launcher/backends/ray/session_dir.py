"""The private folder of one Ray, and the end of every process of its session."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST = 16
"""Ray's Unix sockets lie up to 90 bytes deeper, and their paths may have 107."""
RAY = "r"
"""Ray's part of the folder: it opens what it is given to everybody, but not what is around it."""
STEP_S = 0.02
PARENT, SESSION = 1, 3
"""Where ``/proc/<pid>/stat`` has them, counted from the state."""


@contextmanager
def home(token: str) -> Iterator[Path]:
    """Yield an empty folder with the access ``token``, which only this user can read; it is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="launcher-ray-", dir=_parent()))
    try:
        with open(os.open(folder / "token", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(token)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parent() -> str:
    usual = tempfile.gettempdir()
    return usual if len(usual) <= LONGEST else "/tmp"


def members(session: int) -> list[int]:
    """Return the living processes of a session, this one left out."""
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in found if pid != os.getpid() and belongs(pid, session)]


def belongs(pid: int, session: int) -> bool:
    """Whether a process is of a session, there, and no zombie."""
    return _session(pid) == session


def children(parent: int) -> list[int]:
    """Return the processes that another one started."""
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in found if _stat(pid)[PARENT : PARENT + 1] == [str(parent)]]


def _session(pid: int) -> int | None:
    """Return the session of a process that is there and no zombie."""
    fields = _stat(pid)
    return int(fields[SESSION]) if fields and fields[0] not in "ZX" else None


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def name(pid: int) -> str:
    """Return the short name of a process, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def end(session: int, timeout_s: float = 10.0) -> None:
    """Kill all processes of a session but this one, and wait until they are gone.

    The kernel gives a session's number to nobody else while a process of it is left.
    """
    deadline = time.monotonic() + timeout_s
    while (left := members(session)) and time.monotonic() < deadline:
        kill(left)
        time.sleep(STEP_S)


@contextmanager
def guarded(session: int, folder: Path) -> Iterator[None]:
    """Let a process of its own wait meanwhile: should this one be gone, it ends the session and removes the folder.

    The session's leader does the same by itself, unless it hangs, or Ray's client in it ends it too early.
    """
    path = os.pathsep.join(p for p in sys.path if p)
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "launcher.backends.ray.session_dir", str(session), os.fspath(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ) | {"PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()
        guard.wait()
        assert guard.stdin is not None
        guard.stdin.close()


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_family(pid: int) -> None:
    """Kill a process and those that it started."""
    kill([*children(pid), pid])


if __name__ == "__main__":
    sys.stdin.read()
    end(int(sys.argv[1]))
    shutil.rmtree(sys.argv[2], ignore_errors=True)
