"""Events that come together are changed together, and none is lost where a stream breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from launcher.core.event_stream import Batches, EventStream, batches_of, mapped


class Source:
    """Batches, and whether their reader has closed them."""

    def __init__(self, *batches: list[Any], error: Exception | None = None) -> None:
        self.is_closed = False
        self.stream = EventStream(self._batches(batches, error))

    async def _batches(self, batches: tuple[list[Any], ...], error: Exception | None) -> Batches:
        try:
            for batch in batches:
                yield batch
            if error is not None:
                raise error
        finally:
            self.is_closed = True


async def one_by_one(events: list[Any]) -> AsyncIterator[Any]:
    for event in events:
        yield event


async def taken(stream: AsyncIterator[Any]) -> list[list[Any]]:
    return [batch async for batch in batches_of(stream)]


async def collected(stream: AsyncIterator[Any], found: list[Any]) -> None:
    async for event in stream:
        found.append(event)


async def test_what_comes_together_stays_together() -> None:
    source = Source([1, 2], [], [3])
    assert await taken(mapped(source.stream, lambda event: event * 10, lambda: [99])) == [[10, 20], [], [30], [99]]
    assert source.is_closed


async def test_a_plain_stream_has_batches_of_one() -> None:
    assert await taken(mapped(one_by_one([1, 2]), lambda event: -event)) == [[-1], [-2], []]


async def test_an_iteration_gives_one_event_after_the_other() -> None:
    assert [event async for event in mapped(Source([1, 2], [], [3]).stream, str)] == ["1", "2", "3"]


async def test_a_stream_can_be_taken_from_its_second_event() -> None:
    stream = Source([1, 2, 3], [4]).stream
    assert await anext(stream) == 1
    assert await taken(stream) == [[2, 3], [4]]


async def test_an_error_comes_behind_the_events_before_it() -> None:
    source, found = Source([6, 3, 0, 1]), list[Any]()
    with pytest.raises(ZeroDivisionError):
        await collected(mapped(source.stream, lambda event: 6 / event), found)
    assert (found, source.is_closed) == ([1, 2], True)


async def test_an_error_of_the_source_comes_behind_its_events() -> None:
    found = list[Any]()
    with pytest.raises(ValueError, match="broken"):
        await collected(mapped(Source([1], error=ValueError("broken")).stream, str), found)
    assert found == ["1"]


async def test_a_reader_that_leaves_early_closes_the_source() -> None:
    source = Source([1, 2], [3])
    stream = mapped(source.stream, str)
    assert await anext(stream) == "1"
    await stream.aclose()
    assert source.is_closed
    assert [event async for event in stream] == []
