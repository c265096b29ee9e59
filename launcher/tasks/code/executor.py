"""Runs a program with its tests in a sandbox, and says how it ended."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from weakref import WeakKeyDictionary

from launcher.core import processes
from launcher.tasks.code.isolation import ENVIRONMENT, TMP_BYTES, Isolation

OPEN_FILES = 256
PATIENCE = 10
"""A program may wait for so many times its CPU time, besides waiting for a CPU."""
STARVED = 10
"""A program that gets no CPU for so many times its patience has no verdict."""
MAX_ERROR_BYTES = 1 << 16


class Kind(str, Enum):
    """How a program ended."""

    passed = "passed"
    """It and its tests ran to their end."""
    wrong = "wrong"
    """An assertion failed."""
    error = "error"
    """It raised another exception, is no Python, or ended before its tests had."""
    timed_out = "timed_out"
    """It took too much time."""
    limit = "limit"
    """It took too much memory."""


@dataclass(frozen=True)
class Outcome:
    """What became of a program; ``detail`` is the error's text."""

    kind: Kind
    detail: str = ""


@dataclass(frozen=True)
class Limits:
    """What a program may take: CPU time in whole seconds, and memory."""

    cpu_s: int = 3
    memory_bytes: int = 2 << 30

    @property
    def wait_s(self) -> float:
        """The time in seconds that it may take when it waits for nothing but a CPU."""
        return float(PATIENCE * self.cpu_s)


class SandboxFault(Exception):
    """The sandbox could not run a program, which says nothing of the program."""


async def execute(code: str, test: str, limits: Limits, isolation: Isolation) -> Outcome:
    """Run the program and then its tests; as many at a time as there are CPUs. Raises `SandboxFault`."""
    job = {"code": code, "test": test, "cpu_s": limits.cpu_s, "memory_bytes": limits.memory_bytes}
    data = json.dumps(job | {"file_bytes": TMP_BYTES, "open_files": OPEN_FILES}).encode()
    async with _slots():
        with _folder(isolation) as folder:
            process = await _started(isolation, folder)
            try:
                said, errors = await _answer(process, data, limits.wait_s)
            except _TooLong:
                return Outcome(Kind.timed_out, f"more than {limits.wait_s:g} s without using its CPU time")
            finally:
                await _end(process)
    return _outcome(said, errors, process.returncode)


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _slots() -> asyncio.Semaphore:
    """Return what bounds the programs of this event loop, of all its tasks together."""
    count = max(1, len(os.sched_getaffinity(0)))
    return _by_loop.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(count))


@contextmanager
def _folder(isolation: Isolation) -> Iterator[str | None]:
    if not isolation.folder:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="launcher-program-", ignore_cleanup_errors=True) as folder:
        yield folder


async def _started(isolation: Isolation, folder: str | None) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *isolation.command, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=folder, env=dict(ENVIRONMENT)
        )
    except OSError as error:
        raise SandboxFault(f"the sandbox does not start: {error}") from error


class _TooLong(Exception):
    pass


async def _answer(process: Process, data: bytes, wait_s: float) -> tuple[bytes, bytes]:
    """Return what the process writes. Raises `_TooLong`, and `SandboxFault` if it got too little CPU time to say so."""
    exchange = asyncio.ensure_future(process.communicate(data))
    began, left = time.monotonic(), wait_s
    try:
        while not (await asyncio.wait([exchange], timeout=left))[0]:
            waited = time.monotonic() - began
            left = wait_s + _without_cpu_s(process.pid) - waited
            if left <= 0:
                raise _TooLong
            if waited > STARVED * wait_s:
                raise SandboxFault(f"the program got no CPU within {waited:.0f} s")
        return await exchange
    finally:
        exchange.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await exchange


def _without_cpu_s(pid: int) -> float:
    """Return for how long a process or a descendant was ready to run and had no CPU, in seconds (``schedstat``)."""
    waited = [0.0]
    for each in (pid, *processes.descendants(pid)):
        with suppress(OSError, ValueError, IndexError):
            waited.append(int(Path(f"/proc/{each}/schedstat").read_text().split()[1]) / 1e9)
    return max(waited)


async def _end(process: Process) -> None:
    """Kill the process; everything in its sandbox ends with it."""
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _outcome(said: bytes, errors: bytes, code: int | None) -> Outcome:
    try:
        found = json.loads(said)
    except ValueError:
        lines = errors[-MAX_ERROR_BYTES:].decode(errors="replace").strip().splitlines()
        raise SandboxFault(f"the sandbox failed: {lines[-1][:200] if lines else f'exit code {code}'}") from None
    if found["kind"] == "fault":
        raise SandboxFault(found["detail"])
    return Outcome(Kind(found["kind"]), found["detail"])
