"""Programs that a test starts, watches and ends."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import psutil

from launcher.cli.main import dispatch
from launcher.validate import certificate

UNVALIDATED = f"validate.skip=[{','.join(certificate.NAMES[2:])}]"
"""Leaves out all checks but that the server is ready and lists the model."""
SLOW = ("engine.latency_s=0.5", "evaluate.concurrency=1", UNVALIDATED)
"""An evaluation that takes half a second per sample, so that a test can disturb it; its other steps are quick."""


def launch_here(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher in this process: for tests of messages and of composition, which start no server.

    It reads a command line as the program does, in ``folder``. A process of its own would spend most of its time on
    imports.
    """
    out, err = io.StringIO(), io.StringIO()
    with _process_state(), contextlib.chdir(folder), redirect_stdout(out), redirect_stderr(err):
        sys.argv = ["launch.py", *arguments]
        code = dispatch(list(arguments))
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


@contextmanager
def _process_state() -> Iterator[None]:
    """Restore what the launcher changes in its process; without pytest's handlers, logging writes to stderr."""
    root, handlers = logging.getLogger(), logging.getLogger().handlers[:]
    argv, environment, raising = sys.argv, dict(os.environ), logging.raiseExceptions
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:], sys.argv, logging.raiseExceptions = handlers, argv, raising
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in signals.items():
            signal.signal(number, handler)


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that still run, without zombies; each may end at any moment."""
    return [process for process in processes if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def program(
    arguments: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a program in ``folder``, and kill it at the end, also after a failure."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, cwd=folder, env=environment)
    try:
        yield process
    finally:
        killed(process)


def killed(process: subprocess.Popen[str]) -> bool:
    """Kill a program that has not ended; return whether it had not."""
    running = process.poll() is None
    if running:
        process.kill()
        process.communicate()
    return running


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float) -> None:
    """Wait for a condition, ``seconds`` at most; fail with the output of the process if it ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
