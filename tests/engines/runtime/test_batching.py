"""The runner and its thread: streams, cancellation, a full queue, failures, and a clean end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from launcher.core.errors import EngineUnavailable, QueueFull
from launcher.core.tokenizer import ByteTokenizer
from launcher.engines.base import GenerationRequest
from launcher.engines.runtime.batching import BatchedAsyncEngine
from launcher.engines.runtime.scheduler import SchedulerConfig
from tests.engines.paged_toy import PagedToy, continuation, logprob, request


@pytest.fixture
def toy() -> PagedToy:
    return PagedToy(num_blocks=65, block_size=4)


@pytest.fixture
def runner(toy: PagedToy) -> Iterator[BatchedAsyncEngine]:
    before = set(threading.enumerate())
    made = BatchedAsyncEngine("toy", ByteTokenizer(), toy, SchedulerConfig(64, max_sequences=2, max_queue=2), {"a": 1})  # type: ignore[arg-type]
    yield made
    if toy.gate is not None:
        toy.gate.release(10_000)
    made.close()
    assert not any(t.name == "engine-steps" for t in set(threading.enumerate()) - before)


async def tokens(runner: BatchedAsyncEngine, r: GenerationRequest) -> list[int]:
    return [t.token async for event in runner.generate(r) for t in event.tokens]


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_streams_end_with_finish(runner: BatchedAsyncEngine) -> None:
    events = [e async for e in runner.generate(request("a", [1, 2], max_tokens=5))]
    assert [t.token for e in events for t in e.tokens] == continuation([1, 2], 5)
    assert [e.finish for e in events][-1] == "length"
    assert runner.state().generated_tokens == 5


async def test_sequences_run_together(runner: BatchedAsyncEngine) -> None:
    found = await asyncio.gather(*(tokens(runner, request(str(i), [i], max_tokens=9)) for i in range(4)))
    assert found == [continuation([i], 9) for i in range(4)]


async def test_a_full_queue_refuses(runner: BatchedAsyncEngine, toy: PagedToy) -> None:
    toy.gate = threading.Semaphore(0)
    waiting = [asyncio.create_task(tokens(runner, request(str(i), [i], max_tokens=3))) for i in range(4)]
    await until(lambda: runner.state().running + runner.state().queued == 4)
    with pytest.raises(QueueFull, match=r"2 requests are waiting; engine\.max_queue=2"):
        await tokens(runner, request("late", [1]))
    toy.gate.release(10_000)
    assert await asyncio.gather(*waiting) == [continuation([i], 3) for i in range(4)]
    assert await tokens(runner, request("again", [1], max_tokens=2)) == continuation([1], 2)


async def test_closing_a_stream_frees_its_slot(runner: BatchedAsyncEngine) -> None:
    async with aclosing(runner.generate(request("a", [1], max_tokens=60))) as stream:
        await anext(stream)
    await until(lambda: runner.state().running == 0)
    assert runner.state().kv_tokens_used == 0


async def test_cancelling_a_waiting_task_frees_its_slot(runner: BatchedAsyncEngine, toy: PagedToy) -> None:
    toy.gate = threading.Semaphore(0)
    tasks = [asyncio.create_task(tokens(runner, request(str(i), [i], max_tokens=3))) for i in range(4)]
    await until(lambda: runner.state().running + runner.state().queued == 4)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    toy.gate.release(10_000)
    await until(lambda: runner.state().running + runner.state().queued == 0)
    assert runner.state().kv_tokens_used == 0


async def test_a_step_that_raises_fails_everything_and_says_why(runner: BatchedAsyncEngine, toy: PagedToy) -> None:
    toy.gate = threading.Semaphore(1)
    running = [asyncio.create_task(tokens(runner, request(str(i), [i], max_tokens=30))) for i in range(3)]
    await until(lambda: runner.state().steps == 1)
    toy.broken = RuntimeError("out of memory")
    toy.gate.release()
    for result in await asyncio.gather(*running, return_exceptions=True):
        assert isinstance(result, EngineUnavailable)
        assert str(result) == "RuntimeError: out of memory"
    with pytest.raises(EngineUnavailable, match="out of memory"):
        await tokens(runner, request("late", [1]))
    assert runner.state().error == "RuntimeError: out of memory"


async def test_closing_fails_what_is_open(runner: BatchedAsyncEngine, toy: PagedToy) -> None:
    toy.gate = threading.Semaphore(1)
    task = asyncio.create_task(tokens(runner, request("a", [1], max_tokens=30)))
    await until(lambda: runner.state().steps == 1)
    closing = asyncio.create_task(asyncio.to_thread(runner.close))
    await until(lambda: runner.state().error is not None)
    toy.gate.release(10_000)
    await closing
    with pytest.raises(EngineUnavailable, match="stopping"):
        await task


async def test_reference_runs_between_steps(runner: BatchedAsyncEngine) -> None:
    running = asyncio.create_task(tokens(runner, request("a", [1], max_tokens=40)))
    found = await asyncio.to_thread(runner.reference, [1, 2, 3])
    assert found == [logprob([1], 2), logprob([1, 2], 3)]
    assert await running == continuation([1], 40)


async def test_a_slow_reader_gets_all_pending_tokens_at_once(runner: BatchedAsyncEngine, toy: PagedToy) -> None:
    toy.gate = threading.Semaphore(1)
    async with aclosing(runner.generate(request("a", [1], max_tokens=20))) as stream:
        first = await anext(stream)
        toy.gate.release(10_000)
        await until(lambda: runner.state().generated_tokens == 20)
        await asyncio.to_thread(runner.reference, [1, 2])  # comes after the last token was told
        rest = await anext(stream)
    assert len(first.tokens) + len(rest.tokens) == 20
    assert rest.finish == "length"


@pytest.mark.parametrize(("prompt", "message"), [([], "no tokens")])
async def test_an_empty_prompt_is_refused(runner: BatchedAsyncEngine, prompt: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        await tokens(runner, request("a", prompt))


async def test_two_with_one_id_are_refused(runner: BatchedAsyncEngine) -> None:
    async with aclosing(runner.generate(request("a", [1], max_tokens=60))) as stream:
        await anext(stream)
        with pytest.raises(ValueError, match="id=a: a request with this id is running"):
            await tokens(runner, request("a", [1]))
