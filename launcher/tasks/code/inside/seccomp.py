"""A filter of system calls that makes a process the only one that it can be (seccomp(2))."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
CLONE_THREAD = 0x10000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
X32 = 0x40000000
"""From this number on, the calls of x86_64 are those of its 32-bit form, which no program here needs."""


class Calls(NamedTuple):
    """The numbers of an architecture's system calls."""

    audit: int
    clone: int
    clone3: int
    tgkill: int
    refused: tuple[int, ...]


ARCHITECTURES = {
    # In this order: fork, vfork, execve, execveat.
    # Then kill, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal, pidfd_open, pidfd_getfd.
    # Then ptrace, process_vm_readv, process_vm_writev.
    # Then socket, shmget, msgget, semget, memfd_create, memfd_secret.
    # Then mount, umount2, pivot_root, chroot, unshare, setns, open_tree, move_mount, fsopen, mount_setattr.
    # Then io_uring_setup, bpf, perf_event_open, userfaultfd, add_key, request_key, keyctl.
    "x86_64": Calls(
        0xC000003E, 56, 435, 234,
        (57, 58, 59, 322, 62, 200, 129, 297, 424, 434, 438, 101, 310, 311, 41, 29, 68, 64, 319, 447, 165, 166, 155, 161,
         272, 308, 428, 429, 430, 442, 425, 321, 298, 323, 248, 249, 250),
    ),
    "aarch64": Calls(
        0xC00000B7, 220, 435, 131,
        (221, 281, 129, 130, 138, 240, 424, 434, 438, 117, 270, 271, 198, 194, 186, 190, 279, 447, 40, 39, 41, 51, 97,
         268, 428, 429, 430, 442, 425, 280, 241, 282, 217, 218, 219),
    ),
}  # fmt: skip


def restrict() -> None:
    """Leave this process its own threads and files: no other process, program, signal, socket or mount.

    Raises `OSError` where the kernel has no such filter, and for an architecture that is not known here.
    """
    calls = ARCHITECTURES.get(platform.machine())
    if calls is None:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {platform.machine()}")
    program = b"".join(_filter(calls))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header)


def _prctl(option: int, value: int, pointer: bytes | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _filter(calls: Calls) -> Iterator[bytes]:
    """Yield the instructions; a jump goes over as many as its two numbers say, if it holds and if not."""
    refuse = _line(RETURN, REFUSE | errno.EPERM)
    yield _line(LOAD, ARCHITECTURE_AT)
    yield _line(EQUAL, calls.audit, 1, 0)
    yield _line(RETURN, KILL)
    yield _line(LOAD, NUMBER_AT)
    yield _line(AT_LEAST, X32, 0, 1)
    yield refuse
    for number in calls.refused:
        yield _line(EQUAL, number, 0, 1)
        yield refuse
    yield _line(EQUAL, calls.clone3, 0, 1)
    yield _line(RETURN, REFUSE | errno.ENOSYS)  # so that a C library makes its threads with clone
    yield _line(EQUAL, calls.clone, 0, 4)
    yield _line(LOAD, ARGUMENTS_AT)
    yield _line(ANY_BIT, CLONE_THREAD, 0, 1)
    yield _line(RETURN, ALLOW)
    yield refuse
    yield _line(EQUAL, calls.tgkill, 0, 3)  # abort() and the signals of threads
    yield _line(LOAD, ARGUMENTS_AT)
    yield _line(EQUAL, os.getpid(), 1, 0)
    yield refuse
    yield _line(RETURN, ALLOW)


def _line(code: int, value: int, holds: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", code, holds, otherwise, value)
