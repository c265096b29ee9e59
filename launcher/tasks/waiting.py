"""Lets the thread that makes samples wait for a server, and end with the evaluation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from launcher.core.errors import TaskError

ended: ContextVar[threading.Event | None] = ContextVar("ended", default=None)
"""Set once nothing more is asked; `asyncio.to_thread` hands it to the thread."""


class NotBack(TaskError):
    """The server that makes the samples was away until nothing more was asked."""


@contextmanager
def until(event: threading.Event) -> Iterator[None]:
    """Let what waits in this context end once ``event`` is set."""
    token = ended.set(event)
    try:
        yield
    finally:
        ended.reset(token)


def wait(seconds: float) -> bool:
    """Wait, and return whether the evaluation ended in this time."""
    event = ended.get()
    return (event or threading.Event()).wait(seconds)
