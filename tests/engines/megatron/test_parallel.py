"""A model over several processes gives the answers of one, and dies cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.core.errors import EngineUnavailable, ServerError
from launcher.engines.base import GenerationRequest
from launcher.engines.megatron.distributed import leader_rank
from launcher.engines.megatron.worker_config import WorkerConfig
from launcher.engines.runtime.batching import BatchedAsyncEngine
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.settings.model import Parallelism
from tests.engines.answers import Answer, answer, one_by_one, request, together
from tests.engines.megatron.test_executor import TOLERANCE, check_logprobs, check_same, mixed_requests
from tests.engines.megatron.tiny_models import TINY, NamedWeights, batching, executing, running, worker_config

LAYOUTS = {
    "tensor2": Parallelism(tensor=2),
    "pipeline2": Parallelism(pipeline=2),
    "tensor2_pipeline2": Parallelism(tensor=2, pipeline=2),
}
LIMITS = SchedulerConfig(TINY.context_length, prefill_chunk=64)


def workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "launcher.engines.megatron.worker" in p.cmdline()]


@pytest.fixture(scope="module")
def requests() -> list[GenerationRequest]:
    """32 different requests; half share a prefix, so that blocks are shared."""
    made = mixed_requests(32, seed=5)
    return [replace(r, prompt=(*range(70), *r.prompt)) if i % 2 else r for i, r in enumerate(made)]


@pytest.fixture(scope="module")
def expected(requests: Sequence[GenerationRequest]) -> list[Answer]:
    with running(worker_config(), LIMITS) as alone:
        return asyncio.run(together(alone, requests))


@pytest.mark.parametrize(("layout", "leader"), [((1, 1), 0), ((2, 1), 0), ((1, 2), 1), ((2, 2), 2), ((2, 3), 4)])
def test_the_leader_is_the_first_rank_of_the_last_stage(layout: tuple[int, int], leader: int) -> None:
    assert leader_rank(Parallelism(*layout)) == leader


async def check_layout(
    config: WorkerConfig,
    requests: Sequence[GenerationRequest],
    expected: Sequence[Answer],
    tolerance: float = TOLERANCE,
) -> None:
    """Compare tokens with those of one process, and log-probabilities with a plain forward pass of these ranks."""
    with executing(config) as executor:
        assert [p.environ()["OMP_NUM_THREADS"] for p in workers()] == ["1"] * (config.parallelism.world_size - 1)
        for caching in (True, False):
            with batching(executor, replace(LIMITS, prefix_caching=caching)) as made:
                found = await together(made, requests)
                check_same(requests, expected, found)
                check_same(requests[:4], expected[:4], await one_by_one(made, requests[:4]))
                assert (made.state().prompt_tokens_cached > 0) == caching
                for r, a in zip(requests, found, strict=True):
                    check_logprobs(made, r, a, tolerance)
    assert workers() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
async def test_same_answers_as_one_process(
    name: str, requests: Sequence[GenerationRequest], expected: Sequence[Answer]
) -> None:
    await check_layout(worker_config(parallelism=LAYOUTS[name]), requests, expected)


@pytest.mark.slow
async def test_untied_embeddings_with_biases() -> None:
    architecture = replace(TINY, tied=False, bias=True, qkv_bias=True, qk_norm=True)
    some = mixed_requests(4, seed=6)
    with running(worker_config(architecture), LIMITS) as alone:
        one = await together(alone, some)
    with running(worker_config(architecture, Parallelism(tensor=2)), LIMITS) as made:
        check_same(some, one, await together(made, some))


EXPERTS = replace(TINY, num_experts=4, experts_per_token=2, expert_ffn_hidden_size=96)
OF_EXPERTS = 3e-4
"""Their fp32 rounding: 6e-5 in one process and 1e-4 over two on one CPU; in fp64 it is a thirtieth of that."""
EXPERT_LAYOUTS = {
    "slices": Parallelism(tensor=2),
    "whole experts": Parallelism(tensor=2, expert=2),
    "whole experts in stages": Parallelism(tensor=2, expert=2, pipeline=2),
}


@pytest.fixture(scope="module")
def expected_of_experts(requests: Sequence[GenerationRequest]) -> list[Answer]:
    with running(worker_config(EXPERTS), LIMITS) as alone:
        found = asyncio.run(together(alone, requests))
        check_logprobs(alone, requests[0], found[0])
        return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["slices", "whole experts", pytest.param("whole experts in stages", marks=pytest.mark.soak)]
)
async def test_experts_over_ranks(
    name: str, requests: Sequence[GenerationRequest], expected_of_experts: Sequence[Answer]
) -> None:
    await check_layout(worker_config(EXPERTS, EXPERT_LAYOUTS[name]), requests, expected_of_experts, OF_EXPERTS)


@pytest.mark.slow
async def test_experts_with_biases_and_raw_weights_over_ranks() -> None:
    architecture = replace(EXPERTS, bias=True, normalize_expert_weights=False, qkv_bias=True)
    some = mixed_requests(6, seed=7)
    with running(worker_config(architecture), LIMITS) as alone:
        one = await together(alone, some)
    with running(worker_config(architecture, Parallelism(tensor=2, expert=2)), LIMITS) as made:
        found = await together(made, some)
        check_same(some, one, found)
        check_logprobs(made, some[0], found[0])


async def generating(made: BatchedAsyncEngine) -> asyncio.Task[Answer]:
    """Start a long generation and return it once it has begun."""
    task = asyncio.create_task(answer(made, request("a", [1], max_tokens=200)))
    async with asyncio.timeout(60):
        while made.state().generated_tokens == 0:
            await asyncio.sleep(0.01)
    return task


@pytest.mark.slow
async def test_a_dead_rank_fails_requests_and_is_named() -> None:
    with running(worker_config(parallelism=Parallelism(pipeline=2))) as made:
        task = await generating(made)
        (victim,) = workers()
        victim.send_signal(signal.SIGKILL)
        with pytest.raises(EngineUnavailable, match=rf"rank 0 \(process {victim.pid}\) died"):
            await asyncio.wait_for(task, 60)
        assert f"process {victim.pid}" in str(made.state().error)
        with pytest.raises(EngineUnavailable):
            await answer(made, request("b", [1]))
    assert workers() == []


@pytest.mark.slow
@pytest.mark.parametrize("busy", [True, False], ids=["computing", "idle"])
async def test_a_rank_that_hangs_is_noticed(busy: bool) -> None:
    with running(worker_config(parallelism=Parallelism(tensor=2)), heartbeat_timeout_s=3) as made:
        task = await generating(made) if busy else None
        (victim,) = workers()
        victim.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(60):
            while made.state().error is None:
                await asyncio.sleep(0.05)
        assert made.state().error == f"rank 1 (process {victim.pid}) hangs: no heartbeat for 3 s"
        if task is not None:
            with pytest.raises(EngineUnavailable, match="hangs"):
                await asyncio.wait_for(task, 60)
    assert workers() == []


class Impatient(NamedWeights):
    """Weights that leave process groups with a timeout of two seconds."""

    def load_into(self, model: Any) -> None:
        import torch.distributed as dist
        from torch.distributed import distributed_c10d as c10d

        super().load_into(model)
        dist.barrier()
        for group in c10d._world.pg_map:
            c10d._set_pg_timeout(timedelta(seconds=2), group)


@pytest.mark.soak
async def test_idle_ranks_wait_in_no_collective() -> None:
    """And a collective does end at the timeout of its group: with a rank stopped, the leader's wait ends by itself."""
    config = replace(worker_config(parallelism=Parallelism(tensor=2)), weights=Impatient())
    with running(config, LIMITS, heartbeat_timeout_s=600) as made:
        (other,) = workers()
        await asyncio.sleep(5)  # more than twice what a collective would have waited
        assert other.is_running()
        assert made.state().error is None
        task = await generating(made)
        other.suspend()
        with pytest.raises(EngineUnavailable, match=r"[Tt]imed? ?out"):
            await asyncio.wait_for(task, 60)
    assert workers() == []


@pytest.mark.slow
async def test_a_rank_that_dies_while_all_are_idle_is_noticed() -> None:
    with running(worker_config(parallelism=Parallelism(pipeline=2))) as made:
        (victim,) = workers()
        victim.send_signal(signal.SIGKILL)
        async with asyncio.timeout(20):
            while made.state().error is None:
                await asyncio.sleep(0.05)
        assert f"rank 0 (process {victim.pid}) died" in str(made.state().error)


class Unloadable:
    """Weights that only the leader can load."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def load_into(self, model: Any) -> None:
        if os.getpid() != self.pid:
            raise FileNotFoundError("no weights on this host")
        import torch.distributed as dist

        dist.barrier()


@pytest.mark.slow
def test_a_rank_that_cannot_load_stops_the_start() -> None:
    config = replace(worker_config(parallelism=Parallelism(tensor=2)), weights=Unloadable())
    with pytest.raises((ServerError, RuntimeError), match=r"no weights on this host|onnection"), running(config):
        pass
    assert workers() == []


@pytest.mark.slow
def test_ranks_die_with_a_leader_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "leader.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parents[3])!r})
        from tests.engines.megatron.tiny_models import Parallelism, worker_config, running
        with running(worker_config(parallelism=Parallelism(tensor=2))):
            print("ready", flush=True)
            time.sleep(600)
        """)
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None
        assert leader.stdout.readline() == "ready\n"
        ranks = psutil.Process(leader.pid).children()
        assert len(ranks) == 1
        leader.kill()
        gone, alive = psutil.wait_procs(ranks, timeout=20)
    assert gone
    assert not alive
