"""Timers share one of the loop; each is called once, in the order of their times, unless it was cancelled."""

from __future__ import annotations

import asyncio

from launcher.core.event_loop import run_async
from launcher.core.timers import Timers


def test_timers_are_called_in_the_order_of_their_times() -> None:
    async def called() -> list[str]:
        timers, found, loop = Timers(), list[str](), asyncio.get_running_loop()
        done, now = loop.create_future(), loop.time()
        timers.call_at(now + 0.03, lambda: done.set_result(None))
        timers.call_at(now + 0.02, lambda: found.append("second"))
        timers.call_at(now + 0.01, lambda: found.append("first"))
        await asyncio.wait_for(done, 60)
        assert loop.time() >= now + 0.028
        return found

    assert run_async(called()) == ["first", "second"]


def test_a_cancelled_timer_is_not_called_also_by_one_that_is_due_with_it() -> None:
    async def called() -> list[str]:
        timers, found, loop = Timers(), list[str](), asyncio.get_running_loop()
        done, now = loop.create_future(), loop.time()
        early = timers.call_at(now + 0.01, lambda: found.append("cancelled before"))
        late = timers.call_at(now + 0.0201, lambda: found.append("cancelled by another"))
        timers.call_at(now + 0.02, late.cancel)
        timers.call_at(now + 0.03, lambda: done.set_result(None))
        early.cancel()
        await asyncio.wait_for(done, 60)
        return found

    assert run_async(called()) == []


def test_a_timer_may_set_another_one_and_close_ends_all() -> None:
    async def called() -> list[str]:
        timers, found, loop = Timers(), list[str](), asyncio.get_running_loop()
        done = loop.create_future()

        def again() -> None:
            found.append("again")
            timers.call_at(loop.time() + 0.01, lambda: done.set_result(None))

        timers.call_at(loop.time() + 0.01, again)
        await asyncio.wait_for(done, 60)
        timers.call_at(loop.time(), lambda: found.append("closed"))
        timers.close()
        ended = loop.create_future()
        loop.call_later(0.02, ended.set_result, None)
        await asyncio.wait_for(ended, 60)
        return found

    assert run_async(called()) == ["again"]
