"""The scheduler over a toy model that reads its context back from the paged cache: any mistake changes an answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.engines.base import GenerationRequest, TokenLogprob, TokenOutput
from launcher.engines.runtime.blocks import BlockPool
from launcher.engines.runtime.scheduler import Scheduler, SchedulerConfig
from tests.engines.paged_toy import PagedToy, continuation, prompt_entries, request
from tests.fuzzing import examples

EOS = frozenset({49})


class Bench:
    """A scheduler with its toy model, stepped by the test."""

    def __init__(self, limits: SchedulerConfig, tokens: int, block_size: int = 4) -> None:
        self.limits = limits
        self.toy = PagedToy(tokens // block_size + 1, block_size)
        self.pool = BlockPool(self.toy.num_blocks)
        self.scheduler = Scheduler(limits, self.pool, block_size, self.toy.vocab_size, EOS)
        self.events: dict[str, list[TokenOutput]] = {}

    def step(self) -> None:
        step, events = self.scheduler.schedule()
        if step is not None:
            starts = [chunk.start for chunk in step.plan.chunks]
            assert not self.limits.aligned or all(start % self.toy.block_size == 0 for start in starts)
            events += self.scheduler.postprocess(step, self.toy.execute(step.plan, step.scores, step.draws))
        for running, tokens in events:
            self.events.setdefault(running.request.id, []).append(tokens)

    def run(self, requests: Sequence[GenerationRequest] = ()) -> None:
        for r in requests:
            self.scheduler.add(r)
        for _ in range(10_000):
            if self.scheduler.idle:
                return
            self.step()
        raise AssertionError("the scheduler does not come to an end")

    def answer(self, name: str) -> tuple[list[int], tuple[TokenLogprob, ...] | None, str | None]:
        events = self.events[name]
        assert all(e.prompt is None for e in events[1:])
        assert all(e.finish is None for e in events[:-1])
        return [t.token for e in events for t in e.tokens], events[0].prompt, events[-1].finish

    def check(self, r: GenerationRequest, context_length: int) -> None:
        tokens, prompt, finish = self.answer(r.id)
        room = min(r.sampling.max_tokens, context_length - len(r.prompt))
        expected = continuation(r.prompt, room)
        stop = next((i + 1 for i, t in enumerate(expected) if t in EOS and not r.sampling.ignore_eos), None)
        assert tokens == expected[:stop]
        assert finish == ("stop" if stop else "length")
        top = r.sampling.prompt_logprobs
        assert prompt == (None if top is None else prompt_entries(r.prompt, top))


def test_one_sequence() -> None:
    bench = Bench(SchedulerConfig(64), 64)
    r = request("a", [1, 2, 3], max_tokens=10)
    bench.run([r])
    bench.check(r, 64)
    assert bench.scheduler.state().steps == 10


def test_nothing_is_held_after_the_last_sequence() -> None:
    bench = Bench(SchedulerConfig(64), 256)
    bench.run([request(str(i), range(i, i + 20), max_tokens=5) for i in range(8)])
    assert bench.pool.num_free == bench.pool.num_usable
    assert bench.scheduler.state().kv_tokens_used == 0


def test_prompt_is_computed_in_chunks_beside_decoding() -> None:
    bench = Bench(SchedulerConfig(256, prefill_chunk=16), 512)
    short, long = request("short", [1], max_tokens=30, ignore_eos=True), request("long", range(40), max_tokens=2)
    bench.run([short, long])
    bench.check(short, 256)
    bench.check(long, 256)
    assert bench.toy.widest <= 17


def test_shared_prefix_is_computed_once() -> None:
    bench = Bench(SchedulerConfig(256), 2048)
    shared = list(range(40))
    requests = [request(str(i), [*shared, i, i + 1], max_tokens=0, prompt_logprobs=2) for i in range(10)]
    bench.run(requests)
    for r in requests:
        bench.check(r, 256)
    # Ten blocks once, and of every other item two tokens, the one before them, and none after the last.
    assert bench.toy.computed <= 41 + 9 * 3
    assert bench.scheduler.state().prompt_tokens_cached == 9 * 40


def test_without_prefix_caching_everything_is_computed() -> None:
    bench = Bench(SchedulerConfig(256, prefix_caching=False), 2048)
    bench.run([request(str(i), range(40), max_tokens=1) for i in range(3)])
    assert bench.toy.computed == 120
    assert bench.scheduler.state().prompt_tokens_cached == 0


def test_cached_blocks_without_deep_enough_logprobs_are_not_used_for_them() -> None:
    bench = Bench(SchedulerConfig(256), 2048)
    for top in (None, 0, 3, 1):
        r = request(f"top{top}", range(33), max_tokens=1, prompt_logprobs=top)
        before = bench.toy.computed
        bench.run([r])
        bench.check(r, 256)
        assert (bench.toy.computed - before == 33) == (top != 1)


def test_generated_tokens_are_cached_too() -> None:
    bench = Bench(SchedulerConfig(256), 2048)
    first = request("first", range(10), max_tokens=20, ignore_eos=True)
    bench.run([first])
    before = bench.toy.computed
    again = request("again", [*range(10), *continuation(range(10), 20)], max_tokens=3, ignore_eos=True)
    bench.run([again])
    bench.check(again, 256)
    # Of 30 tokens 28 lie in full blocks; two more steps follow the first token.
    assert bench.toy.computed - before == 2 + 2


def test_loglikelihood_takes_one_step_and_no_decoding() -> None:
    bench = Bench(SchedulerConfig(256), 2048)
    bench.run([request(str(i), range(i, i + 9), max_tokens=i % 2, prompt_logprobs=0) for i in range(8)])
    assert bench.scheduler.state().steps == 1


def test_max_tokens_zero_without_logprobs_needs_no_step() -> None:
    bench = Bench(SchedulerConfig(256), 2048)
    bench.run([request("a", range(9), max_tokens=0), request("b", [1], max_tokens=0, prompt_logprobs=1)])
    assert bench.scheduler.state().steps == 0
    assert bench.answer("b") == ([], (TokenLogprob(1),), "length")


def test_the_youngest_is_preempted_when_the_cache_is_full() -> None:
    bench = Bench(SchedulerConfig(60, max_sequences=4), 64)
    requests = [request(str(i), range(i, i + 10), max_tokens=40, ignore_eos=True) for i in range(4)]
    bench.run(requests)
    for r in requests:
        bench.check(r, 60)
    assert bench.toy.computed > 4 * 49, "nothing was computed again, so no sequence was preempted"


def test_arrival_order_is_kept() -> None:
    bench = Bench(SchedulerConfig(64, max_sequences=1), 64)
    bench.run([request(str(i), range(10), max_tokens=3) for i in range(5)])
    assert list(bench.events) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("when", range(0, 12, 3))
def test_dropping_frees_everything(when: int) -> None:
    bench = Bench(SchedulerConfig(64, max_sequences=2, prefill_chunk=8), 128)
    for i in range(4):
        bench.scheduler.add(request(str(i), range(20), max_tokens=8, ignore_eos=True))
    for _ in range(when):
        bench.step()
    for i in range(4):
        bench.scheduler.drop(str(i))
    assert bench.scheduler.idle
    assert bench.pool.num_free == bench.pool.num_usable
    after = request("after", range(20), max_tokens=4)
    bench.run([after])
    bench.check(after, 64)


def test_cache_smaller_than_a_context_is_refused() -> None:
    with pytest.raises(ValueError, match="a cache of 32 tokens is less than one context of 64"):
        Bench(SchedulerConfig(64), 32)


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.booleans(), st.sampled_from([1, 5, 16, 64]), st.sampled_from([2, 4, 8]))
def test_any_mix_gives_every_sequence_its_own_answer(
    seed: int, caching: bool, aligned: bool, chunk: int, block_size: int
) -> None:
    rng = random.Random(seed)
    context = 48
    limits = SchedulerConfig(context, max_sequences=rng.randint(1, 6), prefill_chunk=chunk, prefix_caching=caching)
    bench = Bench(replace(limits, aligned=aligned), rng.choice([48, 96, 400]), block_size)
    stems = [[rng.randrange(3) for _ in range(30)] for _ in range(2)]
    requests = [_any_request(rng, i, rng.choice(stems)) for i in range(rng.randint(1, 14))]
    dropped = set()
    for r in requests:
        bench.scheduler.add(r)
        for _ in range(rng.randint(0, 3)):
            bench.step()
        if rng.random() < 0.15:
            victim = rng.choice(requests[: int(r.id) + 1]).id
            bench.scheduler.drop(victim)
            dropped.add(victim)
    bench.run()
    for r in requests:
        if r.id not in dropped:
            bench.check(r, context)
    assert bench.pool.num_free == bench.pool.num_usable


def _any_request(rng: random.Random, name: int, stem: list[int]) -> GenerationRequest:
    prompt = [*stem[: rng.randint(1, 30)], *(rng.randrange(3) for _ in range(rng.randint(0, 6)))]
    return request(
        str(name),
        prompt,
        max_tokens=rng.choice([0, 1, 2, 10, 60]),
        prompt_logprobs=rng.choice([None, None, 0, 1, 3]),
        logprobs=rng.choice([None, 2]),
        ignore_eos=rng.random() < 0.5,
    )
