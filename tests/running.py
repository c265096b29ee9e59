"""Programs that run while a test looks at what they do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from launcher.validate import certificate

SLOW = (
    "engine.latency_s=0.5",
    "evaluate.concurrency=1",
    f"validate.skip=[{','.join(certificate.NAMES[2:])}]",
)
"""An evaluation that goes on for half a second a sample, while a test does something to it; nothing else takes long."""


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those that are still there, and no zombies; they may end at any moment."""
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
    """Run a program in ``folder``; whatever fails, it is not left behind."""
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
    """Wait until something is so, for ``seconds`` at most; fail with what the process said if it ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
