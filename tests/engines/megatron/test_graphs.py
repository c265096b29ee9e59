"""Captured decode steps give the answers of plain ones; here they are captured and replayed on the CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from launcher.engines.base import GenerationRequest
from launcher.engines.megatron.layout import obstacles
from launcher.engines.megatron.worker_config import WorkerConfig
from launcher.engines.runtime.buckets import Buckets
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.settings.model import Parallelism
from tests.engines.answers import Answer, together
from tests.engines.megatron.tape import Tape
from tests.engines.megatron.test_executor import ARCHITECTURES, check_logprobs, check_same, mixed_requests
from tests.engines.megatron.test_parallel import EXPERTS
from tests.engines.megatron.tiny_models import TINY, running, worker_config

SEVERAL = Buckets([1, 3, 8, 12], [2, 5, 16], 12 * 12)
"""Sizes that do not divide one another; twelve sequences of a whole context are more than it records."""


def recorded(config: WorkerConfig, buckets: Buckets = SEVERAL) -> WorkerConfig:
    return replace(config, graphs=buckets)


@pytest.fixture(scope="module")
def requests() -> list[GenerationRequest]:
    return mixed_requests(12, seed=5)


@pytest.fixture(scope="module")
def expected(requests: Sequence[GenerationRequest]) -> list[Answer]:
    with running(worker_config()) as plain:
        return asyncio.run(together(plain, requests))


async def test_padded_steps_change_no_token_and_no_logprob(
    requests: Sequence[GenerationRequest], expected: Sequence[Answer]
) -> None:
    with running(recorded(worker_config())) as made:
        found = await together(made, requests)
        check_same(requests, expected, found)
        for r, one in zip(requests, found, strict=True):
            check_logprobs(made, r, one)
        facts = made.describe()["cuda_graphs"]
        steps = made.state().steps
    assert facts["sequences"] == [1, 3, 8, 12]
    assert facts["tokens_per_sequence"] == [32, 80, 256]
    assert facts["graphs"] == 11
    assert facts["replays"] > 10
    assert facts["replays"] + facts["other_steps"] == steps


async def test_padding_changes_no_block_of_a_sequence() -> None:
    """A lone sequence in a bucket of three: the padding's writes must not reach its blocks, nor the shared ones."""
    (first, second) = (replace(r, id=n, prompt=tuple(range(64))) for r, n in zip(mixed_requests(2), "ab", strict=True))
    with running(worker_config()) as plain:
        alone = [(await together(plain, [r]))[0] for r in (first, second, first)]
    with running(recorded(worker_config(), Buckets([3], [16], 48))) as made:
        found = [(await together(made, [r]))[0] for r in (first, second, first)]
        assert made.state().prompt_tokens_cached > 0
        assert made.describe()["cuda_graphs"]["replays"] > 0
    check_same([first, second, first], alone, found)


async def test_a_step_that_is_larger_than_all_sizes_is_computed_as_it_is(
    requests: Sequence[GenerationRequest], expected: Sequence[Answer]
) -> None:
    with running(recorded(worker_config(), Buckets([1, 2], [4], 8))) as made:
        check_same(requests, expected, await together(made, requests))


async def test_prompts_of_which_one_token_is_computed_at_a_time(
    requests: Sequence[GenerationRequest], expected: Sequence[Answer]
) -> None:
    """Chunks of one token that draw nothing, or are scored, fit the recorded steps too."""
    with running(recorded(worker_config()), SchedulerConfig(TINY.context_length, prefill_chunk=1)) as made:
        check_same(requests[:4], expected[:4], await together(made, requests[:4]))


async def test_preempted_sequences(requests: Sequence[GenerationRequest]) -> None:
    short = [replace(r, prompt=r.prompt[:20]) for r in requests]
    with running(worker_config()) as plain, running(recorded(worker_config(tokens=256))) as tight:
        check_same(short, await together(plain, short), await together(tight, short))


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if not ARCHITECTURES[n].num_experts])
async def test_every_architecture_without_experts(name: str, requests: Sequence[GenerationRequest]) -> None:
    with running(recorded(worker_config(ARCHITECTURES[name])), SchedulerConfig(256, prefill_chunk=50)) as made:
        for r, found in zip(requests[:6], await together(made, requests[:6]), strict=True):
            check_logprobs(made, r, found)
        assert made.describe()["cuda_graphs"]["replays"] > 0


@pytest.mark.soak
async def test_stages_of_several_ranks(requests: Sequence[GenerationRequest], expected: Sequence[Answer]) -> None:
    layout = Parallelism(tensor=2, pipeline=2)
    with running(recorded(worker_config(parallelism=layout))) as made:
        check_same(requests[:4], expected[:4], await together(made, requests[:4]))
        assert made.describe()["cuda_graphs"]["replays"] > 0


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "sliding_window"])
async def test_a_captured_step_reads_only_its_buffers(name: str, requests: Sequence[GenerationRequest]) -> None:
    """The operations of one run are replayed without the code: nothing may depend on the inputs at capture."""
    tape = Tape()
    architecture = ARCHITECTURES[name]
    with running(worker_config(architecture), prepare=lambda stage: stage.capture_graphs(SEVERAL, tape)) as made:
        for r, found in zip(requests, await together(made, requests), strict=True):
            check_logprobs(made, r, found)
        assert tape.played == made.describe()["cuda_graphs"]["replays"] > 10


def test_a_step_that_waits_for_the_host_cannot_be_captured() -> None:
    """Experts are chosen on the host; this is why they are an obstacle."""
    with (
        pytest.raises(AssertionError, match="waits for the host"),
        running(worker_config(EXPERTS), prepare=lambda stage: stage.capture_graphs(SEVERAL, Tape())),
    ):
        pass


def test_experts_are_an_obstacle_with_a_reason() -> None:
    assert "mixture of experts" in obstacles(EXPERTS)["cuda_graphs"]
    assert obstacles(TINY) == {}
