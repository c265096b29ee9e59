from __future__ import annotations

import asyncio

import pytest

from launcher.core.types import Request, Sample
from launcher.evaluate.queue import MAX_OUTAGES, SampleQueue


class Numbers:
    """Hands out samples named "0", "1", ..."""

    def __init__(self, count: int) -> None:
        self._left = [Sample("t", str(i), (Request("/v1/completions", {}),), "") for i in range(count)]

    held = False
    made = 0
    """How many can be taken at once."""

    async def take(self) -> Sample | None:
        return self._left.pop(0) if self._left else None

    def take_at_once(self) -> Sample | None:
        self.made -= 1
        return self._left.pop(0) if self.made >= 0 else None


async def test_a_source_that_holds_its_samples_back_is_waited_for():
    source = Numbers(2)
    queue = SampleQueue(source, 4)
    first = await queue.take()
    source.held = True
    assert first is not None
    assert queue.requeue(first)
    assert await queue.take() is first, "what is asked again does not wait"
    queue.done()
    waiting = asyncio.ensure_future(queue.take())
    await waits(asyncio.shield(waiting))
    source.held = False
    queue.wake()
    second = await asyncio.wait_for(waiting, 60)
    assert second is not None
    assert second.id == "1"


async def taken(queue, count):
    return [await queue.take() for _ in range(count)]


async def waits(awaitable):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(awaitable, 0.02)


async def test_each_is_handed_out_once():
    queue = SampleQueue(Numbers(3), 8)
    assert [sample.id for sample in await taken(queue, 3)] == ["0", "1", "2"]
    for _ in range(3):
        queue.done()
    assert await taken(queue, 2) == [None, None]


async def test_what_can_be_taken_at_once_waits_for_what_is_to_come_first():
    source = Numbers(4)
    queue = SampleQueue(source, 8)
    first, _ = await taken(queue, 2)
    source.made = 2
    queue.again(first, last=False)
    assert [sample.id for sample in await taken(queue, 2)] == ["0", "2"]
    source.held = True
    await waits(queue.take())
    source.held = False
    queue.stop("enough")
    assert (await taken(queue, 1), queue.stopped) == ([None], "enough")


async def test_the_end_waits_for_what_may_come_back():
    queue = SampleQueue(Numbers(1), 8)
    sample = await queue.take()
    later = asyncio.gather(queue.take(), queue.take())
    await asyncio.sleep(0)
    assert queue.requeue(sample)  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    assert not later.done(), "one of both has it, and may give it back once more"
    queue.done()
    assert await later == [sample, None]


async def test_fresh_ones_come_before_those_that_met_an_outage():
    queue = SampleQueue(Numbers(4), 64)
    first, second = await taken(queue, 2)
    assert queue.requeue(second)
    assert queue.requeue(first)
    assert [sample.id for sample in await taken(queue, 4)] == ["2", "3", "1", "0"]


async def test_those_that_met_outages_have_fewer_and_fewer_beside_them():
    queue = SampleQueue(Numbers(32), 16)
    for sample in await taken(queue, 32):
        assert queue.requeue(sample)
    pair = await taken(queue, 2)
    await waits(queue.take())
    assert queue.requeue(pair[0])
    assert (await queue.take()).id == "2", "those with one outage come before those with two"
    for _ in range(29):
        queue.done()
        await queue.take()
    queue.done()
    await waits(queue.take())  # one is still in flight, and the last has met two outages
    queue.done()
    assert await queue.take() is pair[0]


async def test_a_sample_meets_a_bounded_number_of_outages():
    queue = SampleQueue(Numbers(1), 64)
    for _ in range(MAX_OUTAGES - 1):
        assert queue.requeue(await queue.take())  # type: ignore[arg-type]
    sample = await queue.take()
    assert queue.requeue(sample, outage=False), "what is no outage does not count"  # type: ignore[arg-type]
    assert not queue.requeue(await queue.take())  # type: ignore[arg-type]
    queue.done()
    assert await queue.take() is None
