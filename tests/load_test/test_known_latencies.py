"""A server with known latencies, in a loop whose clock jumps: the figures of a load test come out right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from launcher.core.types import Handler, Json, Request, Response
from launcher.load_test.asking import Asking
from launcher.load_test.load_test import LoadTest, Measuring, measure
from launcher.settings.load import Load
from tests import virtual_time

FIRST_S, EACH_S, TOKENS = 0.05, 0.01, 16


def scripted(slots: int, *, each_s: float = EACH_S, asked: list[int] | None = None) -> Handler:
    """Answer ``slots`` requests at a time: a token after 50 ms, and one each 10 ms after it; others wait."""
    free = asyncio.Semaphore(slots)

    async def events(body: Json) -> AsyncIterator[Json]:
        async with free:
            await asyncio.sleep(FIRST_S)
            for number in range(body["max_tokens"]):
                await asyncio.sleep(each_s if number else 0)
                yield {"choices": [{"text": "a", "finish_reason": None}]}
        usage = {"prompt_tokens": 100, "completion_tokens": body["max_tokens"]}
        yield {"choices": [{"text": "", "finish_reason": "length"}], "usage": usage}

    async def handle(request: Request) -> Response:
        if asked is not None:
            asked.append(slots)
        return Response(200, None, events=events(request.body))

    return handle


def measured(
    *slots: int, in_flight: tuple[int, ...] = (1, 4, 16), each_s: float = EACH_S, seconds: float = 40
) -> tuple[LoadTest, ...]:
    settings = Load(in_flight=list(in_flight), seconds=seconds, budget_s=1000, max_tokens=TOKENS)

    async def run() -> tuple[LoadTest, ...]:
        clock = asyncio.get_running_loop().time
        handlers = [scripted(count, each_s=each_s) for count in slots]
        asking = [Asking(handler, "m", TOKENS, clock=clock) for handler in handlers]
        return await measure([Measuring(one, settings) for one in asking], settings)

    return virtual_time.run(run())


def test_the_figures_of_one_request_alone_are_those_of_the_server() -> None:
    [found] = measured(1, in_flight=(1,))
    [alone] = found.levels
    took = FIRST_S + (TOKENS - 1) * EACH_S
    assert (alone.ttft_s.p50, alone.ttft_s.p99) == pytest.approx((FIRST_S, FIRST_S))
    assert (alone.tpot_s.p50, alone.tpot_s.p99) == pytest.approx((EACH_S, EACH_S))
    assert alone.latency_s.p99 == pytest.approx(took)
    assert alone.generated_tokens_per_s == pytest.approx(TOKENS / took)
    assert alone.requests_per_s == pytest.approx(1 / took)
    assert alone.tokens_per_answer == TOKENS
    for part in alone.parts:
        assert part.generated_tokens_per_s == pytest.approx(TOKENS / took, rel=0.05)
        assert (part.ttft_s, part.tpot_s) == (pytest.approx(FIRST_S), pytest.approx(EACH_S))


def test_the_knee_is_where_the_server_is_full_and_requests_wait() -> None:
    [found] = measured(4)
    took = FIRST_S + (TOKENS - 1) * EACH_S
    rates = [level.generated_tokens_per_s for level in found.levels]
    assert rates == pytest.approx([TOKENS / took, 4 * TOKENS / took, 4 * TOKENS / took], rel=0.02)
    assert found.knee is not None
    assert found.knee.in_flight == 4
    assert found.ended == "16 in flight bring no more tokens"
    assert found.levels[-1].ttft_s.p50 == pytest.approx(FIRST_S + 3 * took), "three answers before each"
    assert found.levels[-1].tpot_s.p50 == pytest.approx(EACH_S), "the wait before it is no time per token"


def test_a_level_goes_on_until_it_has_answers_for_a_rate() -> None:
    """Of 64 requests in flight 4 are answered at a time: no answer comes to its end within the 0.1 s of a level."""
    [found] = measured(4, in_flight=(64,), seconds=0.1)
    took = FIRST_S + (TOKENS - 1) * EACH_S
    [level] = found.levels
    assert level.requests >= 128
    assert level.generated_tokens_per_s == pytest.approx(4 * TOKENS / took, rel=0.05)
    assert level.requests_per_s == pytest.approx(4 / took, rel=0.05)


def test_servers_side_by_side_are_measured_at_the_same_levels_until_both_are_full() -> None:
    small, large = measured(1, 4)
    assert [level.in_flight for level in small.levels] == [level.in_flight for level in large.levels] == [1, 4, 16]
    assert (small.knee or large.levels[0]).in_flight == 1
    assert (large.knee or large.levels[0]).in_flight == 4
    assert small.ended == "4 in flight bring no more tokens"
    assert [len(level.parts) for level in small.levels] == [4, 4, 4]


def test_servers_side_by_side_take_turns() -> None:
    settings = Load(in_flight=[1], seconds=4, budget_s=1000, max_tokens=TOKENS)
    asked: list[int] = []

    async def run() -> None:
        clock = asyncio.get_running_loop().time
        handlers = [scripted(count, asked=asked) for count in (1, 2)]
        await measure([Measuring(Asking(each, "m", TOKENS, clock=clock), settings) for each in handlers], settings)

    virtual_time.run(run())
    turns = [name for at, name in enumerate(asked) if not at or asked[at - 1] != name]
    assert turns == [1, 2, 1, 2, 1, 2, 1, 2], "warm-up, four turns in alternating order, and the prefix cache"


def test_the_budget_of_time_is_that_of_each_server() -> None:
    settings = Load(in_flight=[1, 4], seconds=4, budget_s=6, max_tokens=TOKENS)

    async def run() -> tuple[LoadTest, ...]:
        clock = asyncio.get_running_loop().time
        each = [Measuring(Asking(scripted(99), "m", TOKENS, clock=clock), settings) for _ in range(2)]
        return await measure(each, settings)

    for found in virtual_time.run(run()):
        assert [level.in_flight for level in found.levels] == [1, 4]
        assert found.levels[-1].failed == 0, "an answer that the end of the budget cuts is no failure"
        assert found.ended == "load.budget_s=6 was used up"
        assert found.seconds == pytest.approx(6, abs=0.5)


def test_a_short_turn_says_the_same_as_a_long_one() -> None:
    """A turn holds a few answers, and begins and ends within one: its rate is that of whole answers."""
    settings = Load(in_flight=[1, 4], seconds=4, budget_s=1000, max_tokens=TOKENS)

    async def run() -> tuple[LoadTest, ...]:
        clock = asyncio.get_running_loop().time
        handlers = [scripted(99, each_s=each_s) for each_s in (0.01, 0.017)]
        asking = [Asking(each, "m", TOKENS, clock=clock) for each in handlers]
        return await measure([Measuring(one, settings) for one in asking], settings)

    for found, each_s in zip(virtual_time.run(run()), (0.01, 0.017), strict=True):
        took = FIRST_S + (TOKENS - 1) * each_s
        rates = [part.generated_tokens_per_s for level in found.levels for part in level.parts]
        assert rates == pytest.approx([*[TOKENS / took] * 4, *[4 * TOKENS / took] * 4])
