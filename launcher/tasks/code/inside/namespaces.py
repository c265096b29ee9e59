"""Makes the sandbox's namespaces and its file system with system calls, where there is no bubblewrap."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

from . import supervisor

NEW_NS, NEW_CGROUP, NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = (
    0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
READ_ONLY, NO_SUID, REMOUNT, BIND, RECURSIVE, PRIVATE, DETACH = 1, 2, 32, 4096, 16384, 1 << 18, 2
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the supervisor as process 1 of new namespaces; ``sys.argv[1]`` has the layout as JSON."""
    layout = json.loads(sys.argv[1])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _unshare()
    child = os.fork()
    if child:
        os.close(0)
        os.close(1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _enter(layout)
    supervisor.main()


def _unshare() -> None:
    """Leave the namespaces, as root of a new user namespace, or as root where there may be none."""
    user, group = os.getuid(), os.getgid()
    rest = NEW_NS | NEW_UTS | NEW_IPC | NEW_PID | NEW_NET
    try:
        _call("unshare", NEW_USER | rest)
    except OSError:
        if user:
            raise
        _call("unshare", rest)
        return
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _enter(layout: dict[str, list[str] | int]) -> None:
    """Make the layout's read-only paths and a small private ``/tmp`` the whole file system."""
    shown, devices, tmp_bytes = layout["shown"], layout["devices"], layout["tmp_bytes"]
    assert isinstance(shown, list)
    assert isinstance(devices, list)
    root = "/tmp"
    _call("mount", None, b"/", None, RECURSIVE | PRIVATE, None)
    before = {path: os.open(path, os.O_PATH) for path in [*shown, *devices]}  # as /tmp may hold some of them
    _call("mount", b"none", root.encode(), b"tmpfs", NO_SUID, b"mode=755,size=4m")
    Path(f"{root}/tmp").mkdir()
    _call("mount", b"none", f"{root}/tmp".encode(), b"tmpfs", NO_SUID, f"mode=777,size={tmp_bytes}".encode())
    for path, opened in before.items():
        _bind(opened, f"{root}{path}", read_only=path in shown)
    _call("mount", None, root.encode(), None, REMOUNT | READ_ONLY | NO_SUID, None)
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", DETACH)
    os.chdir("/tmp")


def _bind(opened: int, target: str, read_only: bool) -> None:
    source = f"/proc/self/fd/{opened}"
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    _call("mount", source.encode(), target.encode(), None, BIND | RECURSIVE, None)
    os.close(opened)
    if read_only:
        locked = os.statvfs(target).f_flag & (NO_SUID | 4 | 8 | 1024 | 2048 | 4096)  # flags that a bind mount keeps
        flags = _kept(locked)
        _call("mount", None, target.encode(), None, REMOUNT | BIND | READ_ONLY | NO_SUID | flags, None)


def _kept(flags: int) -> int:
    """Return statvfs' flags as those of mount(2), which differ for the times of access."""
    times = {1024: 1024, 2048: 2048, 4096: 1 << 21}
    return (flags & (4 | 8)) | sum(value for flag, value in times.items() if flags & flag)


def _pivot_root() -> ctypes.c_long:
    """Return the number of a system call that C libraries have no function for."""
    return ctypes.c_long(155 if os.uname().machine == "x86_64" else 41)


def _call(name: str, *arguments: bytes | int | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    typed = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    function = getattr(libc, name) if name != "pivot_root" else partial(libc.syscall, _pivot_root())
    if function(*typed):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
