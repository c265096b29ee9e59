"""Long texts are tokenized beside the event loop, so that other requests go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LARGE = 50_000
"""A text of this many characters takes some ten milliseconds to tokenize."""


async def beside(size: int, work: Callable[[], T]) -> T:
    """Return what ``work`` returns; it runs in a thread if it is about a text of `LARGE` or more characters."""
    return work() if size < LARGE else await asyncio.to_thread(work)
