"""Keeps one server: run as a script, it starts a command and sees that nothing of it stays.

Usage: ``python keeper.py <grace_s> <program> <argument> ...``. When its standard input ends, as it does when the
launcher closes it or is gone, the server gets SIGTERM; what is left of all that it started after ``grace_s`` seconds is
killed. When the server ends by itself, the rest is killed at once. The exit code is the server's, as a shell gives it.
It imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STEP_S = 0.05
LEFT_S = 2.0


def main(grace_s: float, command: list[str]) -> int:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # whoever loses its parent becomes our child, and is found
    for each in ENDS:
        signal.signal(each, lambda *_: None)  # the launcher decides when the end is
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    server = _start(libc, command)
    code = _wait(server, ended)
    if code is None:
        code = _end(server, grace_s)
    while _children(os.getpid()):
        _kill()
        time.sleep(STEP_S)
        _reaped(server)
    return code if code is not None else 128 + signal.SIGKILL


def _start(libc: ctypes.CDLL, command: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    for each in ENDS:
        signal.signal(each, signal.SIG_DFL)
    os.setsid()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _wait(server: int, signals: int) -> int | None:
    """Return the server's exit code, or None when it is to end."""
    while True:
        ready, _, _ = select.select([0, signals], [], [])
        if 0 in ready and not os.read(0, 1):
            return None
        if signals in ready:
            os.read(signals, 512)
        if (code := _reaped(server)) is not None:
            return code


def _end(server: int, grace_s: float) -> int | None:
    """Ask the server to end, and wait; what outlives it by more than `LEFT_S` does not end by itself."""
    os.kill(server, signal.SIGTERM)
    os.kill(server, signal.SIGCONT)  # one that is stopped could not end in order
    code, deadline = None, time.monotonic() + grace_s
    while _children(os.getpid()) and time.monotonic() < deadline:
        time.sleep(STEP_S)
        if (found := _reaped(server)) is not None:
            code, deadline = found, min(deadline, time.monotonic() + LEFT_S)
    return code


def _reaped(server: int) -> int | None:
    """Bury the children that have ended; return the server's exit code if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if not pid:
            return code
        if pid == server:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended


def _kill() -> None:
    for pid in _descendants(os.getpid()):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)


def _children(pid: int) -> list[int]:
    found = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [child for child in found if _parent(child) == pid]


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
