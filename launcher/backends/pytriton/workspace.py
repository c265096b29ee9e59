"""The private folder of one serving process, which is removed even if that process is killed."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.core.cleanup import Leftovers, removed_on_exit

MAX_LENGTH = 60
"""Triton binds Unix sockets in the folder, and their paths may have 107 bytes."""


@contextmanager
def workspace(parent: str | None = None) -> Iterator[Path]:
    """Yield an empty folder that only this user can read; stale ones beside it are removed first.

    On exit, all processes that run from the folder are killed, and the folder and Triton's shared memory are removed. A
    cleanup process does the same if this process is killed. ``parent`` defaults to the system's folder for temporary
    files. Raises `OSError` if Triton cannot run there.
    """
    base = _base(Path(parent).absolute() if parent else _temporary())
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        collect_stale(base)
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))
        alive = (folder / "alive").open("w")
        fcntl.flock(alive, fcntl.LOCK_EX)
    with alive, removed_on_exit(_leftovers(folder)):
        yield folder


def _temporary() -> Path:
    found = Path(tempfile.gettempdir())
    return Path("/tmp") if _is_unusable(found) else found


def _is_unusable(folder: Path) -> bool:
    """Return whether neither Triton nor a Unix socket can have a path below this one."""
    path = os.fspath(folder)
    return len(path) > MAX_LENGTH or any(c.isspace() or c in '$"\\' for c in path)


def _base(parent: Path) -> Path:
    """Return this user's folder. Raises `PermissionError` if another user may have created it."""
    if _is_unusable(parent):
        raise OSError(f"its name has more than {MAX_LENGTH} characters, or spaces, quotes, $ or backslashes")
    base = parent / f"launcher-pytriton-{os.getuid()}"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = base.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or base.is_symlink():
        raise PermissionError(f"{base} is open to other users")
    if os.statvfs(base).f_flag & os.ST_NOEXEC:
        raise OSError("its file system lets no program run (noexec)")
    return base


def collect_stale(base: Path) -> None:
    """Remove the workspaces in ``base`` whose process has ended: no process holds their lock."""
    for folder in base.iterdir():
        if folder.is_dir() and not _is_locked(folder / "alive"):
            _leftovers(folder).remove()


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _leftovers(folder: Path) -> Leftovers:
    return Leftovers(os.fspath(folder), shared_memory=shared_memory_prefix(folder))


def shared_memory_prefix(folder: Path) -> str:
    """Return how the names of the segments begin that Triton creates for this workspace."""
    return f"launcher-{folder.name}-"
