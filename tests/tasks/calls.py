"""Functions that a worker process imports."""

from __future__ import annotations

import os
import re
import time


class Odd(Exception):
    """An error that cannot be made again from its message."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def add(a: int, b: int) -> int:
    return a + b


def divide(a: int, b: int) -> float:
    return a / b


def odd() -> None:
    raise Odd("of its", "own kind")


def allocate(size: int) -> int:
    return len(bytearray(size))


def process() -> int:
    return os.getpid()


def slowly(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def search(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


def says(text: str) -> int:
    print(text, flush=True)
    return 1


def variable(name: str) -> str | None:
    return os.environ.get(name)


def trickle(wall_s: float) -> int:
    """Use a little CPU time every 10 ms, as on a machine that is busy with other work."""
    end = time.monotonic() + wall_s
    while time.monotonic() < end:
        time.sleep(0.01)
    return os.getpid()
