from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from launcher.asgi.responses import Disconnected, until_disconnect


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def gone() -> Message:
    return {"type": "http.disconnect"}


async def test_work_that_ends_in_time() -> None:
    assert await until_disconnect(never, asyncio.sleep(0, "done")) == "done"


async def test_work_that_fails() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await until_disconnect(never, fail())


async def test_work_has_ended_when_the_client_is_gone() -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended = True

    with pytest.raises(Disconnected):
        await until_disconnect(gone, work())
    assert ended


async def test_being_cancelled_cancels_the_work() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(until_disconnect(never, work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
