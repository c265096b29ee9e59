"""Long texts are tokenized beside the event loop, so that other requests go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

LARGE = 50_000
"""A text of this many characters takes some ten milliseconds to tokenize."""


RENDERING = ThreadPoolExecutor(2, "chat-template")
"""The threads that wait for chat templates. A template that loops holds up other chats, and nothing else."""


async def beside(size: int, work: Callable[[], T]) -> T:
    """Return what ``work`` returns; it runs in a thread if it is about a text of `LARGE` or more characters."""
    return work() if size < LARGE else await asyncio.to_thread(work)


async def rendering(work: Callable[[], T]) -> T:
    """Return what ``work`` returns, which waits for a chat template."""
    return await asyncio.get_running_loop().run_in_executor(RENDERING, work)
