"""Run one command as the parent of every process that it leaves behind, and end them all.

When standard input ends, as it does when the launcher closes it or dies, the command gets SIGTERM. What runs
``stop_timeout_s`` seconds later gets SIGKILL. When the command exits by itself, the rest is killed at once. The exit
code is that of the command, as a shell reports it.
"""

# The reaper runs this file in a Python without site-packages: standard library only.
from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time

from launcher.core import processes

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_INTERVAL_S = 0.05
CHILDREN_TIMEOUT_S = 2.0
"""How long the command's own processes may run after it has exited."""


def main(stop_timeout_s: str, *command: str) -> None:
    """Exit with the command's code after all that it started has ended."""
    sys.exit(run(float(stop_timeout_s), command))


def run(stop_timeout_s: float, command: tuple[str, ...]) -> int:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # processes that lose their parent become our children
    for each in IGNORED:
        signal.signal(each, lambda *_: None)  # the end of standard input is what ends the command
    wakeup, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = _start(libc, command)
    code = _wait(child, wakeup)
    if code is None:
        code = _stop(child, stop_timeout_s)
    while processes.children(os.getpid()):
        processes.kill(processes.descendants(os.getpid()))
        time.sleep(POLL_INTERVAL_S)
        _reap(child)
    return code if code is not None else 128 + signal.SIGKILL


def _start(libc: ctypes.CDLL, command: tuple[str, ...]) -> int:
    pid = os.fork()
    if pid:
        return pid
    for each in IGNORED:
        signal.signal(each, signal.SIG_DFL)
    os.setsid()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _wait(child: int, wakeup: int) -> int | None:
    """Return the command's exit code, or None when standard input has ended."""
    while True:
        ready, _, _ = select.select([0, wakeup], [], [])
        if 0 in ready and not os.read(0, 1):
            return None
        if wakeup in ready:
            os.read(wakeup, 512)
        if (code := _reap(child)) is not None:
            return code


def _stop(child: int, stop_timeout_s: float) -> int | None:
    """Send SIGTERM to the command and wait until all has ended; return its exit code, or None after the timeout."""
    os.kill(child, signal.SIGTERM)
    os.kill(child, signal.SIGCONT)  # a stopped process handles SIGTERM only after it continues
    code, deadline = None, time.monotonic() + stop_timeout_s
    while processes.children(os.getpid()) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
        if (found := _reap(child)) is not None:
            code, deadline = found, min(deadline, time.monotonic() + CHILDREN_TIMEOUT_S)
    return code


def _reap(child: int) -> int | None:
    """Reap the children that have ended; return the exit code of ``child`` if it is one of them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if not pid:
            return code
        if pid == child:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended
