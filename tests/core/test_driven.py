"""A driven coroutine does what it would do in a task, in the calls that bring what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from launcher.core.driven import Driven, Turn, waiter

VARIABLE: ContextVar[str] = ContextVar("variable", default="outside")


class Run:
    """A coroutine that is driven, and how often it has waited."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.pauses = 0
        self.ended = asyncio.Event()
        self.driven = Driven(coroutine, self._paused, self.ended.set)
        self.driven.start()

    def _paused(self) -> None:
        self.pauses += 1


async def test_it_runs_on_in_the_very_call_that_brings_what_it_waits_for() -> None:
    turns, said = [Turn(), Turn()], list[str]()

    async def work() -> None:
        for number, turn in enumerate(turns):
            said.append(f"waits {number}")
            await turn
        said.append("ends")

    run = Run(work())
    assert (said, run.pauses) == (["waits 0"], 1)
    turns[0].set_result(None)
    assert (said[1:], run.pauses, run.ended.is_set()) == (["waits 1"], 2, False)
    turns[1].set_result(None)
    assert (said[2:], run.pauses, run.ended.is_set()) == (["ends"], 2, True)


async def sleeps() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)


async def has_a_task() -> None:
    assert await asyncio.create_task(asyncio.sleep(0, "done")) == "done"
    assert await asyncio.to_thread(lambda: 7) == 7


async def takes_a_lock() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    asyncio.get_running_loop().call_soon(lock.release)
    async with lock:
        pass


async def catches_the_error_of_a_future() -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        await future


async def ends_at_once() -> None:
    pass


WORK = [sleeps, has_a_task, takes_a_lock, catches_the_error_of_a_future, ends_at_once]


@pytest.mark.parametrize("work", WORK, ids=[each.__name__ for each in WORK])
async def test_it_may_wait_for_whatever_a_task_may_wait_for(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    failed = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context))
    await asyncio.wait_for(Run(work()).ended.wait(), 60)
    assert failed == []


async def test_its_end_at_once_is_told_later() -> None:
    """A caller that starts many which end at once needs no deep stack."""
    run = Run(ends_at_once())
    assert not run.ended.is_set()
    await asyncio.sleep(0)
    assert run.ended.is_set()


@pytest.mark.parametrize("wait", [lambda: waiter(), lambda: asyncio.sleep(3600), lambda: asyncio.Event().wait()])
async def test_it_is_cancelled_where_it_waits_and_may_still_wait(wait: Callable[[], Any]) -> None:
    said, last = list[str](), Turn()

    async def work() -> None:
        try:
            await wait()
        except asyncio.CancelledError:
            said.append("cancelled")
            await last
            said.append("cleaned up")
            raise

    run = Run(work())
    run.driven.cancel()
    assert (said, run.ended.is_set()) == (["cancelled"], False)
    last.set_result(None)
    assert (said, run.ended.is_set()) == (["cancelled", "cleaned up"], True)
    run.driven.cancel()


async def test_cancelled_by_itself_it_ends_where_it_waits_next() -> None:
    said = list[str]()

    async def work() -> None:
        await asyncio.sleep(0)
        run.driven.cancel()
        said.append("goes on")
        await asyncio.sleep(3600)
        said.append("never")

    run = Run(work())
    await asyncio.wait_for(run.ended.wait(), 60)
    assert said == ["goes on"]


async def test_its_variables_are_its_own() -> None:
    turn, said = Turn(), list[str]()

    async def work() -> None:
        token = VARIABLE.set("inside")
        await turn
        said.append(VARIABLE.get())
        VARIABLE.reset(token)

    Run(work())
    assert VARIABLE.get() == "outside"
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await asyncio.sleep(0)
    assert said == ["inside"]


async def test_one_inside_another_waits_for_itself() -> None:
    inner, outer, said = Turn(), Turn(), list[str]()

    async def work(turn: Turn, name: str, then: Callable[[], Any]) -> None:
        then()
        await turn
        said.append(name)

    Run(work(outer, "outer", lambda: Run(work(inner, "inner", lambda: None))))
    outer.set_result(None)
    inner.set_result(None)
    assert said == ["outer", "inner"]


async def test_its_error_is_reported() -> None:
    failed = list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context["exception"]))

    async def work() -> None:
        raise ValueError("a bug")

    await asyncio.wait_for(Run(work()).ended.wait(), 60)
    assert [str(each) for each in failed] == ["a bug"]


async def test_without_one_a_future_is_waited_for() -> None:
    assert isinstance(waiter(), asyncio.Future)
