"""Lets the thread that makes samples wait for a server, and end with the evaluation."""

from __future__ import annotations

import threading
from contextvars import ContextVar

ended: ContextVar[threading.Event | None] = ContextVar("ended", default=None)
"""Set once nothing more is asked; `asyncio.to_thread` hands it to the thread."""


def wait(seconds: float) -> bool:
    """Wait, and return whether the evaluation ended in this time."""
    event = ended.get()
    return (event or threading.Event()).wait(seconds)
