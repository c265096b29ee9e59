from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.core.errors import EngineUnavailable, QueueFull, UserError
from launcher.distributed.allocation import allocate
from launcher.engines.base import AsyncEngine, GenerationRequest, Sampling, TokenLogprob, TokenOutput
from launcher.engines.echo import EOS, VOCAB, Echo, EchoAsyncEngine, History, score
from launcher.settings.model import Model, Parallelism
from tests.engines import deployments

PROMPT = "abcab"


def runner(**settings: float) -> EchoAsyncEngine:
    return EchoAsyncEngine(Echo(**settings), Model("echo"))  # type: ignore[arg-type]


def asked(prompt: str | Sequence[int] = PROMPT, **sampling: object) -> GenerationRequest:
    tokens = tuple(prompt.encode()) if isinstance(prompt, str) else tuple(prompt)
    return GenerationRequest("id", tokens, Sampling(**({"temperature": 0, "max_tokens": 50} | sampling)))  # type: ignore[arg-type]


async def events(engine: AsyncEngine, request: GenerationRequest) -> list[TokenOutput]:
    return [event async for event in engine.generate(request)]


async def entries(engine: AsyncEngine, request: GenerationRequest) -> list[TokenLogprob]:
    return [token for event in await events(engine, request) for token in event.tokens]


async def tokens(engine: AsyncEngine, request: GenerationRequest) -> list[int]:
    return [entry.token for entry in await entries(engine, request)]


async def text(engine: EchoAsyncEngine, request: GenerationRequest) -> str:
    return engine.tokenizer.decode(await tokens(engine, request))


@pytest.mark.parametrize("pace", [{}, {"tokens_per_second": 1e5}, {"step_s": 1e-4, "batch": 2}, {"latency_s": 0.001}])
async def test_it_repeats_the_prompt_then_ends(pace: dict[str, float]) -> None:
    engine = runner(**pace)
    found = await events(engine, asked("héllo, hello, hello"))
    assert engine.tokenizer.decode([t.token for e in found for t in e.tokens]) == "héllo, hello, hello"
    assert found[-1].tokens[-1].token == EOS
    assert [e.finish for e in found] == [None] * (len(found) - 1) + ["stop"]


async def test_a_final_only_request_gets_two_events() -> None:
    engine, request = runner(step_s=1e-4, batch=1), asked(max_tokens=20, ignore_eos=True)
    each, (first, rest) = await events(engine, request), await events(engine, replace(request, final_only=True))
    assert len(each) == 20
    assert (len(first.tokens), first.finish, rest.finish) == (1, None, "length")
    assert first.tokens + rest.tokens == tuple(token for event in each for token in event.tokens)
    assert engine.state().steps == 40


async def test_max_tokens_is_kept() -> None:
    found = await events(runner(), asked(max_tokens=3))
    assert [t.token for e in found for t in e.tokens] == list(b"abc")
    assert found[-1].finish == "length"


async def test_exactly_enough_tokens_for_the_end() -> None:
    assert (await events(runner(), asked("ab", max_tokens=3)))[-1].finish == "stop"
    assert (await events(runner(), asked("ab", max_tokens=2)))[-1].finish == "length"


async def test_with_ignore_eos_it_repeats_the_prompt() -> None:
    plain = await tokens(runner(), asked("abc", ignore_eos=True, max_tokens=200))
    listed = await tokens(runner(), asked("abc", ignore_eos=True, max_tokens=200, logprobs=0))
    assert plain == listed == (list(b"abc") * 67)[:200]


async def test_scoring_only() -> None:
    found = await events(runner(), asked(max_tokens=0, prompt_logprobs=1))
    assert len(found) == 1
    assert (found[0].tokens, found[0].finish) == ((), "length")
    assert [t.token for t in found[0].prompt or ()] == list(PROMPT.encode())


letters = st.lists(st.sampled_from([97, 98, 99]), min_size=1, max_size=20)


@given(letters)
def test_the_best_tokens_are_all_that_continue_an_echo(sequence: list[int]) -> None:
    """Against the definition: every beginning that is also an end may have been the part that was echoed so far."""
    history = History()
    for token in sequence:
        history.append(token)
    size, expected = len(sequence), set()
    for k in range(size // 2 + 1):
        if sequence[:k] == sequence[size - k :]:
            expected.add(sequence[k] if k < size - k else EOS)
    assert set(history.next().best) == expected


@given(letters)
def test_probabilities_sum_to_one(sequence: list[int]) -> None:
    history = History()
    for token in sequence:
        history.append(token)
    after = history.next()
    assert math.fsum(math.exp(after.entry(token, 0).logprob or 0) for token in range(VOCAB)) == pytest.approx(1)
    assert [t for t, _ in after.entry(5, VOCAB).top] != sorted(range(VOCAB))
    assert {t for t, _ in after.entry(5, VOCAB).top} == set(range(VOCAB))


@given(letters)
def test_alternatives_come_best_first_with_the_same_floats(sequence: list[int]) -> None:
    for entry in list(score([*sequence, 7, EOS], 5))[1:]:
        values = [value for _, value in entry.top]
        assert values == sorted(values, reverse=True)
        assert entry.logprob is not None
        assert entry.logprob <= values[0]
        assert dict(entry.top).get(entry.token, entry.logprob) == entry.logprob


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 1.0, "seed": 3}, {"logit_bias": {120: 50.0}, "max_tokens": 9}]
)
async def test_generated_tokens_have_the_log_probabilities_of_the_reference(sampling: dict[str, Any]) -> None:
    engine = runner()
    found = await entries(engine, asked(logprobs=3, **sampling))
    whole = [*PROMPT.encode(), *(t.token for t in found)]
    assert [t.logprob for t in found] == engine.reference(whole)[len(PROMPT) - 1 :]


async def test_prompt_tokens_have_the_log_probabilities_of_the_reference() -> None:
    engine = runner()
    prompt = (await events(engine, asked(prompt_logprobs=2)))[0].prompt or ()
    assert prompt[0] == TokenLogprob(ord("a"))
    assert [t.logprob for t in prompt[1:]] == engine.reference(list(PROMPT.encode()))


async def test_a_greedy_token_is_the_best_alternative() -> None:
    for prompt in (PROMPT, "aaaa", "abab"):
        for entry in await entries(runner(), asked(prompt, logprobs=1)):
            assert entry.top == ((entry.token, entry.logprob),)


async def test_a_seed_repeats_and_another_differs() -> None:
    hot: dict[str, Any] = {"temperature": 1.0, "max_tokens": 30, "ignore_eos": True}
    one, again, other = [await tokens(runner(), asked(seed=seed, **hot)) for seed in (1, 1, 2)]
    assert one == again
    assert one != other
    assert one != await tokens(runner(), asked(max_tokens=30, ignore_eos=True))


@pytest.mark.parametrize("one", [{"temperature": 0.5}, {"top_p": 0.5}, {"top_k": 3}, {"presence_penalty": 2.0}])
async def test_every_setting_changes_what_is_drawn(one: dict[str, Any]) -> None:
    hot: dict[str, Any] = {"temperature": 2.0, "seed": 5, "max_tokens": 30, "ignore_eos": True}
    assert await tokens(runner(), asked(**hot)) != await tokens(runner(), asked(**(hot | one)))


async def test_top_k_one_and_a_tiny_top_p_are_greedy() -> None:
    for setting in ({"top_k": 1}, {"top_p": 1e-9}):
        assert await text(runner(), asked(temperature=1.0, seed=1, **setting)) == PROMPT


async def test_bias_and_penalties() -> None:
    assert await text(runner(), asked(logit_bias={ord("x"): 100.0}, max_tokens=3)) == "xxx"
    assert "a" not in await text(runner(), asked(logit_bias={ord("a"): -100.0}))
    varied = await tokens(
        runner(), asked("a", frequency_penalty=2.0, presence_penalty=2.0, max_tokens=8, ignore_eos=True)
    )
    assert len(set(varied)) > 4


async def test_a_full_queue_refuses() -> None:
    engine = runner(max_sequences=1, max_queue=1, tokens_per_second=20)
    running = engine.generate(asked())
    await anext(running)
    waiting = asyncio.create_task(events(engine, asked("q")))
    await asyncio.sleep(0)
    assert (engine.state().running, engine.state().queued) == (1, 1)
    with pytest.raises(QueueFull, match="1 sequences run and 1 wait"):
        await events(engine, asked())
    await running.aclose()
    assert (await waiting)[-1].finish == "stop"
    assert (engine.state().running, engine.state().queued, engine.state().kv_tokens_used) == (0, 0, 0)


async def test_leaving_the_queue_frees_the_place() -> None:
    engine = runner(max_sequences=1, max_queue=1, tokens_per_second=20)
    running = engine.generate(asked())
    await anext(running)
    waiting = asyncio.create_task(events(engine, asked("q")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert engine.state().queued == 0
    await running.aclose()
    assert await text(engine, asked()) == PROMPT


async def test_one_step_serves_a_batch() -> None:
    """With room for all in a step, eight sequences take the steps of one."""
    ticks = 0

    async def tick(engine: EchoAsyncEngine) -> AsyncIterator[None]:
        nonlocal ticks
        async for _ in engine.generate(asked("abcdefg")):
            ticks += 1
            yield

    async def drain(engine: EchoAsyncEngine) -> None:
        async for _ in tick(engine):
            pass

    order: list[tuple[int, int]] = []

    async def note(engine: EchoAsyncEngine, i: int) -> None:
        async for event in engine.generate(asked("ab")):
            order.extend((i, t.token) for t in event.tokens)

    engine = runner(step_s=1e-3, batch=2)
    await asyncio.gather(*(note(engine, i) for i in range(4)))
    assert [i for i, _ in order] == [0, 1, 2, 3] * 3
    await drain(engine)
    assert ticks == 8


async def test_what_was_counted() -> None:
    engine = runner()
    await events(engine, asked())
    state = engine.state()
    assert (state.prompt_tokens, state.generated_tokens, state.running, state.kv_tokens_used) == (5, 6, 0, 0)
    assert state.kv_tokens_total == 256 * 4096


async def test_a_stopped_engine_is_unavailable() -> None:
    with deployments.load(Echo(step_s=0.001), Model("m"), allocate()) as engine:
        running = engine.generate(asked())
        await anext(running)
        assert engine.state().error is None
    assert engine.state().error is not None
    with pytest.raises(EngineUnavailable):
        await anext(running)
    with pytest.raises(EngineUnavailable):
        await events(engine, asked())
    assert engine.state().running == 0


def test_the_models_context_length_comes_first() -> None:
    assert EchoAsyncEngine(Echo(context_length=99), Model(context_length=10)).context_length == 10
    assert EchoAsyncEngine(Echo(context_length=99), Model()).context_length == 99


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"batch": 0}, "engine.batch is 0"),
        ({"context_length": 0}, "engine.context_length is 0"),
        ({"latency_s": -1}, "engine.latency_s is -1"),
        ({"tokens_per_second": math.nan}, "engine.tokens_per_second is nan"),
        ({"step_s": 1, "tokens_per_second": 1}, "engine.step_s"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, float], name: str) -> None:
    with pytest.raises(UserError, match=name):
        Echo(**settings)  # type: ignore[arg-type]


def test_it_runs_in_one_process() -> None:
    with pytest.raises(UserError, match="one process"):
        deployments.plan(Echo(), Model(), allocate(), Parallelism(tensor=2))
