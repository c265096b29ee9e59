"""Keeps the file of an adapter's counts up to date while it runs, so that a killed process loses few of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from launcher.core.errors import StorageError
from launcher.core.files import replace_json
from launcher.core.types import Json

INTERVAL_S = 2.0
"""Seconds between two writes: a process that is killed loses no more than what it counted in these."""


@asynccontextmanager
async def kept(path: Path, counts: Callable[[], Json], indent: int = 2) -> AsyncIterator[None]:
    """Write what ``counts`` returns whenever it has changed, every `INTERVAL_S` seconds, and at the end.

    None stands for nothing to write. A write that fails on the way is tried again; at the end it raises `StorageError`.
    """
    ended = asyncio.Event()
    writing = asyncio.create_task(_repeat(path, counts, indent, ended))
    try:
        yield
    finally:
        ended.set()
        try:
            await writing  # an earlier write must not come last
        finally:
            if (last := counts()) is not None:
                replace_json(path, last, indent=indent)


async def _repeat(path: Path, counts: Callable[[], Json], indent: int, ended: asyncio.Event) -> None:
    written = counts()
    while not ended.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(INTERVAL_S):
                await ended.wait()
                return
        if (found := counts()) != written and found is not None:
            with suppress(StorageError):
                await asyncio.to_thread(replace_json, path, found, indent=indent)
                written = found
