from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from launcher.backends.pytriton.request_handler import RequestError, RequestHandler
from launcher.backends.pytriton.tensors import Arrays
from launcher.core.admission import Admission
from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model


def prompt(text: str) -> Arrays:
    return {"tokens": np.frombuffer(text.encode(), np.uint8).astype(np.int32)}


@pytest.fixture
def runner() -> EchoAsyncEngine:
    return EchoAsyncEngine(Echo(tokens_per_second=200), Model("echo"))


@pytest.fixture
async def served(runner: EchoAsyncEngine) -> AsyncIterator[RequestHandler]:
    served = RequestHandler(asyncio.get_running_loop())
    with served.serving(runner):
        yield served
    await free(runner)


async def free(runner: EchoAsyncEngine) -> None:
    """Wait until every slot is free."""
    async with asyncio.timeout(5):
        while runner.state().running:
            await asyncio.sleep(0.01)


def ask(served: RequestHandler, data: Arrays, **parameters: Any) -> AsyncIterator[Arrays]:
    return served.answer(data, {"temperature": 0} | parameters)


def endless(served: RequestHandler, **parameters: Any) -> AsyncIterator[Arrays]:
    return ask(served, prompt("abc"), ignore_eos=True, max_tokens=400, **parameters)


async def answers(served: RequestHandler, data: Arrays, **parameters: Any) -> list[Arrays]:
    return [arrays async for arrays in ask(served, data, **parameters)]


async def test_a_sequence_streams_as_tensors(served: RequestHandler) -> None:
    found = await answers(served, prompt("abc"))
    assert [t for arrays in found for t in arrays["tokens"].tolist()] == [97, 98, 99, 256]
    assert found[-1]["finish"].tolist() == [b"stop"]


async def test_text_gives_text_in_whole_characters(served: RequestHandler) -> None:
    found = await answers(served, {"text": np.array(["né".encode()], dtype=object)})
    assert b"".join(arrays["text"][0] for arrays in found).decode() == "né"


async def test_abort_frees_the_slot_and_tells_the_reader(served: RequestHandler, runner: EchoAsyncEngine) -> None:
    stream = endless(served, id="one")
    await anext(stream)
    assert runner.state().running == 1
    assert (await answers(served, {}, abort="one"))[0]["finish"].tolist() == [b"aborted"]
    with pytest.raises(RequestError, match="EngineUnavailable: the request was aborted"):
        async for _ in stream:
            pass
    await free(runner)


async def test_closing_the_stream_frees_the_slot(served: RequestHandler, runner: EchoAsyncEngine) -> None:
    stream = endless(served)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await free(runner)


async def test_an_id_can_be_used_again_but_not_twice_at_a_time(served: RequestHandler, runner: EchoAsyncEngine) -> None:
    stream = endless(served, id="one")
    await anext(stream)
    with pytest.raises(RequestError, match="id=one: a generation of this id is running already"):
        await answers(served, prompt("x"), id="one")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await free(runner)
    assert await answers(served, prompt("x"), id="one")


async def test_reset_ends_everything(served: RequestHandler) -> None:
    stream = endless(served)
    await anext(stream)
    served.reset("Triton is gone")
    with pytest.raises(RequestError, match="EngineUnavailable: Triton is gone"):
        async for _ in stream:
            pass


async def test_without_an_engine_nothing_is_served() -> None:
    served = RequestHandler(asyncio.get_running_loop())
    assert (await answers(served, {}, ping=True))[0]["finish"].tolist() == [b"pong"]
    with pytest.raises(RequestError, match="EngineUnavailable: no engine"):
        await answers(served, prompt("abc"))


async def test_without_a_certificate_only_the_feeds_of_our_own_api_are_served(runner: EchoAsyncEngine) -> None:
    admission = Admission()
    served = RequestHandler(asyncio.get_running_loop(), admission)
    with served.serving(runner):
        with pytest.raises(RequestError, match="is being validated"):
            await answers(served, prompt("abc"))
        with pytest.raises(RequestError, match="is being validated"):
            served.open_feed("another", 1, lambda frame: None)
        served.trust("ours")
        served.open_feed("ours", 2, lambda frame: None)
        admission.open()
        assert await answers(served, prompt("abc"))
        served.open_feed("another", 3, lambda frame: None)
    await free(runner)
