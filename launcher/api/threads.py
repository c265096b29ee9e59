"""Work on long texts runs in threads, so that the event loop serves other requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

LARGE = 50_000
"""A text of this many characters takes some ten milliseconds to tokenize."""
TEMPLATE_THREADS = ThreadPoolExecutor(2, "chat-template")
"""The threads that wait for chat templates. A template that loops delays other chats, and nothing else."""


async def run_in_thread_if_large(size: int, work: Callable[[], T]) -> T:
    """Return what ``work`` returns; a text of `LARGE` or more characters takes a thread."""
    return work() if size < LARGE else await asyncio.to_thread(work)


async def run_in_template_thread(work: Callable[[], T]) -> T:
    """Return what ``work`` returns, which renders a chat template."""
    return await asyncio.get_running_loop().run_in_executor(TEMPLATE_THREADS, work)
