"""An engine that schedules by itself answers like the portable runtime; a plain one replaces megatron-core here."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.core.errors import UserError
from launcher.core.tokenizer import ByteTokenizer
from launcher.distributed.allocation import Allocation
from launcher.engines.base import GenerationRequest, TokenLogprob
from launcher.engines.megatron import Megatron
from launcher.engines.megatron.dynamic import RequestTracker
from launcher.engines.megatron.runtime import Runtime, check
from launcher.engines.runtime import flash
from launcher.engines.runtime.batching import BatchedAsyncEngine
from launcher.engines.runtime.sampling import SampleRequest, ScoreRequest, choose
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.engines.runtime.step import StepPlan
from launcher.settings.model import Dtype, Model, Parallelism
from tests.engines import deployments
from tests.engines.answers import answer, request, together
from tests.engines.megatron.test_executor import check_same, mixed_requests
from tests.engines.megatron.tiny_models import TINY
from tests.engines.paged_toy import PagedToy

LIMITS = SchedulerConfig(200, max_sequences=8)
VOCAB = ByteTokenizer.vocab_size


def logits_after(contexts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return logits that depend on every token before, [contexts, vocabulary and some padding]."""
    rows = []
    for context in contexts:
        seed = zlib.crc32(repr(list(context)).encode())
        rows.append(torch.randn(VOCAB + 12, generator=torch.Generator().manual_seed(seed)) * 3)
    return torch.stack(rows)


class Portable(PagedToy):
    """The same model behind our own scheduler, with a cache."""

    vocab_size = VOCAB

    def execute(
        self, plan: StepPlan, scores: Sequence[ScoreRequest], draws: Sequence[SampleRequest]
    ) -> list[TokenLogprob]:
        contexts = [c for chunk in plan.chunks for c in self._contexts(chunk)]
        return choose(logits_after([contexts[row] for row in plan.rows]), scores, draws, VOCAB)


class Foreign:
    """Schedules by itself, as megatron-core's engine does: whole prompts, then a token each; evicts now and then."""

    num_blocks, block_size, vocab_size = 51, 4, VOCAB
    kv_tokens = 200

    def __init__(self, tracker: RequestTracker, most: int = 8, evict_every: int = 7) -> None:
        self._tracker = tracker
        self._most, self._evict_every = most, evict_every
        self._queue: deque[int] = deque()
        self._tokens: dict[int, list[int]] = {}
        self._room: dict[int, int] = {}
        self._active: dict[int, int] = {}
        self.steps = 0
        tracker.attach(self)

    def add(self, number: int, prompt: Sequence[int], room: int) -> None:
        assert room >= 1
        self._queue.append(number)
        self._tokens[number], self._room[number] = list(prompt), len(prompt) + room

    def withdraw(self, number: int) -> bool:
        if number not in self._queue:
            return False
        self._queue.remove(number)
        return True

    def step(self) -> None:
        self.steps += 1
        while self._queue and len(self._active) < self._most:
            number = self._queue.popleft()
            self._active[number] = len(self._tokens[number])
        if not self._active:
            return
        numbers, lengths = list(self._active), list(self._active.values())
        contexts = [
            self._tokens[n][: len(self._tokens[n]) - w + i + 1] for n, w in self._active.items() for i in range(w)
        ]
        rows = self._tracker.rows(numbers, lengths)
        for number, token in zip(numbers, self._tracker.choose(logits_after([contexts[r] for r in rows])), strict=True):
            self._tokens[number].append(token)
            self._active[number] = 1
        full = {n for n in numbers if len(self._tokens[n]) >= self._room[n]}
        for number in full | self._tracker.take_finished(numbers):
            del self._active[number]
        if self._active and self.steps % self._evict_every == 0:
            evicted, _ = self._active.popitem()
            self._queue.appendleft(evicted)

    def unfinished(self) -> bool:
        return bool(self._active or self._queue)

    def waiting(self) -> int:
        return len(self._queue)

    def kv_tokens_used(self) -> int:
        return sum(len(self._tokens[n]) for n in self._active)

    def execute(self, *_: Any) -> list[TokenLogprob]:
        raise NotImplementedError

    def reference(self, tokens: Sequence[int]) -> list[float]:
        raise NotImplementedError

    def exact_reference(self, tokens: Sequence[int]) -> list[float]:
        raise NotImplementedError


@contextmanager
def foreign(**settings: int) -> Iterator[BatchedAsyncEngine]:
    tracker = RequestTracker(LIMITS, VOCAB, frozenset({7}))
    runner = BatchedAsyncEngine("toy", ByteTokenizer(), Foreign(tracker, **settings), LIMITS, {}, scheduler=tracker)
    try:
        yield runner
    finally:
        runner.close()


@contextmanager
def portable() -> Iterator[BatchedAsyncEngine]:
    runner = BatchedAsyncEngine("toy", ByteTokenizer(), Portable(401, 4), LIMITS, {})  # type: ignore[arg-type]
    try:
        yield runner
    finally:
        runner.close()


@pytest.mark.parametrize("settings", [{}, {"most": 1}, {"evict_every": 2}], ids=["many", "one", "evicted"])
async def test_the_same_answers_as_the_portable_runtime(settings: dict[str, int]) -> None:
    """Seeds, penalties, biases, alternatives and prompts' log-probabilities, in any batch of the engine."""
    requests = mixed_requests(20, seed=4)
    with portable() as ours, foreign(**settings) as theirs:
        check_same(requests, await together(ours, requests), await together(theirs, requests))
        state = theirs.state()
    assert state.running == state.queued == 0
    assert state.generated_tokens == sum(r.sampling.max_tokens for r in requests)


async def test_nothing_to_generate_and_contexts_that_are_full() -> None:
    requests = [
        request("scored", [1, 2, 3], max_tokens=0, prompt_logprobs=2),
        request("one token", [5], max_tokens=0, prompt_logprobs=0),
        request("full", [i % 250 for i in range(200)], max_tokens=5, logprobs=0),
        request("almost", [i % 250 for i in range(198)], max_tokens=5, logprobs=0),
    ]
    with portable() as ours, foreign() as theirs:
        check_same(requests[:2], await together(ours, requests[:2]), await together(theirs, requests[:2]))
        full, almost = await together(theirs, requests[2:])
    assert (len(full.ids), full.finish) == (1, "length")
    assert (len(almost.ids), almost.finish) == (2, "length")


async def test_a_sequence_ends_with_its_end_token_unless_it_is_to_be_ignored() -> None:
    bias = {7: 100.0}
    ends = request("ends", [1, 2], max_tokens=9, logit_bias=bias, ignore_eos=False)
    goes_on = request("goes on", [1, 2], max_tokens=9, logit_bias=bias)
    with foreign() as theirs:
        one, other = await together(theirs, [ends, goes_on])
    assert (one.ids, one.finish) == ([7], "stop")
    assert (other.ids, other.finish) == ([7] * 9, "length")


async def test_cancelled_requests_leave_the_others_alone() -> None:
    kept = request("kept", [1, 2, 3], max_tokens=60, temperature=1.0, seed=3)
    with foreign(most=2) as theirs:
        (alone,) = await together(theirs, [kept])

        async def give_up(r: GenerationRequest) -> None:
            events = theirs.generate(r)
            await anext(events)
            await events.aclose()  # type: ignore[attr-defined]

        leaving = [give_up(request(f"leaves {i}", [i], max_tokens=150)) for i in range(4)]
        found, *_ = await asyncio.gather(answer(theirs, kept), *leaving)
        async with asyncio.timeout(20):
            while theirs.state().running or theirs.state().queued:
                await asyncio.sleep(0.01)
    assert found.ids == alone.ids


@pytest.mark.parametrize(
    ("changes", "device", "dtype", "reason"),
    [
        ({}, "cpu", Dtype.bf16, "needs an NVIDIA GPU; this runs on CPU"),
        ({}, "cuda", Dtype.fp32, "needs bf16 or fp16; this runs in fp32"),
    ],
)
def test_where_it_cannot_run_it_is_refused_in_one_line(
    changes: dict[str, Any], device: str, dtype: Dtype, reason: str
) -> None:
    with pytest.raises(UserError, match=rf"engine\.runtime=mcore_dynamic: {reason}; engine\.runtime=portable"):
        check(replace(TINY, **changes), Parallelism(), dtype, device)


@pytest.mark.skipif(flash.installed(), reason="flash-attn is installed")
def test_it_needs_flash_attn() -> None:
    with pytest.raises(UserError, match="needs the package flash-attn, which is not installed"):
        check(TINY, Parallelism(), Dtype.bf16, "cuda")


def test_the_component_refuses_it_before_anything_is_loaded() -> None:
    host = Allocation(nodes=("localhost",), rank=0, world_size=1, cpus=2, gpus=0)
    model = Model(name="tiny", path="package:launcher/assets/tiny")
    with pytest.raises(UserError, match=r"engine\.runtime=mcore_dynamic: needs an NVIDIA GPU; this runs on CPU"):
        deployments.plan(Megatron(runtime=Runtime.mcore_dynamic), model, host)


@pytest.mark.slow
def test_megatron_cores_engine_gives_the_answers_of_the_portable_runtime() -> None:
    """The real engine, where only CUDA and flash-attn are replaced by plain functions; its cache is soon full."""
    command = [sys.executable, str(Path(__file__).with_name("mcore_on_cpu.py")), "llama", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("llama: as the portable runtime")
