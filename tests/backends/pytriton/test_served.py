from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from launcher.backends.pytriton import tensors
from launcher.backends.pytriton.served import Arrays, Refusal, Served
from launcher.engines.base import Generation, Sampling, Tokens
from launcher.engines.echo import Echo, EchoRunner
from launcher.model import Model


@dataclass
class Request:
    """What PyTriton hands over."""

    parameters: dict[str, object]
    data: dict[str, np.ndarray] = field(default_factory=dict)


def prompted(text: str, **parameters: object) -> Request:
    return Request({"temperature": 0} | parameters, {"tokens": np.frombuffer(text.encode(), np.uint8).astype(np.int32)})


@pytest.fixture
def runner() -> EchoRunner:
    return EchoRunner(Echo(tokens_per_second=200), Model("echo"))


@pytest.fixture
def served(runner: EchoRunner) -> Iterator[Served]:
    served = Served()
    with served.running(), served.serving(runner):
        yield served


async def answers(served: Served, request: Request) -> list[Arrays]:
    return [arrays async for (arrays,) in served.answer([request])]


async def test_a_sequence_streams_as_tensors(served: Served) -> None:
    found = await answers(served, prompted("abc"))
    assert [t for arrays in found for t in arrays["tokens"].tolist()] == [97, 98, 99, 256]
    assert found[-1]["finish"].tolist() == [b"stop"]


async def test_text_gives_text_in_whole_characters(served: Served) -> None:
    data = {"text": np.array(["né".encode()], dtype=object)}
    found = await answers(served, Request({"temperature": 0}, data))
    assert b"".join(arrays["text"][0] for arrays in found).decode() == "né"


async def test_a_feed_carries_the_events_of_others(served: Served) -> None:
    feed = served.answer([Request({"feed": "f"})])
    first = asyncio.ensure_future(anext(feed))
    await asyncio.sleep(0)
    greedy = Sampling(temperature=0)
    batch = [Generation("one", (97, 98), greedy), Generation("two", (99, 100), greedy), Generation("bad", (), greedy)]
    packed = np.frombuffer(tensors.pack_requests(batch), np.uint8)
    assert await answers(served, Request({"feed": "f"}, {"batch": packed})) == []
    (arrays,) = await first
    found: dict[str, list[int]] = {}
    done: set[str] = set()
    while done != {"one", "two"}:
        for event in tensors.unpack(arrays["feed"].tobytes()):
            if event.id == "bad":
                assert "needs tokens" in str(event.what)
                continue
            assert isinstance(event.what, Tokens)
            found.setdefault(event.id, []).extend(t.token for t in event.what.tokens)
            done |= {event.id} if event.what.finish else set()
        if done != {"one", "two"}:
            (arrays,) = await anext(feed)
    assert found == {"one": [97, 98, 256], "two": [99, 100, 256]}
    served.end_feed("f")
    assert [a async for a in feed] == [], "the feed has ended"


async def test_abort_frees_the_slot_and_tells_the_reader(served: Served, runner: EchoRunner) -> None:
    stream = served.answer([prompted("abc", id="one", ignore_eos=True, max_tokens=400)])
    await anext(stream)
    assert runner.state().running == 1
    assert (await answers(served, Request({"abort": "one"})))[0]["finish"].tolist() == [b"aborted"]
    with pytest.raises(Refusal, match="EngineUnavailable: the request was aborted"):
        async for _ in stream:
            pass
    async with asyncio.timeout(5):
        while runner.state().running:
            await asyncio.sleep(0.01)


async def test_closing_the_stream_frees_the_slot(served: Served, runner: EchoRunner) -> None:
    stream = served.answer([prompted("abc", ignore_eos=True, max_tokens=400)])
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(5):
        while runner.state().running:
            await asyncio.sleep(0.01)


async def test_an_id_can_be_used_again_but_not_twice_at_a_time(served: Served) -> None:
    stream = served.answer([prompted("abc", id="one", ignore_eos=True, max_tokens=400)])
    await anext(stream)
    with pytest.raises(Refusal, match="id=one: a generation of this id is running already"):
        await answers(served, prompted("x", id="one"))
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await answers(served, prompted("x", id="one"))
                return
            except Refusal:
                await asyncio.sleep(0.01)


async def test_reset_ends_everything(served: Served) -> None:
    feed = served.answer([Request({"feed": "f"})])
    first = asyncio.ensure_future(anext(feed))
    stream = served.answer([prompted("abc", ignore_eos=True, max_tokens=400)])
    await anext(stream)
    served.reset("Triton is gone")
    with pytest.raises(Refusal, match="EngineUnavailable: Triton is gone"):
        async for _ in stream:
            pass
    await first
    assert [a async for a in feed] == []


async def test_without_an_engine_nothing_is_served() -> None:
    served = Served()
    with served.running():
        assert (await answers(served, Request({"ping": True})))[0]["finish"].tolist() == [b"pong"]
        with pytest.raises(Refusal, match="EngineUnavailable: no engine"):
            await answers(served, prompted("abc"))


async def test_a_refusal_is_one_line_for_who_formats_its_traceback(served: Served) -> None:
    with pytest.raises(Refusal) as caught:
        await answers(served, prompted("abc", max_token=1))
    error = caught.value
    (line,) = traceback.format_exception(None, error, error.__traceback__)
    assert line.startswith("launcher: max_token: no such parameter; accepted are ")


async def test_of_a_whole_answer_the_feed_carries_the_beginning_and_the_rest(served: Served) -> None:
    feed = served.answer([Request({"feed": "f"})])
    first = asyncio.ensure_future(anext(feed))
    await asyncio.sleep(0)
    asked = Sampling(temperature=0, max_tokens=20, ignore_eos=True)
    packed = np.frombuffer(tensors.pack_requests([Generation("one", (97, 98), asked, whole=True)]), np.uint8)
    await answers(served, Request({"feed": "f"}, {"batch": packed}))
    (arrays,) = await first
    events = tensors.unpack(arrays["feed"].tobytes())
    while not events[-1].what.finish:
        (arrays,) = await anext(feed)
        events += tensors.unpack(arrays["feed"].tobytes())
    assert len(events) <= 2
    assert [t.token for event in events for t in event.what.tokens] == [97, 98] * 10
    await feed.aclose()
