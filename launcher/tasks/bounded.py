"""Runs work that may not end, such as a user's regular expression, under a bound and beside the event loop."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import struct
import sys
import threading
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
CallBounds = tuple[float, int | None]
"""The seconds of CPU time and the bytes of address space that a call may take."""

WORKER = Path(__file__).with_name("bounded_worker.py")
SIZE = struct.Struct("<Q")
CPU_S = 2.0
"""The CPU time in seconds that one call may take in a worker process."""
PATIENCE = 10
"""A call ends that uses no CPU time while so many times its CPU time pass. On a busy machine it may take longer."""
CPU_CLOCK = 2
"""The kind of clock that, combined with a process id, counts the CPU time of a whole process (Linux)."""
INLINE_S = 0.02
"""The CPU time in seconds for which a call holds up the event loop before a worker process takes it over."""
WORKERS = 2
"""Calls that run at the same time in processes of their own."""
KEPT = (
    *("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TZ", "LANG", "LC_ALL", "HOME"),
    *("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE"),
    "NLTK_DATA",
)
"""The environment of a worker: what Python needs and where data are, and none of the launcher's secrets."""


class TooSlow(Exception):
    """A call took more time than it has; the message says how much that is."""


class WorkerDied(Exception):
    """A worker process ended during a call."""


class _Expired(BaseException):
    """Ends a call on the event loop; no code under it catches this."""


async def run(
    function: Callable[..., T],
    *arguments: object,
    cpu_s: float = CPU_S,
    memory_bytes: int | None = None,
    inline: bool = False,
) -> T:
    """Return ``function(*arguments)`` from a worker process, which is ended after ``cpu_s`` seconds of CPU time.

    Importing the function does not count. A call that waits, for instance one that sleeps, ends after `PATIENCE` times
    ``cpu_s``. How busy the machine is decides nothing. Within ``memory_bytes`` of address space (None: no bound) it
    raises `MemoryError`; the bound ends with the call.

    ``function`` is one that can be imported; arguments and result can be pickled. With ``inline`` it is tried on the
    event loop first, for `INLINE_S`: that costs microseconds instead of a message to a process. It must then be free of
    effects, as it may be interrupted anywhere in Python code or a regular expression. Raises `TooSlow`, `WorkerDied`,
    and what ``function`` raises.
    """
    if inline:
        with suppress(TooSlow):
            return attempt(function, *arguments)
    workers = _current.get()
    if workers is not None:
        return await workers.call(function, arguments, (cpu_s, memory_bytes))
    async with running():
        return await run(function, *arguments, cpu_s=cpu_s, memory_bytes=memory_bytes)


def attempt(function: Callable[..., T], *arguments: object, cpu_s: float = INLINE_S) -> T:
    """Return ``function(*arguments)``, called here and interrupted after ``cpu_s`` seconds of CPU time.

    What it returns after that does not count: its own code may have caught the interruption. Raises `TooSlow`, also in
    any other thread than the main one, where nothing can be interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        raise TooSlow("not in the main thread")
    try:
        with _deadline(cpu_s):
            return function(*arguments)
    except _Expired:
        raise TooSlow(f"more than {cpu_s:g} s of CPU time") from None


@asynccontextmanager
async def running() -> AsyncIterator[None]:
    """Let calls share worker processes, which start when they are needed and end with the block."""
    workers = Workers(WORKERS)
    token = _current.set(workers)
    try:
        yield
    finally:
        _current.reset(token)
        await workers.close()


class Workers:
    """Up to ``count`` processes, each with one call at a time."""

    def __init__(self, count: int) -> None:
        self._slots = asyncio.Semaphore(count)
        self._idle: list[Process] = []

    async def call(self, function: Callable[..., T], arguments: tuple[object, ...], bounds: CallBounds) -> T:
        """See `run`."""
        async with self._slots:
            worker = self._idle.pop() if self._idle else await _started()
            try:
                result: T = await _called(worker, function, arguments, bounds)
            except _Raised as error:
                self._idle.append(worker)
                raise error.error from None
            except BaseException:
                await _end(worker)
                raise
            self._idle.append(worker)
            return result

    async def close(self) -> None:
        """End every process."""
        while self._idle:
            await _end(self._idle.pop())


class _Raised(Exception):
    """The function raised ``error``; its worker goes on."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


_current: ContextVar[Workers | None] = ContextVar("bounded_workers", default=None)


async def _started() -> Process:
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    pipe = asyncio.subprocess.PIPE
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-P", str(WORKER), stdin=pipe, stdout=pipe, env=environment, limit=2**30
    )
    assert worker.stdin is not None
    worker.stdin.write(_packed(sys.path))
    return worker


async def _called(
    worker: Process, function: Callable[..., Any], arguments: tuple[object, ...], bounds: CallBounds
) -> Any:
    assert worker.stdin is not None
    assert worker.stdout is not None
    cpu_s, _ = bounds
    data = _packed((function.__module__, function.__qualname__, arguments, *bounds))
    try:
        error, result = await _unless_idle(worker, _exchanged(worker.stdin, worker.stdout, data), PATIENCE * cpu_s)
    except (ConnectionError, asyncio.IncompleteReadError):
        code = await worker.wait()
        if code == -signal.SIGPROF:
            raise TooSlow(f"more than {cpu_s:g} s of CPU time") from None
        raise WorkerDied(f"its process ended with code {code}") from None
    if error is not None:
        raise _Raised(error)
    return result


async def _exchanged(sink: asyncio.StreamWriter, source: asyncio.StreamReader, data: bytes) -> Any:
    sink.write(data)
    await sink.drain()
    (size,) = SIZE.unpack(await source.readexactly(SIZE.size))
    return pickle.loads(await source.readexactly(size))


async def _unless_idle(worker: Process, exchange: Coroutine[Any, Any, T], idle_s: float) -> T:
    """Return what the exchange gives. Raises `TooSlow` once the process uses no CPU time for ``idle_s`` seconds."""
    answer = asyncio.ensure_future(exchange)
    try:
        used = _cpu_s(worker.pid)
        while not (await asyncio.wait([answer], timeout=idle_s))[0]:
            before, used = used, _cpu_s(worker.pid)
            if used == before:
                raise TooSlow(f"more than {idle_s:g} s without using the CPU")
        return await answer
    finally:
        answer.cancel()


def _cpu_s(pid: int) -> float:
    """Return the CPU time in seconds that a child has used; -1 for one that has ended."""
    try:
        return time.clock_gettime(((~pid) << 3) | CPU_CLOCK)
    except OSError:
        return -1.0


def _packed(value: object) -> bytes:
    data = pickle.dumps(value)
    return SIZE.pack(len(data)) + data


async def _end(worker: Process) -> None:
    """Kill the process and wait for it."""
    with suppress(ProcessLookupError):
        worker.kill()
    await worker.wait()


@contextmanager
def _deadline(cpu_s: float) -> Iterator[None]:
    """Raise `_Expired` in the main thread after so much CPU time; ``re`` looks for signals while it matches.

    It is raised at the end of the block too, where code in it caught the first one (``except:``).
    """
    timer, expired = _timer(), False
    timer["armed"] = True
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        yield
    except Exception:
        if timer["armed"]:
            raise
    finally:
        expired, timer["armed"] = not timer["armed"], False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if expired:
        raise _Expired


@cache
def _timer() -> dict[str, bool]:
    """Install the handler of the timer once; it does nothing outside of `_deadline`."""
    state = {"armed": False}

    def expire(number: int, frame: object) -> None:
        if state["armed"]:
            state["armed"] = False
            raise _Expired

    signal.signal(signal.SIGVTALRM, expire)
    return state
