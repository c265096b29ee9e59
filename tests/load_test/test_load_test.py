"""What a load test measures, when it ends, and what it makes of servers that refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from launcher.core.errors import TransportError, UserError
from launcher.core.types import Handler, Json, Request, Response
from launcher.load_test.asking import CHAT, COMPLETIONS, Asking
from launcher.load_test.load_test import LoadTest, Measuring, measure
from launcher.load_test.measurement import Level, Measurement, Spread, Window, level
from launcher.settings.load import Load

QUICK: dict[str, Json] = {"in_flight": [1, 2, 4], "seconds": 0.1, "prompt_tokens": 16, "max_tokens": 4}


def events(tokens: int, usage: bool = True, finish: bool = True) -> list[Json]:
    pieces: list[Json] = [{"choices": [{"text": "a", "finish_reason": None}]} for _ in range(tokens)]
    ended: list[Json] = [{"choices": [{"text": "", "finish_reason": "length"}]}] if finish else []
    counted: list[Json] = (
        [{"choices": [], "usage": {"prompt_tokens": 16, "completion_tokens": tokens}}] if usage else []
    )
    return [*pieces, *ended, *counted]


def stream(said: list[Json]) -> Response:
    async def each() -> AsyncIterator[Json]:
        for one in said:
            yield one

    return Response(200, None, events=each())


def server(answer: Callable[[Request], Response]) -> Handler:
    async def handle(request: Request) -> Response:
        await asyncio.sleep(0.001)
        return answer(request)

    return handle


async def measured(answer: Callable[[Request], Response], **settings) -> LoadTest:
    chosen = Load(**{**QUICK, **settings})
    asking = Asking(server(answer), "m", chosen.max_tokens)
    return (await measure([Measuring(asking, chosen)], chosen))[0]


async def test_every_level_is_measured_until_the_knee() -> None:
    found = await measured(lambda request: stream(events(4)), budget_s=20)
    assert found.path == COMPLETIONS
    assert found.prompt_tokens == 16
    assert found.levels[0].requests > 0
    assert found.levels[0].tokens_per_answer == 4
    assert found.knee in found.levels
    assert found.ended == "all levels measured" or "bring no more tokens" in found.ended
    assert found.tokens >= 20 * sum(one.requests for one in found.levels)


async def test_a_server_of_chat_alone_is_asked_over_chat() -> None:
    def answer(request: Request) -> Response:
        if request.path == COMPLETIONS:
            return Response(404, {"error": {"message": "no completions here"}})
        assert request.body["messages"][0]["content"]
        chunk = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
        return stream([{"choices": [{"delta": {"role": "assistant"}}]}, chunk])

    found = await measured(answer)
    assert found.path == CHAT
    assert found.levels[0].tokens_per_answer == 1, "without usage an event is a token"


async def test_a_server_that_answers_nothing_is_said_so() -> None:
    found = await measured(lambda request: Response(401, {"error": {"message": "no key"}}))
    assert found.levels == ()
    assert found.knee is None
    assert found.ended == "no answer could be measured: HTTP 401: no key"


async def test_prompts_are_halved_until_they_fit() -> None:
    def answer(request: Request) -> Response:
        if len(request.body["prompt"].split()) > 10:
            return Response(400, {"error": {"message": "too long"}})
        words = len(request.body["prompt"].split())
        return stream(
            [*events(2, usage=False), {"choices": [], "usage": {"prompt_tokens": words, "completion_tokens": 2}}]
        )

    found = await measured(answer, prompt_tokens=64)
    assert found.prompt_tokens == 8
    assert found.levels[0].failed == 0
    assert found.prefix_cache is not None, "a prompt four times as long does not fit; one as long does"


async def test_failures_end_the_test_and_are_told() -> None:
    asked = 0

    def answer(request: Request) -> Response:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise TransportError("the connection broke")
        return stream(events(4))

    found = await measured(answer)
    assert found.levels[-1].failed > 0
    assert found.levels[-1].errors == ("the connection broke",)
    assert "requests failed at 1 in flight" in found.ended


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ([{"error": {"message": "out of memory"}}], "out of memory"),
        (events(0, finish=False), "without an end"),
    ],
)
async def test_an_answer_that_breaks_is_a_failure(said: list[Json], error: str) -> None:
    one = await Asking(server(lambda _: stream(said)), "m", 4).ask("prompt")
    assert error in (one.error or "")


async def test_an_empty_answer_is_an_answer() -> None:
    one = await Asking(server(lambda _: stream(events(0))), "m", 4).ask("prompt")
    assert (one.error, one.tokens, one.ttft_s) == (None, 0, None)
    assert level(1, [Window([[one]], one.sent - 1, one.ended + 1)]).requests == 1


@pytest.mark.parametrize(
    ("settings", "ended"),
    [
        ({"budget_tokens": 30}, "load.budget_tokens=30 were used up"),
        ({"budget_s": 0.05}, "load.budget_s=0.05 was used up"),
    ],
)
async def test_a_budget_ends_the_test(settings: dict, ended: str) -> None:
    found = await measured(lambda request: stream(events(4)), **settings)
    assert found.ended == ended


async def test_the_budget_bounds_a_server_that_never_answers() -> None:
    async def handle(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    settings = Load(in_flight=[1], budget_s=0.2)
    [found] = await measure([Measuring(Asking(handle, "m", 4), settings)], settings)
    assert found.levels == ()
    assert found.ended == "no answer could be measured: no answer before load.budget_s=0.2 was used up"


async def test_a_prefix_cache_is_found() -> None:
    seen: set[str] = set()

    async def handle(request: Request) -> Response:
        known = request.body["prompt"] in seen
        seen.add(request.body["prompt"])
        await asyncio.sleep(0.001 if known else 0.02)
        return stream(events(1))

    settings = Load(**{**QUICK, "in_flight": [1]})
    [found] = await measure([Measuring(Asking(handle, "m", 4), settings)], settings)
    assert found.prefix_cache is not None
    assert found.prefix_cache.found


def test_a_level_sums_up_what_came_after_the_warm_up() -> None:
    """Ten seconds: the first two do not count. Each answer has five tokens, one each 0.1 s, after 0.5 s."""
    starts = [0.0, 1.0, 3.0, 5.0, 9.8]
    answers = [Measurement(s, s + 0.9, [s + 0.5 + i / 10 for i in range(5)], 5, 100) for s in starts]
    failed = [Measurement(4.0, error="x"), Measurement(4.5, error="x")]
    found = level(2, [Window([answers, failed], 0.0, 10.0)])
    assert (found.requests, found.failed, found.errors) == (5, 2, ("x",))
    assert found.requests_per_s == pytest.approx(2 / 8), "those that ended at 3.9 and 5.9"
    assert found.generated_tokens_per_s == pytest.approx(10 / 8)
    assert found.prompt_tokens_per_s == pytest.approx(200 / 8)
    assert found.ttft_s.p50 == pytest.approx(0.5)
    assert found.tpot_s.p99 == pytest.approx(0.1)
    assert found.latency_s.p50 == pytest.approx(0.9)
    assert [part.generated_tokens_per_s for part in found.parts] == pytest.approx([2.5, 2.5, 0.0, 0.0])
    assert [part.ttft_s for part in found.parts] == [pytest.approx(0.5), pytest.approx(0.5), None, None]


def test_the_knee_has_nearly_the_most_tokens_with_the_fewest_in_flight() -> None:
    rates = {1: 100.0, 4: 390.0, 16: 1000.0, 64: 1050.0}
    levels = tuple(Level(count, generated_tokens_per_s=rate) for count, rate in rates.items())
    found = LoadTest(COMPLETIONS, 1, 1, levels, None, 1.0, 1, "")
    assert found.knee is not None
    assert found.knee.in_flight == 16


def test_percentiles_of_nothing_are_unknown() -> None:
    assert Spread.of([]) == Spread(None, None, None)


@pytest.mark.parametrize("levels", [[], [4, 1], [1, 1], [0], [-1, 1]])
def test_levels_rise(levels: list[int]) -> None:
    with pytest.raises(UserError, match=r"load\.in_flight"):
        Load(in_flight=levels)
