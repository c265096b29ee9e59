"""The process that runs calls for `launcher.tasks.bounded`, one at a time, until its parent is gone.

It starts as a script, and imports nothing of the program but what a call needs.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import operator
import os
import pickle
import resource
import signal
import struct
import sys
from types import ModuleType
from typing import IO, Any

SIZE = struct.Struct("<Q")


def main() -> None:
    """Answer calls from standard input on standard output; what a function prints goes to standard error.

    This ends, and says nothing, when the launcher does, also in the middle of a call.
    """
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        sys.path[:] = received(source)
        while True:
            data = outcome(*received(source))
            sink.write(SIZE.pack(len(data)) + data)
            sink.flush()
    except EOFError:
        return
    except BrokenPipeError:
        os._exit(1)  # without another attempt to write what is left


def received(source: IO[bytes]) -> Any:
    """Return the next message. Raises `EOFError` after the last, and for one that was cut."""
    return pickle.loads(_read(source, SIZE.unpack(_read(source, SIZE.size))[0]))


def _read(source: IO[bytes], size: int) -> bytes:
    found = source.read(size)
    if len(found) < size:
        raise EOFError
    return found


def outcome(module: str, name: str, arguments: tuple[object, ...], cpu_s: float, memory_bytes: int | None) -> bytes:
    """Return the pickled pair of error and result. SIGPROF ends the process when the CPU time is used up."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    try:
        function = operator.attrgetter(name)(imported(module))
        bound_memory(memory_bytes, limits)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        result = function(*arguments)
        return pickle.dumps((None, asyncio.run(result) if asyncio.iscoroutine(result) else result))
    except Exception as error:
        return pickled(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def bound_memory(memory_bytes: int | None, limits: tuple[int, int]) -> None:
    """Bound the address space of this process for a call, unless another bound is set already."""
    soft, hard = limits
    if memory_bytes is not None and soft == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, hard))


def imported(name: str) -> ModuleType:
    """Return a module by its name, which is its path for a file that is in no package."""
    if name in sys.modules or not name.endswith(".py"):
        return importlib.import_module(name) if name not in sys.modules else sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def pickled(error: Exception) -> bytes:
    """Return the pair of an error and no result; an error that cannot be pickled becomes a `RuntimeError`."""
    try:
        data = pickle.dumps((error, None))
        pickle.loads(data)
    except Exception:
        return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), None))
    return data


if __name__ == "__main__":
    main()
