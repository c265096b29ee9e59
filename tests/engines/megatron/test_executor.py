"""Exactness of the paged, batched model against a plain forward pass, on tiny models of every architecture."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from launcher.checkpoints.base import Architecture
from launcher.engines.base import AsyncEngine, GenerationRequest
from launcher.engines.runtime import linear
from launcher.engines.runtime.batching import BatchedAsyncEngine
from launcher.engines.runtime.scheduler import SchedulerConfig
from tests.engines.answers import Answer, one_by_one, request, together
from tests.engines.megatron.tiny_models import TINY, running, worker_config

TOLERANCE = 1e-4

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

ARCHITECTURES = {
    "llama": TINY,
    "one_key_head": replace(TINY, num_query_groups=1),
    "as_many_key_heads": replace(TINY, num_query_groups=4, tied=False),
    "llama3_scaling": replace(TINY, rope_scaling=LLAMA3),
    "linear_scaling": replace(TINY, rope_scaling={"type": "linear", "factor": 2.0}),
    "interleaved": replace(TINY, rotary_interleaved=True),
    "gpt_neox": replace(
        TINY,
        normalization="LayerNorm",
        gated=False,
        activation="gelu",
        bias=True,
        qkv_bias=True,
        rotary_percent=0.25,
        parallel_residual=True,
        tied=False,
    ),
    "nemotron": replace(
        TINY,
        normalization="LayerNorm",
        zero_centered_gamma=True,
        gated=False,
        activation="squared_relu",
        rotary_percent=0.5,
    ),
    "qwen3": replace(TINY, qk_norm=True, norm_epsilon=1e-6),
    "gpt2": replace(
        TINY, position="learned_absolute", normalization="LayerNorm", gated=False, activation="gelu_tanh", bias=True
    ),
    "no_positions": replace(TINY, position="none", activation="relu"),
    "sliding_window": replace(TINY, sliding_window=24),
    "mixtral": replace(TINY, num_experts=4, experts_per_token=2, expert_ffn_hidden_size=96),
    "qwen_moe": replace(TINY, num_experts=4, experts_per_token=2, normalize_expert_weights=False, qkv_bias=True),
}


@pytest.fixture(scope="module")
def runner() -> Iterator[BatchedAsyncEngine]:
    with running(worker_config()) as made:
        yield made


def mixed_requests(count: int, seed: int = 0) -> list[GenerationRequest]:
    """Requests with different parameters."""
    rng = random.Random(seed)
    return [
        request(
            str(i),
            [rng.randrange(256) for _ in range(rng.randint(1, 120))],
            max_tokens=rng.randint(1, 40),
            temperature=rng.choice([0.0, 0.0, 0.7, 1.3]),
            top_p=rng.choice([1.0, 0.9]),
            top_k=rng.choice([0, 20]),
            seed=i,
            presence_penalty=rng.choice([0.0, 0.5]),
            logit_bias=rng.choice([{}, {65: 3.0}]),
            logprobs=rng.choice([0, 3]),
            prompt_logprobs=rng.choice([None, 0, 2]),
        )
        for i in range(count)
    ]


def check_logprobs(runner: AsyncEngine, r: GenerationRequest, found: Answer, tolerance: float = TOLERANCE) -> None:
    """Compare every log-probability of an answer with a plain forward pass over prompt and answer."""
    expected = runner.reference([*r.prompt, *found.ids])
    for i, t in enumerate(found.tokens):
        assert t.logprob == pytest.approx(expected[len(r.prompt) - 1 + i], abs=tolerance)
    if r.sampling.prompt_logprobs is not None:
        assert found.prompt is not None
        assert [t.token for t in found.prompt] == list(r.prompt)
        assert [t.logprob for t in found.prompt[1:]] == pytest.approx(expected[: len(r.prompt) - 1], abs=tolerance)


def check_same(requests: Sequence[GenerationRequest], some: Sequence[Answer], others: Sequence[Answer]) -> None:
    for r, a, b in zip(requests, some, others, strict=True):
        assert a.ids == b.ids, r
        assert a.finish == b.finish
        for x, y in zip([*a.tokens, *(a.prompt or ())], [*b.tokens, *(b.prompt or ())], strict=True):
            assert x.logprob == pytest.approx(y.logprob, abs=TOLERANCE)
            assert [t for t, _ in x.top] == [t for t, _ in y.top] or x.top == pytest.approx(y.top, abs=TOLERANCE)


async def test_alone_and_in_a_mixed_batch_of_32(runner: BatchedAsyncEngine) -> None:
    requests = mixed_requests(32)
    with running(worker_config()) as other:
        alone = await one_by_one(other, requests)
    mixed = await together(runner, requests)
    check_same(requests, alone, mixed)
    for r, found in zip(requests, mixed, strict=True):
        assert len(found.ids) == r.sampling.max_tokens
        check_logprobs(runner, r, found)


async def test_with_and_without_prefix_caching(runner: BatchedAsyncEngine) -> None:
    stem = list(range(100))
    requests = [replace(r, prompt=(*stem, *r.prompt)) for r in mixed_requests(12, seed=1)]
    with running(worker_config(), SchedulerConfig(TINY.context_length, prefix_caching=False)) as plain:
        expected = await together(plain, requests)
        assert plain.state().prompt_tokens_cached == 0
    found = await together(runner, requests)
    again = await together(runner, requests)
    assert runner.state().prompt_tokens_cached > 20 * 90
    check_same(requests, expected, found)
    check_same(requests, expected, again)


async def test_packed_weights_give_the_same_answers(
    runner: BatchedAsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "FAST", torch._C._has_mkldnn)
    monkeypatch.setattr(linear, "LEAST_PACKED", 0)
    requests = mixed_requests(8, seed=5)
    with running(worker_config()) as packed:
        found = await together(packed, requests)
        exact = packed.exact_reference(range(50))
    check_same(requests, await together(runner, requests), found)
    assert exact == pytest.approx(runner.exact_reference(range(50)), abs=1e-9)


@pytest.mark.parametrize("chunk", [1, 7, 64])
async def test_prefill_in_chunks(chunk: int) -> None:
    requests = mixed_requests(8, seed=2)
    with (
        running(worker_config()) as whole,
        running(worker_config(), SchedulerConfig(256, prefill_chunk=chunk)) as parts,
    ):
        check_same(requests, await together(whole, requests), await together(parts, requests))


async def test_preemption_changes_nothing() -> None:
    requests = [replace(r, prompt=r.prompt[:20]) for r in mixed_requests(12, seed=3)]
    with running(worker_config()) as roomy, running(worker_config(tokens=256)) as tight:
        expected, found = await together(roomy, requests), await together(tight, requests)
        assert tight.state().kv_tokens_used == 0
    check_same(requests, expected, found)


@pytest.mark.parametrize("name", ARCHITECTURES)
async def test_every_architecture(name: str) -> None:
    architecture: Architecture = ARCHITECTURES[name]
    requests = mixed_requests(10, seed=4)
    with running(worker_config(architecture), SchedulerConfig(256, prefill_chunk=50)) as made:
        for r, found in zip(requests, await together(made, requests), strict=True):
            check_logprobs(made, r, found)


async def test_a_whole_context(runner: BatchedAsyncEngine) -> None:
    r = request("long", [i % 256 for i in range(250)], max_tokens=50, logprobs=0)
    (found,) = await together(runner, [r])
    assert len(found.ids) == 6
    assert found.finish == "length"
    check_logprobs(runner, r, found)


async def test_loglikelihoods_that_wait_together_are_one_step() -> None:
    requests = [request(str(i), [i, 2, 3, 4], max_tokens=i % 2, logprobs=0, prompt_logprobs=1) for i in range(16)]
    with running(worker_config()) as made:
        released = threading.Event()
        held = made._driver.call(lambda: released.wait(60))  # the engine's thread waits, so that all are queued
        answers = asyncio.create_task(together(made, requests))
        async with asyncio.timeout(60):
            while made.state().queued < len(requests):
                await asyncio.sleep(0.01)
        released.set()
        for r, found in zip(requests, await answers, strict=True):
            assert len(found.ids) == r.sampling.max_tokens
            check_logprobs(made, r, found)
        assert held.result()
        assert made.state().steps == 1


def test_every_thread_of_the_engine_uses_its_configured_threads() -> None:
    import torch

    for threads in (2, 1):
        with running(replace(worker_config(), threads=threads)) as made:
            assert made._driver.call(torch.get_num_threads).result() == threads


def test_bfloat16_keys_and_logprobs_stay_close() -> None:
    from launcher.settings.model import Dtype

    with running(replace(worker_config(), dtype=Dtype.bf16)) as made, running(worker_config()) as exact:
        tokens = list(b"the quick brown fox")
        assert made.reference(tokens) == pytest.approx(exact.reference(tokens), abs=0.5)
