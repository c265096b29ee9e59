"""The private folder of one serving process, which is emptied however that process ends.

Run as a script it is the undertaker: it waits until its parent is gone, and removes what that left. It imports nothing
but the standard library.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
LONGEST = 60
"""Triton binds Unix sockets in the folder, and their paths may have 107 bytes."""
STEP_S = 0.02


@contextmanager
def workspace(parent: str | None = None) -> Iterator[Path]:
    """Yield an empty folder that only this user can read; what dead runs left beside it is removed first.

    On leaving, all processes that run from the folder are killed and the folder is gone; the same happens if this
    process dies. ``parent`` defaults to the system's folder for temporary files. Raises `OSError` if Triton cannot live
    there.
    """
    base = _base(Path(parent).absolute() if parent else _temporary())
    with (base / "lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        sweep(base)
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))
        alive = (folder / "alive").open("w")
        fcntl.flock(alive, fcntl.LOCK_EX)
    with alive, _undertaker(folder) as undertaker:
        try:
            yield folder
        finally:
            bury(folder)
            undertaker.communicate()


def _temporary() -> Path:
    found = Path(tempfile.gettempdir())
    return Path("/tmp") if _unspeakable(found) else found


def _unspeakable(folder: Path) -> bool:
    """Tell whether Triton, or a socket, could not have this name."""
    name = os.fspath(folder)
    return len(name) > LONGEST or any(c.isspace() or c in '$"\\' for c in name)


def _base(parent: Path) -> Path:
    """Return this user's folder; never one that somebody else could have put there."""
    if _unspeakable(parent):
        raise OSError(f"its name has more than {LONGEST} characters, or spaces, quotes, $ or backslashes")
    base = parent / f"launcher-pytriton-{os.getuid()}"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = base.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or base.is_symlink():
        raise PermissionError(f"{base} is open to other users")
    if os.statvfs(base).f_flag & os.ST_NOEXEC:
        raise OSError("its file system lets no program run (noexec)")
    return base


def sweep(base: Path) -> None:
    """Remove what processes that are no more have left in ``base``: nobody holds the lock of such a folder."""
    for folder in base.iterdir():
        if folder.is_dir() and not _held(folder / "alive"):
            bury(folder)


def _held(lock: Path) -> bool:
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def bury(folder: Path) -> None:
    """Kill what runs from ``folder``, and remove it together with its shared memory."""
    kill(folder)
    owner = folder.name.partition("-")[0]
    alone = list(folder.parent.glob(f"{owner}-*")) == [folder]
    remove(folder, shared_memory_prefix(int(owner)) if alone else None)


def remove(folder: Path, memory: str | None) -> None:
    """Remove a folder, and the segments of shared memory whose names begin with ``memory``."""
    shutil.rmtree(folder, ignore_errors=True)
    for segment in SHARED_MEMORY.glob(f"{memory}*") if memory else ():
        segment.unlink(missing_ok=True)


def shared_memory_prefix(pid: int) -> str:
    """Return how the names of the segments begin that Triton makes for the launcher ``pid``."""
    return f"launcher-{pid}-"


def kill(folder: Path, timeout_s: float = 10.0) -> None:
    """Kill everything that runs from ``folder``, and wait until it is gone."""
    pids = processes(folder)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(running, pids)), timeout_s)


def processes(folder: Path, program: str = "") -> list[int]:
    """Return the processes that run ``program``, or any, from ``folder``, youngest first; zombies do not count."""
    mark, name = os.fsencode(folder) + b"/", b"/" + os.fsencode(program)
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    commands = ((pid, _program(pid)) for pid in sorted(found, reverse=True))
    return [pid for pid, path in commands if path.startswith(mark) and (not program or path.endswith(name))]


def _program(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
    except OSError:
        return b""


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for something that nobody announces; return whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(STEP_S)
    return True


def _undertaker(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that buries ``folder`` when this one is gone: then the pipe between them closes."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, os.fspath(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


if __name__ == "__main__":
    sys.stdin.read()
    bury(Path(sys.argv[1]))
